"""Any process of the tree is killed or stopped while a job runs: what becomes of the job, and that all is back.

A job's own runner: see `tests/hostile/test_signals.py`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e import guests
from tests.e2e.harness import (
    HELD_LIMITS,
    HELLO,
    Worker,
    alive,
    await_dead,
    fields,
    pid_of,
    running,
    strays,
    wait_for,
    wasm,
)
from tests.e2e.healing import await_all_there, await_healed, runs

KILLED, STOPPED = signal.SIGKILL, signal.SIGSTOP
COMPILE_WALL_S = 4  # for a module that takes half a second, on a machine that is busy with others


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data", "--compile-wall-s", str(COMPILE_WALL_S)) as worker:
        worker.run(worker.upload(wasm(HELLO)))
        worker.run(worker.upload(wasm(guests.SLEEPER)))
        yield worker


def processes(worker: Worker, pid: int) -> list[psutil.Process]:
    return [process for process in worker.tree() if process.pid == pid]


def strike(process: psutil.Process, number: signal.Signals) -> psutil.Process:
    process.send_signal(number)
    return process


BOTH = pytest.mark.parametrize("number", [KILLED, STOPPED], ids=["killed", "stopped"])


@BOTH
@pytest.mark.parametrize("role", ["zygote", "master", "api"])
def test_whoever_is_not_the_jobs_own_costs_no_running_job(worker: Worker, role: str, number: signal.Signals) -> None:
    jobs = [worker.hold(isolation=isolation) for isolation in ("process", "instance")]
    struck = strike(worker.role(role)[0], number)
    await_healed(worker, struck)
    for job in jobs:
        worker.order_stop(job["id"], force=True)
        ended = worker.await_end(job["id"])
        assert ("completed", "stopped", 1) == (ended["state"], ended["reason"], ended["attempts"])
        assert job["runner"]["pid"] == pid_of(ended)


def test_a_job_ends_by_itself_as_it_would_have_though_its_zygote_and_all_who_serve_die(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    job = worker.start_running(digest, entry={"export": "nap", "params": [1000]}, limits=HELD_LIMITS)
    zygote, master = worker.one("zygote"), worker.one("master")
    for process in (zygote, master):
        strike(process, KILLED)
    await_healed(worker, zygote, master)
    ended = worker.await_end(job["id"])
    assert ("completed", "exit", 1, b"before\nafter\n") == (
        ended["state"],
        ended["reason"],
        ended["attempts"],
        worker.stdout(job["id"]),
    )


def test_a_job_that_waits_for_its_runner_gets_one_from_the_next_zygote(worker: Worker) -> None:
    zygote = strike(worker.one("zygote"), STOPPED)
    task_id = worker.start_task(worker.upload(wasm(HELLO)))
    worker.await_state(task_id, "scheduled")
    strike(zygote, KILLED)
    ended = worker.await_end(task_id)
    assert ("completed", 1, b"hello world\n") == (ended["state"], ended["attempts"], worker.stdout(task_id))
    await_healed(worker, zygote)


def test_a_module_that_waits_for_its_compiler_gets_one_from_the_next_zygote(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.unique(1)))
    zygote = strike(worker.one("zygote"), STOPPED)
    task_id = worker.start_task(digest)
    strike(zygote, KILLED)
    assert "completed" == worker.await_end(task_id)["state"]
    await_healed(worker, zygote)


@BOTH
def test_a_dead_coordinator_loses_its_jobs_and_takes_their_runners_along(
    worker: Worker, number: signal.Signals
) -> None:
    jobs = [worker.hold(isolation=isolation) for isolation in ("process", "instance")]
    runners = [process for job in jobs for process in processes(worker, job["runner"]["pid"])]
    assert [True, True] == [alive(process) for process in runners]
    struck = strike(worker.one("coordinator"), number)
    await_dead(runners, "their coordinator is dead")
    await_healed(worker, struck)
    for job in jobs:
        ended = worker.await_end(job["id"])
        assert ("failed", "lost", 1, None) == fields(ended, "state", "reason", "attempts", "runner")
        assert b"before\n" == worker.stdout(job["id"])


@BOTH
def test_a_job_that_may_be_tried_again_runs_again_after_its_coordinators_death(
    worker: Worker, number: signal.Signals
) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    entry = {"export": "nap", "params": [300]}
    job = worker.start_running(digest, entry=entry, limits=HELD_LIMITS, retry={"max": 1}, stdin="again")
    struck = strike(worker.one("coordinator"), STOPPED)
    if number is KILLED:
        strike(struck, KILLED)
    await_healed(worker, struck)
    ended = worker.await_end(job["id"])
    assert ("completed", "exit", 2) == (ended["state"], ended["reason"], ended["attempts"])
    assert b"before\nafter\n" == worker.stdout(job["id"]), "what the first attempt wrote is gone"
    expected = ["accepted", "slot_assigned", "runner_started", "recovered", "slot_assigned", "runner_started", "ended"]
    assert expected == [event["event"] for event in ended["events"]]


def test_a_job_that_is_lost_more_often_than_it_may_be_tried_again_ends(worker: Worker) -> None:
    job = worker.hold(retry={"max": 1})
    for attempt in (2, 3):
        struck = strike(worker.one("coordinator"), KILLED)
        await_healed(worker, struck)
        if attempt == 2:
            again = worker.await_state(job["id"], "running")
            assert 2 == again["attempts"]
    ended = worker.await_end(job["id"])
    assert ("failed", "lost", 2) == (ended["state"], ended["reason"], ended["attempts"])


def test_what_waits_goes_on_after_the_coordinators_death(worker: Worker) -> None:
    before = {process.pid for process in worker.role("fork")}
    task_id = worker.start_task(worker.upload(wasm(guests.slow_to_compile(1))))
    compilers = wait_for(lambda: [p for p in worker.role("fork") if p.pid not in before], "it is compiled")
    struck = strike(worker.one("coordinator"), KILLED)
    await_dead(compilers, "their coordinator is dead")
    await_healed(worker, struck)
    ended = worker.await_end(task_id)
    assert ("completed", 1) == (ended["state"], ended["attempts"])


def test_nobody_is_told_what_is_not_known_while_the_coordinator_is_stopped(worker: Worker) -> None:
    hello = worker.upload(wasm(HELLO))
    struck = strike(worker.one("coordinator"), STOPPED)
    answer = worker.post(module={"digest": hello}, headers={"idempotency-key": "while-stopped"})
    if answer.status_code == 503:
        assert (503, "coordinator_unavailable") == worker.refused(answer)
        assert answer.json()["executed"] in ("no", "maybe")
        if answer.json()["executed"] == "maybe":
            assert answer.headers["location"].startswith("/tasks/")
    else:
        assert 201 == answer.status_code
    await_healed(worker, struck)
    again = worker.post(module={"digest": hello}, headers={"idempotency-key": "while-stopped"}, wait_s=60)
    assert again.status_code in (200, 201)
    assert "completed" == again.json()["state"]
    if answer.status_code == 503 and "location" in answer.headers and again.status_code == 200:
        assert f"/tasks/{again.json()['id']}" == answer.headers["location"]


@BOTH
def test_a_dead_compiler_costs_its_task_and_no_other(worker: Worker, number: signal.Signals) -> None:
    job = worker.hold()
    # Dear enough to be caught at work, cheap enough to be compiled in time when it is tried again.
    one_of_two = f"(module (global i32 (i32.const {number}))"
    digest = worker.upload(wasm(guests.slow_to_compile(1).replace("(module", one_of_two, 1)))
    before = {process.pid for process in worker.role("fork")}
    task_id = worker.start_task(digest)
    (compiler,) = wait_for(lambda: [p for p in worker.role("fork") if p.pid not in before], "it is compiled")
    strike(compiler, number)
    ended = worker.await_end(task_id)
    assert ("failed", "compile_failed", "pending") == fields(ended, "state", "reason", "previous_state")
    await_dead([compiler], "it has had its time")
    if number is KILLED:
        assert "completed" == worker.run(digest)["state"], "nothing is wrong with the module"
    assert "completed" == worker.run(worker.upload(wasm(guests.unique(10 + number))))["state"]
    worker.order_stop(job["id"], force=True)
    assert ("stopped", 1) == fields(worker.await_end(job["id"]), "reason", "attempts")
    assert [] == strays(worker)


@pytest.mark.parametrize("role", ["zygote", "coordinator", "master", "api"])
def test_whoever_dies_again_and_again_costs_no_job_that_may_be_tried_again(worker: Worker, role: str) -> None:
    """Jobs are posted all the while by a manager that repeats what it has no answer to, as managers do."""
    digest = worker.upload(wasm(HELLO))
    ids: dict[str, str] = {}
    over = threading.Event()

    def manage() -> None:
        number = 0
        with worker.client() as client:
            while not over.is_set() or number < 20:
                key = f"{role}-{number}"
                headers = {"idempotency-key": key, "content-type": "application/json"}
                body = {"kind": "job", "module": {"digest": digest}, "retry": {"max": 10}}
                with contextlib.suppress(httpx.TransportError):
                    answer = client.post("/tasks", json=body, headers=headers)
                    if answer.status_code in (200, 201):
                        ids[key] = answer.json()["id"]
                        number += 1

    manager = threading.Thread(target=manage)
    manager.start()
    try:
        for _ in range(3):
            enough = len(ids) + 3
            wait_for(lambda enough=enough: len(ids) >= enough and runs(worker, digest), "jobs run")
            struck = strike(worker.role(role)[0], KILLED)
            wait_for(lambda struck=struck: set(worker.role(role)) - {struck}, f"there is a {role} again")
    finally:
        over.set()
        manager.join()
    worker.await_ready()
    ended = [worker.await_end(task_id) for task_id in ids.values()]
    assert {("completed", "exit")} == {fields(task, "state", "reason") for task in ended}
    assert {b"hello world\n"} == {worker.stdout(task["id"]) for task in ended}
    assert len(ids) == len(set(ids.values()))
    await_all_there(worker)


# -- the launcher --------------------------------------------------------------------------------------------------


def test_a_stopped_launcher_stops_nothing(worker: Worker) -> None:
    launcher = strike(worker.one("launcher"), STOPPED)
    try:
        assert "completed" == worker.run(worker.upload(wasm(HELLO)))["state"]
        job = worker.hold()
        assert 200 == worker.http.get("/readyz").status_code
    finally:
        launcher.resume()
    worker.order_stop(job["id"], force=True)
    assert "stopped" == worker.await_end(job["id"])["reason"]


@pytest.mark.parametrize("stopped", [False, True], ids=["as it is", "with all others stopped"])
def test_the_launchers_death_ends_all_and_the_next_one_takes_up_what_there_was(place: Path, stopped: bool) -> None:
    with running(place / f"launcher-{stopped}") as worker:
        lost = worker.hold()
        again = worker.hold(retry={"max": 1}, isolation="instance")
        digest = worker.upload(wasm(guests.slow_to_compile(1)))
        waits = worker.start_task(digest)
        tree = worker.tree()
        assert {lost["runner"]["pid"], again["runner"]["pid"]} <= {process.pid for process in tree}
        for process in tree[1:] if stopped else ():
            process.suspend()
        worker.kill()
        await_dead(tree, "their launcher is dead")
        assert [] == strays(worker)
        worker.start()
        assert ("failed", "lost") == fields(worker.await_end(lost["id"]), "state", "reason")
        assert 2 == worker.await_state(again["id"], "running")["attempts"]
        assert "completed" == worker.await_end(waits)["state"]
        worker.order_stop(again["id"], force=True)
        assert "completed" == worker.await_end(again["id"])["state"]
