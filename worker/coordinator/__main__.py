"""`python -m worker.coordinator`: started by the launcher alone, with what it needs as descriptors (worker.spawn)."""

from __future__ import annotations

import logging
import os
import sys
import threading

from worker import capabilities
from worker.config import Config
from worker.coordinator.build import Inherited, build
from worker.errors import ExitCode, WorkerError
from worker.logs import configure
from worker.prctl import set_undumpable
from worker.spawn import child_fds

_log = logging.getLogger("worker.coordinator")


def main() -> int:
    """The exit code of the process."""
    fds = child_fds(os.environ)
    config = Config.from_fd(fds["config"])
    configure(config)
    capabilities.settle_coordinator()
    threading.excepthook = end_with_thread
    # The MAC key and the tokens' hashes are in here: no core dump, no ptrace by another process of `--user`.
    set_undumpable()
    try:
        with build(config, Inherited(**{name: fds[name] for name in ("config", "page", "commands", "beat")})) as loop:
            loop.run()
    except WorkerError as error:
        _log.critical("%s", error)
        return error.exit_code
    return ExitCode.OK


def end_with_thread(death: threading.ExceptHookArgs) -> None:
    """A thread that has died leaves all waiting who count on it: the process ends, and the next one has all threads."""
    name = death.thread.name if death.thread is not None else "?"
    error = death.exc_value
    _log.critical("the thread %s died: %r", name, error, exc_info=error)
    os._exit(ExitCode.INTERNAL)


if __name__ == "__main__":
    sys.exit(main())
