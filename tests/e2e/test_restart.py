"""The orderly end and the next start: what runs, what waits, what is kept and what isn't."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_at_once_and_keeps_everything(place: Path, number: signal.Signals) -> None:
    with fresh(place, f"idle-{number}", *LONG) as worker:
        digest = worker.upload(wasm(HELLO))
        warm = worker.run(digest, isolation="instance")  # its runner rests
        before = [worker.task(warm["id"]), worker.http.get("/modules").json(), worker.http.get("/tasks").json()]
        assert 0 == worker.stop(number)
        assert [] == temporaries(worker)
        worker.start()
        after = [worker.task(warm["id"]), worker.http.get("/modules").json(), worker.http.get("/tasks").json()]
        assert before == after
        assert b"hello world\n" == worker.stdout(warm["id"])
        assert "completed" == worker.run(digest)["state"]


def test_a_running_job_ends_within_the_budget_and_nothing_new_is_taken_meanwhile(place: Path) -> None:
    with fresh(place, "drains", *LONG) as worker:
        jobs = [worker.hold("nap", 2000, isolation=isolation) for isolation in ("process", "instance")]
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
    with fresh(place, "outlives", "--drain-s", "1", "--stop-grace-ms", "300") as worker:
        jobs = [worker.hold(export) for export in ("block", "loop")]
        assert 0 == worker.stop()
        worker.start()
        for job in jobs:
            assert ("completed", "stopped", 1) == end_of(worker.task(job["id"]))
            assert b"before\n" == worker.stdout(job["id"])


def test_what_waits_for_a_slot_goes_on_at_the_next_start_in_its_order(place: Path) -> None:
    with fresh(place, "waits", "--drain-s", "0", "--stop-grace-ms", "200", "--max-runners", "1") as worker:
        digest = worker.upload(guest("cat"))
        worker.run(digest)
        held = worker.hold()
        ids = [worker.start_task(digest, stdin=f"task {n}", priority=priority) for n, priority in enumerate((0, 0, 7))]
        assert ["pending"] * 3 == [worker.task(task_id)["state"] for task_id in ids]
        assert 0 == worker.stop()
        worker.start()
        ended = [worker.await_end(task_id) for task_id in ids]
        assert [("completed", "exit", 1)] * 3 == [end_of(task) for task in ended]
        assert [b"task 0", b"task 1", b"task 2"] == [worker.stdout(task_id) for task_id in ids]
        assert [2, 0, 1] == sorted(range(3), key=lambda n: ended[n]["started_at"])
        assert ("completed", "stopped", 1) == end_of(worker.task(held["id"]))


def test_a_module_that_is_being_compiled_is_compiled_at_the_next_start(place: Path) -> None:
    with fresh(place, "compiles", "--drain-s", "0") as worker:
        task_id = worker.start_task(worker.upload(wasm(guests.slow_to_compile(3))))
        wait_for(lambda: worker.role("fork"), "it is compiled")
        assert 0 == worker.stop()
        worker.start()
        assert ("completed", "exit", 1) == end_of(worker.await_end(task_id))


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


def test_env_values_are_never_given_back_and_reach_the_guest_over_a_restart(place: Path) -> None:
    secret = "s3cr3t-of-the-manager"
    with fresh(place, "secrets", "--drain-s", "0", "--max-runners", "1", "--log-level", "debug") as worker:
        digest = worker.upload(guest("echo"))
        held = worker.hold()
        task: dict[str, Any] = {"module": {"digest": digest}, "env": {"TOKEN": secret}}
        headers = {"idempotency-key": "secret-1"}
        posted = worker.post(headers=headers, **task)
        replayed = worker.post(headers=headers, **task)
        task_id = posted.json()["id"]
        seen = [posted, replayed, *looks(worker, task_id)]
        worker.order_stop(held["id"], force=True)
        assert 0 == worker.stop()
        worker.start()
        ended = worker.await_end(task_id)
        seen += looks(worker, task_id)
        log = worker.log.read_text()
        assert f"env: TOKEN={secret}\n".encode() in worker.stdout(task_id)
        assert ("completed", {"TOKEN": None}) == (ended["state"], ended["env"])
        assert [] == [answer.url for answer in seen if secret in answer.text]
        assert secret not in log


def looks(worker: Worker, task_id: str) -> list[httpx.Response]:
    return [worker.http.get(path) for path in (f"/tasks/{task_id}", "/tasks", "/stats", "/readyz")]


def test_stdin_is_kept_for_as_long_as_its_task_needs_it(place: Path) -> None:
    data = bytes(range(256)) * 2000
    with fresh(place, "stdin", "--drain-s", "0", "--max-runners", "1", "--stop-grace-ms", "200") as worker:
        stored = worker.data_dir / "blobs" / "stdin"
        digest = worker.upload(guest("cat"))
        worker.run(digest)
        worker.hold()
        task_id = worker.start_task(digest, stdin=stdin_bytes(data))
        stopped = worker.start_task(digest, stdin="of no use")
        worker.order_stop(stopped)
        wait_for(lambda: [task_id] == [path.name for path in stored.iterdir()], "one is needed still")
        worker.stop()
        assert [task_id] == [path.name for path in stored.iterdir()]
        worker.start()
        worker.await_end(task_id)
        assert data == worker.stdout(task_id)
        wait_for(lambda: not list(stored.iterdir()), "it is needed no more")


def test_idempotency_keys_and_pages_survive(place: Path) -> None:
    """A manager that asks again after the restart gets the same answer."""
    with fresh(place, "keys") as worker:
        digest = worker.upload(wasm(HELLO))
        headers = {"idempotency-key": "over-the-restart"}
        first = worker.post(wait_s=60, headers=headers, module={"digest": digest})
        for _ in range(3):
            worker.run(digest)
        page = worker.http.get("/tasks", params={"limit": 2}).json()
        rest = worker.http.get("/tasks", params={"limit": 10, "after": page["next"]}).json()
        worker.stop()
        worker.start()
        again = worker.post(headers=headers, module={"digest": digest})
        assert (200, first.json()) == (again.status_code, again.json())
        assert rest == worker.http.get("/tasks", params={"limit": 10, "after": page["next"]}).json()


def test_two_workers_dont_share_a_data_directory(place: Path) -> None:
    with fresh(place, "locked") as worker:
        other = Worker(worker.data_dir)
        with pytest.raises(AssertionError, match="another worker"):
            other.start()
        other.http.close()
        assert other.process is not None
        assert 0 != other.process.wait(60)
        assert "completed" == worker.run(worker.upload(wasm(HELLO)))["state"]
