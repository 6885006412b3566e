"""Random bytes: no two guests ever get the same, though all their processes are copies of one zygote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Worker, pid_of, running, scratch, wait_for, wasm

JOBS, RUNNERS, AT_ONCE = 50, 4, 4
BYTES = 64

# Two draws of 32 bytes, to stdout.
DRAW = """(module
 (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (func (export "_start")
  (if (call $random_get (i32.const 1024) (i32.const 32)) (then unreachable))
  (if (call $random_get (i32.const 1056) (i32.const 32)) (then unreachable))
  (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 64))
  (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with scratch() as path:
        (path / "volume").mkdir(mode=0o755)
        yield path


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data", "--max-runners", str(RUNNERS), "--volume", f"v={place / 'volume'}") as worker:
        yield worker


def draws(worker: Worker, jobs: int, **task: Any) -> tuple[list[bytes], set[int]]:
    """Every 32 bytes that these jobs were given, and the pids that they ran in."""
    digest = worker.upload(wasm(DRAW))

    def one(_: int) -> dict[str, Any]:
        with worker.client() as client:
            body = {"kind": "job", "module": {"digest": digest}, **task}
            ended: dict[str, Any] = client.post("/tasks", json=body, headers={"prefer": "wait=60"}).json()
            return ended

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(one, range(jobs)))
    assert ["exit"] * jobs == [task["reason"] for task in ended]
    outputs = [worker.stdout(task["id"]) for task in ended]
    assert {BYTES} == {len(output) for output in outputs}
    halves = [output[at : at + 32] for output in outputs for at in (0, 32)]
    return halves, {pid_of(task) for task in ended}


def assert_unlike(halves: list[bytes]) -> None:
    """No two alike, and no byte of one at its place in all: half of a draw may be no constant either."""
    assert len(halves) == len(set(halves))
    assert [] == [at for at in range(32) if len({half[at] for half in halves}) == 1]


def test_fifty_runners_draw_unlike_bytes(worker: Worker) -> None:
    halves, pids = draws(worker, JOBS)
    assert JOBS == len(pids)
    assert_unlike(halves)


def test_jobs_that_share_warm_runners_draw_unlike_bytes(worker: Worker) -> None:
    halves, pids = draws(worker, JOBS, isolation="instance")
    assert len(pids) < JOBS
    assert_unlike(halves)


@pytest.mark.root
def test_the_engines_wasi_draws_unlike_bytes_too(worker: Worker) -> None:
    """It serves guests with mounts, and keeps a generator in each process: seeded in the child, never in the zygote."""
    halves, pids = draws(worker, 12, mounts=[{"volume": "v", "guest": "/v"}])
    assert 12 == len(pids)
    assert_unlike(halves)


def test_the_runners_of_two_zygotes_draw_unlike_bytes(worker: Worker) -> None:
    before, _ = draws(worker, 8)
    worker.one("zygote").kill()
    wait_for(lambda: worker.role("zygote"), "there is a zygote again")
    after, _ = draws(worker, 8)
    assert_unlike(before + after)


@pytest.mark.root
def test_the_launchers_and_the_coordinators_addresses_are_not_the_runners(worker: Worker) -> None:
    """The forks of one zygote lie at its addresses; what holds the MAC key was exec'd and lies elsewhere."""
    held = worker.hold()
    runner = held["runner"]["pid"]
    starts = {name: Path(f"/proc/{pid}/maps").read_text().partition("-")[0] for name, pid in places(worker, runner)}
    canaries = {name: auxiliary_random(pid) for name, pid in places(worker, runner)}
    worker.order_stop(held["id"], force=True)
    worker.await_end(held["id"])
    assert (starts["runner"], canaries["runner"]) == (starts["zygote"], canaries["zygote"])
    assert 3 == len({canaries[name] for name in ("runner", "coordinator", "launcher")})
    assert 3 == len({starts[name] for name in ("runner", "coordinator", "launcher")})


def places(worker: Worker, runner: int) -> list[tuple[str, int]]:
    return [("runner", runner), *[(role, worker.one(role).pid) for role in ("zygote", "coordinator", "launcher")]]


def auxiliary_random(pid: int) -> bytes:
    """The 16 bytes that the kernel gave at exec (AT_RANDOM, 25): libc makes its stack canary of them."""
    words = memoryview(Path(f"/proc/{pid}/auxv").read_bytes()).cast("N")
    address = dict(zip(words[::2], words[1::2], strict=True))[25]
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(fd, 16, address)
    finally:
        os.close(fd)
