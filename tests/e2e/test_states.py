"""A task's states as a manager sees them: stop in each, waiting for the end, the order of the queue.

One slot, so that whoever holds it decides who waits.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import guests
from tests.e2e.harness import (
    HELD_LIMITS,
    HELLO,
    Worker,
    alive,
    await_dead,
    fields,
    full,
    pid_of,
    running,
    wait_for,
    wasm,
)

MAX_QUEUED = 4
UNKNOWN = "01a20bfa-bf04-7f2d-86f8-66243a5ee7ff"


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    options = ("--max-runners", "1", "--max-queued", str(MAX_QUEUED), "--stop-grace-ms", "500")
    # A zygote that is stopped for a test is not to be judged meanwhile.
    with running(place / "data", *options, "--heartbeat-timeout-ms", "60000", "--init-ms", "60000") as worker:
        worker.run(worker.upload(wasm(HELLO)))
        worker.run(worker.upload(wasm(guests.SLEEPER)))
        yield worker


@pytest.fixture(scope="module")
def hello(worker: Worker) -> str:
    return worker.upload(wasm(HELLO))


@pytest.fixture(scope="module")
def sleeper(worker: Worker) -> str:
    return worker.upload(wasm(guests.SLEEPER))


def events_of(task: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event["event"], event["state"]) for event in task["events"]]


# -- stop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True], ids=["orderly", "forced"])
def test_a_pending_task_that_is_stopped_never_runs(worker: Worker, hello: str, force: bool) -> None:
    with full(worker):
        task_id = worker.start_task(hello)
        assert "pending" == worker.task(task_id)["state"]
        worker.order_stop(task_id, force)
        ended = worker.task(task_id)
        assert ("failed", "pending", "stopped") == fields(ended, "state", "previous_state", "reason")
    assert [("accepted", "pending"), ("ended", "failed")] == events_of(worker.task(task_id))
    assert ended == worker.task(task_id), "nothing of it changes once the slot is free"
    assert (None, None, b"") == (ended["started_at"], ended["scheduled_at"], worker.stdout(task_id))


@pytest.mark.parametrize("force", [False, True], ids=["orderly", "forced"])
def test_a_scheduled_task_that_is_stopped_never_runs_and_gives_its_slot_back(
    worker: Worker, hello: str, force: bool
) -> None:
    """The zygote is stopped, so that the runner is not made yet."""
    zygote = worker.one("zygote")
    zygote.suspend()
    try:
        task_id = worker.start_task(hello)
        worker.await_state(task_id, "scheduled")
        worker.order_stop(task_id, force)
        ended = worker.task(task_id)
    finally:
        zygote.resume()
    assert ("failed", "scheduled", "stopped") == fields(ended, "state", "previous_state", "reason")
    assert [("accepted", "pending"), ("slot_assigned", "scheduled"), ("ended", "failed")] == events_of(ended)
    assert "completed" == worker.run(hello)["state"]
    assert (ended, b"") == (worker.task(task_id), worker.stdout(task_id))


def test_a_task_that_is_stopped_while_its_module_is_compiled_takes_the_compiler_along(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.slow_to_compile(16)))
    before = {process.pid for process in worker.role("fork")}
    task_id = worker.start_task(digest)
    compilers = wait_for(lambda: [p for p in worker.role("fork") if p.pid not in before], "it is compiled")
    worker.order_stop(task_id)
    ended = worker.task(task_id)
    assert ("failed", "pending", "stopped") == fields(ended, "state", "previous_state", "reason")
    await_dead(compilers, "nobody waits for the artifact")


@pytest.mark.parametrize("force", [False, True], ids=["orderly", "forced"])
@pytest.mark.parametrize("isolation", ["process", "instance"])
@pytest.mark.parametrize("export", ["loop", "block"])
def test_a_running_task_that_is_stopped_is_completed_and_its_runner_ends(
    worker: Worker, hello: str, export: str, isolation: str, force: bool
) -> None:
    task = worker.hold(export, isolation=isolation)
    runners = [process for process in worker.role("fork") if process.pid == task["runner"]["pid"]]
    worker.order_stop(task["id"], force)
    ended = worker.await_end(task["id"])
    assert ("completed", "running", "stopped") == fields(ended, "state", "previous_state", "reason")
    expected = [
        ("accepted", "pending"),
        ("slot_assigned", "scheduled"),
        ("runner_started", "running"),
        ("stop_requested", "running"),
        ("ended", "completed"),
    ]
    assert expected == events_of(ended)
    assert (b"before\n", None, None) == (worker.stdout(task["id"]), ended["exit_code"], ended["result"])
    assert "completed" == worker.run(hello)["state"]
    await_dead(runners, "its slot was given to another")


def test_a_looping_guest_in_a_warm_runner_is_stopped_without_killing_the_runner(worker: Worker, sleeper: str) -> None:
    task = worker.hold("loop", isolation="instance")
    worker.order_stop(task["id"])
    assert "stopped" == worker.await_end(task["id"])["reason"]
    entry = {"export": "nap", "params": [1]}
    again = worker.run(sleeper, entry=entry, isolation="instance", limits=HELD_LIMITS)
    assert ("exit", task["runner"]["pid"]) == (again["reason"], pid_of(again))


def test_stopping_twice_is_the_same_as_once(worker: Worker) -> None:
    task = worker.hold()
    worker.order_stop(task["id"])
    worker.order_stop(task["id"])
    worker.order_stop(task["id"], force=True)
    ended = worker.await_end(task["id"])
    assert ("completed", "stopped") == (ended["state"], ended["reason"])
    assert 1 == [event["event"] for event in ended["events"]].count("stop_requested")


@pytest.mark.parametrize("force", [False, True])
def test_stopping_a_final_task_changes_nothing(worker: Worker, hello: str, force: bool) -> None:
    ended = worker.run(hello)
    worker.order_stop(ended["id"], force)
    assert ended == worker.task(ended["id"])


def test_stopping_what_is_not_there_is_404(worker: Worker) -> None:
    assert (404, "task_unknown") == worker.refused(worker.http.delete(f"/tasks/{UNKNOWN}"))
    assert (404, "task_unknown") == worker.refused(worker.http.delete("/tasks/nonsense"))


# -- Prefer: wait --------------------------------------------------------------------------------------------------


def test_a_post_that_waits_is_answered_with_the_end(worker: Worker, hello: str) -> None:
    answer = worker.post(wait_s=60, module={"digest": hello})
    assert (201, "wait=60", "completed") == (
        answer.status_code,
        answer.headers["preference-applied"],
        answer.json()["state"],
    )


def test_a_wait_that_is_over_before_the_task_is_answered_as_it_stands(worker: Worker, sleeper: str) -> None:
    entry = {"export": "block"}
    answer = worker.post(wait_s=1, module={"digest": sleeper}, entry=entry, limits={"wall_ms": 30_000})
    assert (201, "wait=1", "running") == (
        answer.status_code,
        answer.headers["preference-applied"],
        answer.json()["state"],
    )
    task_id = answer.json()["id"]
    looked = worker.http.get(f"/tasks/{task_id}", headers={"prefer": "wait=1"})
    assert (200, "wait=1", "running") == (
        looked.status_code,
        looked.headers["preference-applied"],
        looked.json()["state"],
    )
    worker.order_stop(task_id, force=True)
    assert "stopped" == worker.await_end(task_id)["reason"]


def test_all_who_wait_are_answered_when_the_task_ends(worker: Worker) -> None:
    task = worker.hold()
    answers: list[httpx.Response] = []

    def wait() -> None:
        with worker.client() as client:
            answers.append(client.get(f"/tasks/{task['id']}", headers={"prefer": "wait=60"}))

    waiting = [threading.Thread(target=wait) for _ in range(5)]
    for thread in waiting:
        thread.start()
    worker.order_stop(task["id"])
    for thread in waiting:
        thread.join()
    assert [(200, "completed")] * 5 == [(answer.status_code, answer.json()["state"]) for answer in answers]


@pytest.mark.parametrize("prefer", ["wait=61", "wait=-1", "wait=x", "wait="])
def test_a_wait_that_is_none_is_refused(worker: Worker, hello: str, prefer: str) -> None:
    answer = worker.post(headers={"prefer": prefer}, module={"digest": hello})
    assert (400, "bad_header") == worker.refused(answer)


@pytest.mark.parametrize("prefer", ["respond-async", "return=minimal", "waiting=3"])
def test_other_preferences_are_passed_over(worker: Worker, hello: str, prefer: str) -> None:
    answer = worker.post(headers={"prefer": prefer}, module={"digest": hello})
    assert (201, None) == (answer.status_code, answer.headers.get("preference-applied"))
    worker.await_end(answer.json()["id"])


# -- the queue -----------------------------------------------------------------------------------------------------


def test_higher_priority_comes_first_and_first_come_first_served_within_one(worker: Worker, hello: str) -> None:
    with full(worker):
        ids = [worker.start_task(hello, priority=priority) for priority in (0, 5, 0, 9)]
        assert ["pending"] * 4 == [worker.task(task_id)["state"] for task_id in ids]
    ended = [worker.await_end(task_id) for task_id in ids]
    order = sorted(range(4), key=lambda index: ended[index]["started_at"])
    assert [3, 1, 0, 2] == order


def test_a_task_that_waits_longer_than_its_queue_ms_is_refused_and_never_runs(worker: Worker, hello: str) -> None:
    with full(worker):
        ended = worker.await_end(worker.start_task(hello, queue_ms=50))
        at_once = worker.await_end(worker.start_task(hello, queue_ms=0))
    assert [("failed", "refused")] * 2 == [(task["state"], task["reason"]) for task in (ended, at_once)]
    assert "queue_ms" in ended["detail"]
    assert ended["wall_us"] >= 50_000


def test_queue_ms_0_runs_where_a_slot_is_free(worker: Worker, hello: str) -> None:
    assert ("completed", 0) == fields(worker.run(hello, queue_ms=0), "state", "queue_ms")


def test_the_wait_for_a_slot_is_queue_time_and_not_run_time(worker: Worker, sleeper: str) -> None:
    with full(worker):
        entry = {"export": "nap", "params": [1]}
        task_id = worker.start_task(sleeper, entry=entry, limits={"wall_ms": 10_000})
        waits_since = time.monotonic()
        wait_for(lambda: time.monotonic() - waits_since > 0.3, "it has waited for a while")
        waited_us = int((time.monotonic() - waits_since) * 1e6)
    ended = worker.await_end(task_id)
    assert "exit" == ended["reason"]
    assert waited_us <= ended["queue_us"] <= ended["wall_us"]


def test_a_full_queue_takes_nothing_more_until_there_is_room(worker: Worker, hello: str) -> None:
    with full(worker):
        ids = [worker.start_task(hello) for _ in range(MAX_QUEUED)]
        answer = worker.post(module={"digest": hello})
        assert (429, "queue_full") == worker.refused(answer)
        assert ("no", True) == (answer.json()["executed"], int(answer.headers["retry-after"]) >= 1)
        ready = worker.http.get("/readyz")
        assert (200, MAX_QUEUED) == (ready.status_code, ready.json()["tasks_waiting"])
        worker.order_stop(ids[0])
        ids.append(worker.start_task(hello))
    assert ["stopped"] + ["exit"] * MAX_QUEUED == [worker.await_end(task_id)["reason"] for task_id in ids]


def test_a_task_that_waits_has_empty_output(worker: Worker, hello: str) -> None:
    with full(worker):
        task_id = worker.start_task(hello)
        assert b"" == worker.stdout(task_id)
    worker.await_end(task_id)
    assert b"hello world\n" == worker.stdout(task_id)


def test_a_warm_runner_gives_way_to_a_job_of_another_module(worker: Worker, hello: str, sleeper: str) -> None:
    warm = worker.run(sleeper, isolation="instance")
    idle = [process for process in worker.role("fork") if process.pid == pid_of(warm)]
    assert [True] == [alive(process) for process in idle]
    assert "completed" == worker.run(hello)["state"]
    await_dead(idle, "it had the only slot")


def test_a_slot_is_never_lost(worker: Worker, hello: str) -> None:
    """After all that: every way to an end gives the only slot back."""
    for _ in range(3):
        held = worker.hold()
        worker.kill_runner(held, signal.SIGKILL)
        assert "crashed" == worker.await_end(held["id"])["reason"]
        assert "completed" == worker.run(hello)["state"]
    ready = worker.http.get("/readyz").json()
    assert (0, 0, 1) == (ready["tasks_waiting"], ready["tasks_running"], ready["max_runners"])
