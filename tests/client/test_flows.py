"""What is tried again and when, as a pure matter: no request is made here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.played import task as task_document
from worker.client import requests
from worker.client.answers import Task, read_answer
from worker.client.errors import Broken, ClientError, NotAWorker, Refused, StillGoing, Unreachable
from worker.client.flows import Pause, Retry, attempt, await_end, await_running

RETRY = Retry(attempts=3, first_s=0.1, most_s=5.0)


def refused(status: int, executed: str, retry_after_s: float | None = None) -> Refused:
    return Refused(status, {"code": "c", "executed": executed}, retry_after_s)


def task(**fields: Any) -> Task:
    return read_answer(Task, task_document(**fields))


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("u", "refused"),
        refused(425, "no"),
        refused(429, "no", 1),
        refused(503, "no", 1),
        refused(409, "no", 1),
    ],
)
def test_what_was_not_executed_and_may_succeed_later_is_tried_again(error: ClientError) -> None:
    assert RETRY.pause_s(1, error, 1.0) is not None


@pytest.mark.parametrize(
    "error",
    [
        refused(503, "maybe", 1),
        refused(502, "yes", 1),
        refused(404, "no"),
        refused(422, "no"),
        refused(507, "no", 30),  # longer than anyone waits without being asked
        Broken("u", "reset"),
        NotAWorker("u", 200, "text/html"),
        StillGoing("t1", "running", 1),
    ],
)
def test_nothing_else_is(error: ClientError) -> None:
    assert RETRY.pause_s(1, error, 1.0) is None


def test_the_pauses_double_to_the_longest_and_their_number_is_held_to() -> None:
    retry = Retry(attempts=8, first_s=1.0, most_s=5.0)
    pauses = [retry.pause_s(made, Unreachable("u", "refused"), 1.0) for made in range(1, 9)]
    assert [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, None] == pauses
    assert 0.5 == retry.pause_s(1, Unreachable("u", "refused"), 0.0)


def test_a_pause_that_the_worker_asks_for_is_kept() -> None:
    assert 3 == RETRY.pause_s(1, refused(429, "no", 3), 1.0)


def test_an_attempt_is_the_request_a_pause_and_the_same_request_again() -> None:
    request = requests.stats()
    flow = attempt(request, RETRY)
    assert request is next(flow)
    pause = flow.throw(Unreachable("u", "refused"))
    assert isinstance(pause, Pause)
    assert request is flow.send(None)
    with pytest.raises(StopIteration) as done:
        flow.send("the answer")
    assert "the answer" == done.value.value


def test_the_last_attempt_s_error_is_told() -> None:
    flow = attempt(requests.stats(), Retry(attempts=1))
    next(flow)
    with pytest.raises(Unreachable):
        flow.throw(Unreachable("u", "refused"))


def test_the_end_is_waited_for_in_pieces_of_what_one_request_may_wait() -> None:
    flow = await_end("t1", 100, RETRY)
    assert "wait=60" == next(flow).headers["prefer"]
    assert "wait=60" == flow.send(task(state="running")).headers["prefer"]
    with pytest.raises(StopIteration) as done:
        flow.send(task(state="completed"))
    assert done.value.value.final


def test_a_wait_that_is_over_says_where_the_task_is() -> None:
    flow = await_end("t1", 0, RETRY)
    assert "prefer" not in next(flow).headers
    with pytest.raises(StillGoing) as caught:
        flow.send(task(state="running"))
    assert ("t1", "running", "yes") == (caught.value.task_id, caught.value.state, caught.value.executed)


@pytest.mark.parametrize("state", ["running", "failed", "completed"])
def test_a_service_is_waited_for_until_it_runs_or_never_will(state: str) -> None:
    flow = await_running("t1", 100, RETRY)
    next(flow)
    assert isinstance(flow.send(task(state="scheduled")), Pause)
    flow.send(None)
    with pytest.raises(StopIteration) as done:
        flow.send(task(state=state))
    assert state == done.value.value.state
