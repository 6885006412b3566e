"""A coordinator in outline: it beats, drains, rereads its configuration, and has one child, as the real one.

What it does otherwise is said by FAKE_* in its environment; what it saw it writes to run/fake.json.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from pathlib import Path

from tests.lasting import lasting_argv, outlast
from worker import capabilities
from worker.capabilities import ZYGOTE
from worker.config import Config
from worker.heartbeat import Heartbeat
from worker.shared.page import PageWriter
from worker.spawn import Program, child_fds, python_env, spawn


def main() -> None:
    capabilities.settle_coordinator()
    fds = child_fds(os.environ)
    config = Config.from_fd(fds["config"])
    run = Path(config.data_dir) / "run"
    _count_start(run)
    if os.environ.get("FAKE_FAIL") == "boot":
        sys.exit(7)
    if os.environ.get("FAKE_FAIL") == "mute":
        outlast(int(os.environ["FAKE_TESTER"]))
    heartbeat = Heartbeat(fds["beat"])
    page = PageWriter(fds["page"])
    wake, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(theirs)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    sleeper = Program(
        lasting_argv(int(os.environ["FAKE_TESTER"])),
        env={**python_env(), "FAKE_MARK": os.environ["FAKE_MARK"]},
        capabilities=frozenset(ZYGOTE),
    )
    spawn(sleeper)
    _report(run, config, fds)
    page.set_ready(True)
    heartbeat.ready()
    _loop(wake, heartbeat, page, run, fds)


def _loop(wake: int, heartbeat: Heartbeat, page: PageWriter, run: Path, fds: dict[str, int]) -> None:
    selector = selectors.DefaultSelector()
    selector.register(wake, selectors.EVENT_READ)
    terms = 0
    drained_at = 0.0
    while True:
        heartbeat.beat()
        for number in os.read(wake, 64) if selector.select(0.05) else b"":
            if number == signal.SIGHUP:
                _report(run, Config.from_fd(fds["config"]), fds)
            elif number == signal.SIGTERM:
                terms += 1
                page.set_draining(True)
                drained_at = time.monotonic() + float(os.environ.get("FAKE_WORK_S", "0"))
        if terms == 1 and time.monotonic() >= drained_at:
            heartbeat.drained()
        if terms > 1:
            os._exit(0)


def _count_start(run: Path) -> None:
    with (run / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")


def _report(run: Path, config: Config, fds: dict[str, int]) -> None:
    sets = capabilities.read()
    report = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "effective": sets.effective,
        "permitted": sets.permitted,
        "fds": sorted(fds),
        "env": sorted(os.environ),
        "max_connections": config.max_connections,
        "max_runners": config.max_runners,
        "runner_uid_first": config.runner_uid_first,
        "bind": config.bind,
        "open_fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    }
    temporary = run / "fake.json.new"
    temporary.write_text(json.dumps(report))
    temporary.rename(run / "fake.json")


if __name__ == "__main__":
    main()
