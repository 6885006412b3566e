"""Killed between any two steps, the worker is back and has lost nothing: a case for each point and what it may cost.

`tests/shared/test_table_crash.py` and `tests/coordinator/test_commit.py` hold those of a transaction and a batch
against every row and file; here the whole worker recovers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.coordinator import test_commit
from tests.e2e import guests
from tests.e2e.functions import speaker
from tests.e2e.harness import HELD_LIMITS, HELLO, fields, strays, wait_for, wasm
from tests.faults.injecting import Injected, attempt, injecting
from tests.shared import test_table_crash
from worker.shared import faults

OPTIONS = ("--max-runners", "3", "--api-workers", "2")
Outcome = tuple[str, str, int]  # state, reason, attempts
RAN: Outcome = ("completed", "exit", 1)
LOST: Outcome = ("failed", "lost", 1)
AGAIN: Outcome = ("completed", "exit", 2)


@pytest.fixture(scope="module")
def injected() -> Iterator[Injected]:
    with injecting(*OPTIONS) as made:
        made.worker.run(made.worker.upload(wasm(HELLO)))
        made.worker.run(made.worker.upload(wasm(guests.SLEEPER)), entry={"export": "nap", "params": [1]})
        yield made
        assert [] == strays(made.worker)


def post(injected: Injected, case: str, **task: Any) -> dict[str, Any]:
    """What to POST for a job with an input; sent again, it is the same task."""
    digest = injected.worker.upload(wasm(HELLO))
    body = {"kind": "job", "module": {"digest": digest}, "stdin": "some input", **task}
    return {"url": "/tasks", "json": body, "headers": {"idempotency-key": case}}


def tell_whether_true(injected: Injected, answer: httpx.Response | None, task_id: str) -> None:
    """What the first client was told holds, now that the second one knows the task."""
    if answer is None:
        return
    if answer.status_code in (200, 201):
        assert task_id == answer.json()["id"]
        return
    assert (503, "coordinator_unavailable") == injected.worker.refused(answer)
    if answer.json()["executed"] == "maybe":
        of_first = answer.headers["location"]
        known = injected.worker.http.get(of_first).status_code == 200
        assert known == (of_first == f"/tasks/{task_id}")


def assert_ended_once(injected: Injected, task_id: str, *allowed: Outcome) -> None:
    task = injected.ended(task_id)
    assert fields(task, "state", "reason", "attempts") in allowed, task
    names = [event["event"] for event in task["events"]]
    assert (1, "ended") == (names.count("ended"), names[-1])
    assert names.count("runner_started") <= task["attempts"], "never twice at once"
    if task["state"] == "completed":
        assert b"hello world\n" == injected.worker.stdout(task_id)
    assert task == injected.worker.task(task_id), "what is final changes no more"
    injected.assert_whole()


POSTED = {
    # The client is told that it isn't known, or nothing at all, and repeats itself: there is one task.
    **{(f"table.{step}", 0): (RAN,) for step in ("written", "committed")},
    **{(f"commit.{step}", 0): (RAN,) for step in ("announcing", "acknowledging")},
    ("commit.acknowledged", 0): (RAN, LOST),  # the loop may be on its way to the fork by then
    ("blob.created", 0): (RAN,),
    ("blob.written", 0): (RAN,),
    ("blob.synced", 0): (RAN,),
    ("blob.renamed", 0): (RAN,),
    ("command.sending", 0): (RAN,),
    ("command.sent", 0): (RAN,),
    ("command.answered", 0): (RAN,),
    ("reply.sending", 0): (RAN,),
    ("reply.sent", 0): (RAN,),
    # Its output's files were made, so that nobody can say any more whether it has begun.
    **{(f"fork.{step}", 0): (LOST,) for step in ("asking", "asked", "answered")},
    ("fork.answered", 1): (AGAIN,),
}


@pytest.mark.parametrize(("point", "retries"), POSTED)
def test_a_job_that_is_posted_is_there_once_whoever_dies_over_it(injected: Injected, point: str, retries: int) -> None:
    request = post(injected, f"posted {point} {retries}".replace(" ", "-"), retry={"max": retries})
    with injected.killing(point):
        first = attempt(injected.worker, request["url"], **{k: v for k, v in request.items() if k != "url"})
    task_id = injected.repeat(request["url"], json=request["json"], headers=request["headers"]).json()["id"]
    tell_whether_true(injected, first, task_id)
    assert_ended_once(injected, task_id, *POSTED[point, retries])


# What follows the task's next row. Another transaction may come before that: retention's.
ENDING = {
    ("table.updated", 0): LOST,
    ("table.updated", 1): AGAIN,
    ("table.committed", 0): RAN,
}


@pytest.mark.parametrize(("point", "retries"), ENDING)
def test_an_end_that_did_not_reach_the_disk_is_not_one(injected: Injected, point: str, retries: int) -> None:
    digest = injected.worker.upload(wasm(guests.SLEEPER))
    entry = {"export": "nap", "params": [400]}
    job = injected.worker.start_running(digest, entry=entry, limits=HELD_LIMITS, retry={"max": retries})
    with injected.killing(point, after=after_its_row(point)):
        pass
    task = injected.ended(job["id"])
    assert ENDING[point, retries] == fields(task, "state", "reason", "attempts"), task
    expected = b"before\nafter\n"
    assert expected == injected.worker.stdout(job["id"]), "it had come to its end, and its output is kept or made again"
    injected.assert_whole()


STOPPED: Outcome = ("completed", "stopped", 1)


@pytest.mark.parametrize(
    ("point", "expected"), [("table.updated", LOST), ("table.committed", STOPPED), ("reply.sending", STOPPED)]
)
def test_a_stop_holds_once_it_is_on_disk(injected: Injected, point: str, expected: Outcome) -> None:
    job = injected.worker.hold()
    with injected.killing(point, after=after_its_row(point)):
        answer = injected.worker.http.delete(f"/tasks/{job['id']}")
    assert (503, "coordinator_unavailable", "maybe") == (*injected.worker.refused(answer), answer.json()["executed"])
    assert expected == fields(injected.ended(job["id"]), "state", "reason", "attempts")
    injected.assert_whole()


def after_its_row(point: str) -> str:
    return "" if point == "table.updated" else "table.updated"


@pytest.mark.parametrize("point", ["blob.written", "table.synced", "blob.renamed"])
def test_a_module_is_there_whole_or_not_at_all(injected: Injected, point: str) -> None:
    module = wasm(f'(module (func (export "_start")) (func (export "{point}")))')
    request = {"content": module, "headers": {"content-type": "application/wasm"}}
    with injected.killing(point):
        attempt(injected.worker, "/modules", **request)
    injected.assert_whole()
    digest = injected.repeat("/modules", **request).json()["digest"]
    assert module == injected.worker.data_dir.joinpath("blobs/modules", digest.removeprefix("sha256:")).read_bytes()
    assert "completed" == injected.worker.run(digest)["state"]


def test_an_artifact_that_is_half_written_is_compiled_again(injected: Injected) -> None:
    digest = injected.worker.upload(wasm('(module (func (export "_start")) (func (export "half an artifact")))'))
    with injected.killing("artifact.written"):
        task_id = injected.worker.start_task(digest)
    assert RAN == fields(injected.ended(task_id), "state", "reason", "attempts")
    injected.assert_whole()


# The deployment's own row routes nothing yet but changes the routes: the second change is the one that says `running`.
DEPLOYED = {"listener.bound": 1, "listener.listening": 1, "commit.routed": 2}


@pytest.mark.parametrize("point", DEPLOYED)
def test_a_service_that_is_deployed_is_running_and_called_whoever_dies_over_it(injected: Injected, point: str) -> None:
    worker = injected.worker
    digest, name = worker.upload(speaker("hello")), point
    function = {"name": name, "revision": "r1", "default": True}
    body = {"kind": "service", "module": {"digest": digest}, "function": function, "handler": {"abi": "wagi"}}
    request = {"json": body, "headers": {"idempotency-key": f"deployed-{point}"}}
    with injected.killing(point, DEPLOYED[point]):
        attempt(worker, "/tasks", **request)
    task_id = injected.repeat("/tasks", **request).json()["id"]
    worker.await_state(task_id, "running")

    def called() -> bool:
        answer = worker.http.get(f"/functions/{name}")
        return (200, b"hello") == (answer.status_code, answer.content)

    wait_for(called, "its default answers")
    worker.order_stop(task_id, force=True)
    assert ("completed", "stopped") == fields(injected.ended(task_id), "state", "reason")
    wait_for(lambda: not worker.data_dir.joinpath("run/calls", task_id).exists(), "its socket is gone")
    injected.assert_whole()


def test_every_point_that_is_documented_is_killed_at() -> None:
    told = re.findall(r"^    (\w+)((?: ?\.\w+)+)", faults.__doc__ or "", re.MULTILINE)
    points = {f"{part}.{step}" for part, steps in told for step in re.findall(r"\w+", steps)}
    elsewhere = [Path(module.__file__ or "").read_text() for module in (test_table_crash, test_commit)]
    source = "".join((Path(__file__).read_text(), *elsewhere, *(point for point, _ in POSTED)))
    assert (25, set()) == (len(points), {point for point in points if point not in source})
