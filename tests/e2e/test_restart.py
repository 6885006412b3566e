"""The orderly end and the next start: what runs, what waits, what is kept and what isn't."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import guests
from tests.e2e.harness import HELLO, Worker, running, stdin_bytes, wait_for, wasm
from tests.guests.build import guest

# Longer than the harness waits for an end: what is over sooner didn't use it up.
LONG = ("--drain-s", "300")


@contextmanager
def fresh(place: Path, name: str, *options: str) -> Iterator[Worker]:
    with running(place / name, *options) as worker:
        yield worker
        assert [] == temporaries(worker)


def temporaries(worker: Worker) -> list[Path]:
    return list((worker.data_dir / "blobs" / "tmp").iterdir())


def end_of(task: dict[str, Any]) -> tuple[str, str, int]:
    return task["state"], task["reason"], task["attempts"]


def test_an_idle_worker_ends_at_once_and_keeps_everything(place: Path) -> None:
    """By SIGTERM; that SIGINT does the same is shown in `tests/process/test_stop.py`."""
    with fresh(place, "idle", *LONG) as worker:
        digest = worker.upload(wasm(HELLO))
        warm = worker.run(digest, isolation="instance")  # its runner rests
        before = [worker.task(warm["id"]), worker.http.get("/modules").json(), worker.http.get("/tasks").json()]
        assert 0 == worker.stop()
        assert [] == temporaries(worker)
        worker.start()
        after = [worker.task(warm["id"]), worker.http.get("/modules").json(), worker.http.get("/tasks").json()]
        assert before == after
        assert b"hello world\n" == worker.stdout(warm["id"])
        assert "completed" == worker.run(digest)["state"]


def test_a_running_job_ends_within_the_budget_and_nothing_new_is_taken_meanwhile(place: Path) -> None:
    with fresh(place, "drains", *LONG) as worker:
        jobs = [worker.hold("nap", 1500, isolation=isolation) for isolation in ("process", "instance")]
        answers: list[httpx.Response] = []

        def wait() -> None:
            with worker.client() as client:
                answers.append(client.get(f"/tasks/{jobs[0]['id']}", headers={"prefer": "wait=60"}))

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        refused = wait_for(lambda: refusal(worker, jobs[0]["module"]["digest"]), "it takes no new tasks")
        assert (503, "draining", "no") == refused
        assert 0 == worker.process.wait(60)
        waiting.join()
        worker.http.close()
        worker.start()
        for job in jobs:
            assert ("completed", "exit", 1) == end_of(worker.task(job["id"]))
            assert b"before\nafter\n" == worker.stdout(job["id"])
        assert [(200, "completed")] == [(answer.status_code, answer.json()["state"]) for answer in answers]


def refusal(worker: Worker, digest: str) -> tuple[int, str, str] | None:
    """How a task is refused; None while it is taken."""
    try:
        answer = worker.post(module={"digest": digest}, entry={"export": "nap", "params": [1]})
    except httpx.TransportError:
        return (503, "draining", "no")  # the listener is closed: as far as it goes
    if answer.status_code == 201:
        return None
    problem = answer.json()
    return answer.status_code, problem["code"], problem["executed"]


def test_a_job_that_outlives_the_budget_is_stopped(place: Path) -> None:
    with fresh(place, "outlives", "--drain-s", "0.3", "--stop-grace-ms", "300") as worker:
        jobs = [worker.hold(export) for export in ("block", "loop")]
        assert 0 == worker.stop()
        worker.start()
        for job in jobs:
            assert ("completed", "stopped", 1) == end_of(worker.task(job["id"]))
            assert b"before\n" == worker.stdout(job["id"])


def test_a_second_signal_ends_at_once_and_what_ran_is_lost(place: Path) -> None:
    with fresh(place, "forced", *LONG) as worker:
        held = worker.hold()
        again = worker.hold(retry={"max": 1})
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refusal(worker, held["module"]["digest"]), "the first has come")
        assert 0 != worker.stop()
        worker.start()
        assert ("failed", "lost", 1) == end_of(worker.await_end(held["id"]))
        assert 2 == worker.await_state(again["id"], "running")["attempts"]
        worker.order_stop(again["id"], force=True)
        assert ("completed", "stopped", 2) == end_of(worker.await_end(again["id"]))


# -- one restart, and what it has to carry over ----------------------------------------------------------------------

SECRET = "s3cr3t-of-the-manager"
STDIN = bytes(range(256)) * 2000
KEYED = {"idempotency-key": "over-the-restart"}


@dataclass
class Carried:
    """A worker that was stopped in the middle of everything and started again, and what there was before.

    Its only slot was taken, so that all the tasks waited, one of them for its compiler.
    """

    worker: Worker
    held: str  # the id of who had the slot
    waiting: list[str]
    digest: str
    keyed: dict[str, Any]
    rest: list[dict[str, Any]]
    page: str
    seen: list[httpx.Response]
    secret: str
    compiled: str
    stored: tuple[list[str], list[str]]  # whose stdin was kept, before and after the stop


@pytest.fixture(scope="module")
def carried(place: Path) -> Iterator[Carried]:
    options = ("--drain-s", "0", "--stop-grace-ms", "200", "--max-runners", "1", "--log-level", "debug")
    with fresh(place, "carries", *options) as worker:
        before = fill(worker)
        assert 0 == worker.stop()
        before.stored[1].extend(stdins(worker))
        worker.start()
        yield before


def fill(worker: Worker) -> Carried:
    hello, cat, echo = worker.upload(wasm(HELLO)), worker.upload(guest("cat")), worker.upload(guest("echo"))
    keyed = worker.post(wait_s=60, headers=KEYED, module={"digest": hello})
    for _ in range(3):
        worker.run(hello)
    page = worker.http.get("/tasks", params={"limit": 2}).json()["next"]
    rest = rest_of(worker, page)
    for digest in (cat, echo):  # compiled from here on
        worker.run(digest)
    held = worker.hold()
    waiting = [worker.start_task(cat, stdin=f"task {n}", priority=priority) for n, priority in enumerate((0, 0, 7))]
    waiting.append(worker.start_task(cat, stdin=stdin_bytes(STDIN)))
    stopped = worker.start_task(cat, stdin="of no use")
    worker.order_stop(stopped)
    task: dict[str, Any] = {"module": {"digest": echo}, "env": {"TOKEN": SECRET}}
    posted, replayed = (worker.post(headers={"idempotency-key": "secret-1"}, **task) for _ in range(2))
    secret = posted.json()["id"]
    wait_for(lambda: sorted(waiting) == stdins(worker), "nobody else needs a stdin any more")
    assert {"pending"} == {worker.task(task_id)["state"] for task_id in (*waiting, secret)}
    assert 1 == len(worker.role("fork"))
    compiled = worker.start_task(worker.upload(wasm(guests.slow_to_compile(2))))
    wait_for(lambda: len(worker.role("fork")) == 2, "it is compiled")
    return Carried(
        worker,
        held=held["id"],
        waiting=waiting,
        digest=hello,
        keyed=keyed.json(),
        rest=rest,
        page=page,
        seen=[posted, replayed, *looks(worker, secret)],
        secret=secret,
        compiled=compiled,
        stored=(stdins(worker), []),
    )


def stdins(worker: Worker) -> list[str]:
    """Of which tasks the stdin is kept."""
    return sorted(path.name for path in (worker.data_dir / "blobs" / "stdin").iterdir())


def rest_of(worker: Worker, page: str) -> list[dict[str, Any]]:
    """The two tasks behind a page."""
    found: list[dict[str, Any]] = worker.http.get("/tasks", params={"limit": 2, "after": page}).json()["tasks"]
    return found


def looks(worker: Worker, task_id: str) -> list[httpx.Response]:
    return [worker.http.get(path) for path in (f"/tasks/{task_id}", "/tasks", "/stats", "/readyz")]


def test_what_waits_for_a_slot_goes_on_at_the_next_start_in_its_order(carried: Carried) -> None:
    ended = [carried.worker.await_end(task_id) for task_id in carried.waiting]
    assert [("completed", "exit", 1)] * 4 == [end_of(task) for task in ended]
    assert [b"task 0", b"task 1", b"task 2", STDIN] == [carried.worker.stdout(task_id) for task_id in carried.waiting]
    assert [2, 0, 1, 3] == sorted(range(4), key=lambda n: ended[n]["started_at"])
    assert ("completed", "stopped", 1) == end_of(carried.worker.task(carried.held))


def test_stdin_is_kept_for_as_long_as_its_task_needs_it(carried: Carried) -> None:
    assert (sorted(carried.waiting),) * 2 == carried.stored
    for task_id in carried.waiting:
        carried.worker.await_end(task_id)
    wait_for(lambda: not stdins(carried.worker), "it is needed no more")


def test_a_module_that_is_being_compiled_is_compiled_at_the_next_start(carried: Carried) -> None:
    assert ("completed", "exit", 1) == end_of(carried.worker.await_end(carried.compiled))


def test_env_values_are_never_given_back_and_reach_the_guest_over_a_restart(carried: Carried) -> None:
    ended = carried.worker.await_end(carried.secret)
    assert f"env: TOKEN={SECRET}\n".encode() in carried.worker.stdout(carried.secret)
    assert ("completed", {"TOKEN": None}) == (ended["state"], ended["env"])
    seen = carried.seen + looks(carried.worker, carried.secret)
    assert [] == [answer.url for answer in seen if SECRET in answer.text]
    assert SECRET not in carried.worker.log.read_text()


def test_idempotency_keys_and_pages_survive(carried: Carried) -> None:
    """A manager that asks again after the restart gets the same answer."""
    again = carried.worker.post(headers=KEYED, module={"digest": carried.digest})
    assert (200, carried.keyed) == (again.status_code, again.json())
    assert carried.rest == rest_of(carried.worker, carried.page)
    assert 2 == len(carried.rest)
