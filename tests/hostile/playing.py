"""What the tests of hostile runners share: a worker that plays, one play, and what has to be true after each."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.harness import HELLO, Worker, fields, running, scratch, strays, wait_for, wasm
from tests.hostile.played_worker import PLAYED

PLAY, PLAY_EARLY = "--play", "--play-early"
# Every task that is played: short enough to wait for its hard deadline, too long to meet it by chance.
LIMITS = {"wall_ms": 10_000}


class Playing:
    """A worker in whose runners native code is played, and how it stood before."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.hello = worker.upload(wasm(HELLO))
        worker.run(self.hello)
        self.coordinator, self.zygote = worker.one("coordinator"), worker.one("zygote")
        self.await_nothing_left()
        self._fds = self._coordinators_fds()

    def play(self, source: str, *, early: bool = False, **task: Any) -> dict[str, Any]:
        """The end of a job that plays `source`; `early`: before its runner says STARTED."""
        args = [PLAY_EARLY if early else PLAY, source]
        return self.worker.run(self.hello, args=args, **{"limits": LIMITS, **task})

    def start(self, source: str, **task: Any) -> str:
        """The id of a job that plays `source`, which isn't waited for."""
        return self.worker.start_task(self.hello, args=[PLAY, source], **{"limits": LIMITS, **task})

    def await_ordinary(self) -> None:
        """The same processes are there, nothing is left of a runner, and an ordinary job completes."""
        done = self.worker.run(self.hello)
        assert ("completed", "exit") == fields(done, "state", "reason"), done
        assert b"hello world\n" == self.worker.stdout(done["id"])
        assert (self.coordinator, self.zygote) == (self.worker.one("coordinator"), self.worker.one("zygote"))
        self.await_nothing_left()
        wait_for(lambda: self._coordinators_fds() <= self._fds, "the coordinator has let go of the runner")

    def await_nothing_left(self) -> None:
        wait_for(lambda: not self.worker.role("fork"), "all runners are gone")

    def rss_bytes(self) -> int:
        resident: int = self.coordinator.memory_info().rss
        return resident

    def _coordinators_fds(self) -> int:
        """Pipes and pidfds that the coordinator holds: each child has one of both. Root alone may look."""
        directory = f"/proc/{self.coordinator.pid}/fd"
        kinds = []
        if os.geteuid() == 0:
            for fd in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError):
                    kinds.append(os.readlink(f"{directory}/{fd}").partition(":")[0])
        return kinds.count("pipe") + kinds.count("anon_inode")


@contextlib.contextmanager
def playing(*options: str, volume: bool = False) -> Iterator[Playing]:
    """One for a file of cases, each of which has `await_ordinary` behind it; with `volume` one of the name `v`.

    What belongs to the worker and isn't in its tree is looked for at the end: that reads every process there is.
    """
    with scratch() as place:
        more = ("--volume", f"v={volume_below(place)}") if volume else ()
        with running(place / "data", *options, *more, python=(sys.executable, PLAYED)) as worker:
            yield Playing(worker)
            assert [] == strays(worker)


def volume_below(place: Path) -> Path:
    """A directory that every user may write to, for `--volume`."""
    path = place / "volume"
    path.mkdir()
    path.chmod(0o777)
    return path
