"""Far more is asked of a worker than it can do: it refuses, honestly and at once, and is as before when it is over.

`GALAGO_OVERLOAD_S` is for how long.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import guests
from tests.e2e.functions import Callers, deploy
from tests.e2e.harness import HELLO, Worker, running, wasm
from tests.faults.load import Jobs, ended

OVERLOAD_S = float(os.environ.get("GALAGO_OVERLOAD_S", "4"))
MAX_RUNNERS, MAX_QUEUED, CALL_QUEUE = 3, 20, 4
# Whoever asks for health waits so long at most, as a load balancer would.
HEALTH_TIMEOUT_S = 5.0
MEMORY_GRACE_BYTES = 16 * 1024 * 1024
# Half of them are more than its one runner and its queue hold.
CALLERS = 2 * (CALL_QUEUE + 2)
NAP_MS = 20
# A handler that answers after a while.
SLOW = f"""(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 {guests.SLEEPING}
 (data (i32.const 1024) "Content-Type: text/plain\\n\\nslow")
 (func (export "_start") (call $sleep (i64.const {NAP_MS}))
  (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 30))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    options = ("--max-runners", str(MAX_RUNNERS), "--max-queued", str(MAX_QUEUED))
    with running(place / "data", *options) as started:
        yield started


def test_what_is_too_much_is_refused_and_nothing_suffers_from_it(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    worker.run(worker.upload(wasm(HELLO)))
    scale = {"min": 1, "max": 1, "queue": CALL_QUEUE}
    deploy(worker, "slow", "r1", wasm(SLOW), scale=scale, limits={"wall_ms": 5000})

    def nap(_: str) -> dict[str, Any]:
        return {"module": {"digest": digest}, "entry": {"export": "nap", "params": [NAP_MS]}}

    jobs = Jobs(worker, 4, nap, "overload")
    callers = Callers(worker, "/functions/slow", CALLERS)
    before_bytes = memory_bytes(worker)
    with jobs, callers:
        seen = watch(worker, jobs)
    refused = Counter(status for status, _ in jobs.refused.values())
    called = Counter(status for status, _ in callers.answers)

    assert {429} == set(refused), refused
    assert {200, 429} == set(called), called
    assert {b"slow"} == {body for status, body in callers.answers if status == 200}
    assert ([], set()) == (callers.broken, jobs.untold)
    assert seen["waiting"] <= MAX_QUEUED
    assert MAX_QUEUED // 2 < seen["waiting"], "it was not overloaded"
    assert seen["memory_bytes"] <= before_bytes + MEMORY_GRACE_BYTES

    tasks = ended(worker, list(jobs.accepted.values()))
    assert {"exit": len(tasks)} == Counter(task["reason"] for task in tasks)
    assert {call: [task_id] for call, task_id in jobs.accepted.items()} == jobs.recorded()
    assert "slow" == worker.http.get("/functions/slow").text
    assert "completed" == worker.run(digest, entry={"export": "nap", "params": [1]})["state"]


def watch(worker: Worker, jobs: Jobs) -> dict[str, int]:
    """The most of it that was seen while it went on, and health was asked for all the time."""
    most = {"waiting": 0, "memory_bytes": 0}
    until_s = time.monotonic() + OVERLOAD_S
    with httpx.Client(base_url=worker.url, timeout=HEALTH_TIMEOUT_S) as health:
        while time.monotonic() < until_s or len(jobs.refused) < MAX_QUEUED:
            assert {200} == {health.get(path).status_code for path in ("/livez", "/readyz")}
            tasks = health.get("/stats").json()["tasks"]
            most["waiting"] = max(most["waiting"], tasks["pending"])
            most["memory_bytes"] = max(most["memory_bytes"], memory_bytes(worker))
    return most


def memory_bytes(worker: Worker) -> int:
    """Of all that accepts and decides."""
    roles = ("coordinator", "master", "api")
    return sum(process.memory_full_info().uss for role in roles for process in worker.role(role))
