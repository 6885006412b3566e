"""`galago-worker serve` with the coordinator and the application of these tests in the place of the real ones."""

from __future__ import annotations

import os
import sys

from worker import datadir, logs
from worker.cli.options import parse
from worker.config import Config
from worker.errors import WorkerError
from worker.launcher import Launcher, Programs
from worker.spawn import python, python_env


def main() -> int:
    def load() -> Config:
        return Config.resolve(parse(sys.argv[1:]), os.environ)

    passed = {name: value for name, value in os.environ.items() if name.startswith(("FAKE_", "STUB_"))}
    programs = Programs(
        coordinator=python("tests.process.fake_coordinator"),
        api=python("tests.process.stub_api"),
        env={**python_env(), **passed},
    )
    patience_s = float(os.environ.get("FAKE_LOCK_PATIENCE_S", datadir.LOCK_PATIENCE_S))
    datadir.lock.__defaults__ = (patience_s,)
    try:
        config = load()
        logs.configure(config)
        return Launcher(config, load, os.environ, programs).run()
    except WorkerError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
