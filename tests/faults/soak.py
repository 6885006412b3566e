"""`make soak`: many jobs and calls, and whether memory, descriptors and files are where they were before.

What ended is removed by retention meanwhile, so that nothing has a reason to grow: `python -m tests.faults.soak -h`.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.e2e.functions import Callers, deploy, deploy_export, speaker
from tests.e2e.harness import EXPORTS, HELLO, Worker, running, scratch, wait_for, wasm
from tests.faults.load import Jobs

# Few, so that the files are as many as they'll ever be before the first part is over.
KEPT_TASKS = 200
OPTIONS = ("--retention-tasks", str(KEPT_TASKS), "--max-runners", "8")
ROLES = ("launcher", "coordinator", "zygote", "master", "api")
RUNNER_FDS = 3  # control, status, pidfd
SAMPLE_S = 0.5
LONGEST_S = 3600
# How much more of it a role may have at the end than after the first part: what pymalloc and SQLite hold differs by
# the moment. A leak of 1 KiB for each job or 100 bytes for each call is ten times as much in the long form.
MEMORY_GRACE = 1.10
MEMORY_GRACE_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment: bytes (USS) and descriptors by role, files below the data directory, jobs and calls so far.

    The coordinator's descriptors are those beyond its runners', of which one more or less may be warm.
    """

    at_s: float
    jobs: int
    calls: int
    uss_bytes: dict[str, int]
    fds: dict[str, int]
    files: int
    runners: int


@dataclass(frozen=True, slots=True)
class Result:
    samples: list[Sample]
    broken: list[str]  # what wasn't answered as it should, or not accepted
    idle: tuple[Sample, Sample]  # without load: after the first part, and at the end

    def grown(self) -> dict[str, tuple[int, int]]:
        """What is more at the end than after the first part, by name: (before, after)."""
        before, after = self.idle
        found = {"files": (before.files, after.files)} if after.files > before.files else {}
        for role, count in after.fds.items():
            if count > before.fds[role]:
                found[f"descriptors of {role}"] = before.fds[role], count
        for role, size in after.uss_bytes.items():
            if size > before.uss_bytes[role] * MEMORY_GRACE + MEMORY_GRACE_BYTES:
                found[f"bytes of {role}"] = before.uss_bytes[role], size
        return found


class Watch:
    """Takes samples of a worker, every SAMPLE_S while the block of `watching` runs."""

    def __init__(self, worker: Worker) -> None:
        self.samples: list[Sample] = []
        self.jobs = self.calls = 0
        self._worker = worker
        self._began_s = time.monotonic()

    def sample(self) -> Sample:
        uss_bytes: dict[str, int] = defaultdict(int)
        fds: dict[str, int] = defaultdict(int)
        for role in ROLES:
            for process in self._worker.role(role):
                with suppress(psutil.NoSuchProcess):
                    uss_bytes[role] += process.memory_full_info().uss
                    fds[role] += process.num_fds()
        files = sum(1 for path in self._worker.data_dir.rglob("*") if path.is_file())
        runners = len(self._worker.role("fork"))
        fds["coordinator"] -= RUNNER_FDS * runners
        at_s = time.monotonic() - self._began_s
        return Sample(at_s, self.jobs, self.calls, dict(uss_bytes), dict(fds), files, runners)

    @contextmanager
    def watching(self, jobs: Jobs, callers: list[Callers]) -> Iterator[None]:
        ended = threading.Event()
        before = self.jobs, self.calls

        def watch() -> None:
            while not ended.wait(SAMPLE_S):
                self.jobs = before[0] + jobs.answered()
                self.calls = before[1] + sum(each.answered() for each in callers)
                with suppress(OSError):  # a file that went meanwhile
                    self.samples.append(self.sample())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.jobs = before[0] + jobs.answered()
            self.calls = before[1] + sum(each.answered() for each in callers)


def soak(worker: Worker, jobs: int, calls: int) -> Result:
    """So many of both, in two parts: the first is a quarter, after which nothing grows any more."""
    digests = {name: worker.upload(wasm(text)) for name, text in {"hello": HELLO, "exports": EXPORTS}.items()}
    scale = {"min": 1, "max": 2}
    deploy(worker, "talk", "r1", speaker("hello"), scale=scale)
    deploy_export(worker, "count", "count", scale=scale)
    watch = Watch(worker)
    broken: list[str] = []
    idle = []
    for name, part in (("first", 0.25), ("rest", 0.75)):
        broken += load(worker, watch, Part(name, round(jobs * part), round(calls * part), digests))
        await_rest(worker)
        idle.append(watch.sample())
    return Result(watch.samples, broken, (idle[0], idle[1]))


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    jobs: int
    calls: int
    digests: dict[str, str]

    def job(self, post: str) -> dict[str, Any]:
        """Every other one has a process of its own."""
        if int(post[-1]) % 2:
            return {"module": {"digest": self.digests["hello"]}}
        entry = {"export": "add", "params": [19, 23]}
        return {"module": {"digest": self.digests["exports"]}, "entry": entry, "isolation": "instance"}


def load(worker: Worker, watch: Watch, part: Part) -> list[str]:
    """Jobs and calls of both kinds, until there were as many as asked for: what went wrong."""
    jobs = Jobs(worker, 4, part.job, part.name, wait_s=30)
    wagi, export = callers = [Callers(worker, path, 3) for path in ("/functions/talk", "/functions/count")]

    def done() -> bool:
        return jobs.answered() >= part.jobs and wagi.answered() + export.answered() >= part.calls

    with watch.watching(jobs, callers), jobs, wagi, export:
        wait_for(done, f"{part.jobs} jobs and {part.calls} calls", within_s=LONGEST_S)
    wrong = [answer for answer in wagi.answers if answer != (200, b"hello")]
    wrong += [answer for answer in export.answers if answer != (200, b'{"result":[1]}')]
    return [*map(str, wrong), *wagi.broken, *export.broken, *map(str, jobs.refused.values()), *jobs.untold]


def await_rest(worker: Worker) -> None:
    """All has ended, and what isn't kept is gone."""

    def rests() -> bool:
        tasks = worker.http.get("/stats").json()["tasks"]
        ended = tasks["completed"] + tasks["failed"]
        return ended <= KEPT_TASKS and tasks["pending"] + tasks["scheduled"] == 0

    wait_for(rests, "retention is done", within_s=600)
    assert [] == worker.audit_settled()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    with scratch() as place, running(place / "data", *OPTIONS) as worker:
        result = soak(worker, options.jobs, options.calls)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(sample) for sample in (*result.samples, *result.idle)]))
    for when, sample in zip(("after a quarter", "at the end"), result.idle, strict=True):
        sys.stdout.write(f"{when}: {json.dumps(asdict(sample))}\n")
    middle = median(sample.uss_bytes.get("coordinator", 0) for sample in result.samples)
    sys.stdout.write(f"coordinator under load, median: {middle / 2**20:.1f} MiB\n")
    sys.stdout.write(f"grown: {result.grown() or 'nothing'}; broken: {result.broken[:10] or 'nothing'}\n")
    return 1 if result.grown() or result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
