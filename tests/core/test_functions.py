"""Functions and their defaults: who may switch what, and that generations only rise."""

from __future__ import annotations

import json

import pytest

from tests.core.service_builders import ServiceDriver
from worker.core.changes import SetDefault, WriteFailed
from worker.core.commands import Done, Refused, StopTask, SwitchDefault
from worker.core.effects import Answer
from worker.core.functions import FunctionRow, Wish, decide
from worker.core.ledger import RETRY_US

FULL = WriteFailed("storage_full", "no room")
ROW = FunctionRow("f", "r1", 3)


@pytest.fixture
def driver() -> ServiceDriver:
    """Two revisions of `f` that run; `r1` is the default."""
    driver = ServiceDriver()
    driver.serve("s1", revision="r1", default=True)
    driver.serve("s2", revision="r2")
    driver.written.clear()
    return driver


def body(reply: object) -> tuple[object, ...]:
    assert isinstance(reply, Done)
    document = json.loads(reply.body)
    assert "f" == document["function"]
    return document["default"], document["previous"], document["generation"]


@pytest.mark.parametrize(
    ("row", "wish", "running", "expected"),
    [
        (ROW, Wish("f", "r2", True), True, FunctionRow("f", "r2", 4)),
        (ROW, Wish("f", "r2", True, 3), True, FunctionRow("f", "r2", 4)),
        (FunctionRow("f"), Wish("f", "r1", True, 0), True, FunctionRow("f", "r1", 1)),
        (ROW, Wish("f", "r1", True), True, ROW),
        (ROW, Wish("f", "r1", False), True, FunctionRow("f", None, 4)),
        (ROW, Wish("f", "r1", False), False, FunctionRow("f", None, 4)),
        (ROW, Wish("f", "r2", False), True, ROW),
        (None, Wish("f", "r1", True), None, "function_unknown"),
        (ROW, Wish("f", "r9", True), None, "revision_unknown"),
        (ROW, Wish("f", "r9", False, 1), None, "revision_unknown"),
        (ROW, Wish("f", "r2", True, 2), False, "generation_mismatch"),
        (ROW, Wish("f", "r2", False, 4), True, "generation_mismatch"),
        (ROW, Wish("f", "r2", True), False, "revision_not_running"),
        (ROW, Wish("f", "r1", True), False, "revision_not_running"),
    ],
)
def test_what_becomes_of_a_wish(row: FunctionRow | None, wish: Wish, running: bool | None, expected: object) -> None:
    after = decide(row, wish, running)
    assert expected == (after.code if isinstance(after, Refused) else after)


def test_a_switch_is_answered_with_what_was_before(driver: ServiceDriver) -> None:
    assert ("r2", "r1", 2) == body(driver.switch("r2"))
    assert [SetDefault("f", "r2", 2)] == driver.written


def test_a_switch_is_answered_when_it_is_on_disk(driver: ServiceDriver) -> None:
    driver.holding = True
    assert [] == driver.command(SwitchDefault("f", "r2", on=True))
    assert ("r1", 1) == driver.default()
    driver.release()
    (answer,) = driver.take()
    assert isinstance(answer, Answer)
    assert ("r2", "r1", 2) == body(answer.reply)


def test_a_switch_to_what_is_the_default_writes_nothing(driver: ServiceDriver) -> None:
    assert (("r1", "r1", 1), []) == (body(driver.switch("r1")), driver.written)


def test_off_leaves_none(driver: ServiceDriver) -> None:
    assert (None, "r1", 2) == body(driver.switch("r1", on=False))
    assert (None, 2) == driver.default()


def test_off_of_another_flips_nothing(driver: ServiceDriver) -> None:
    assert (("r1", "r1", 1), []) == (body(driver.switch("r2", on=False)), driver.written)


def test_two_switches_of_one_generation_are_one(driver: ServiceDriver) -> None:
    driver.holding = True
    driver.command(SwitchDefault("f", "r2", True, 1), "first")
    assert [] == driver.command(SwitchDefault("f", "r2", True, 1), "second")
    driver.release()
    replies = {effect.origin: effect.reply for effect in driver.take() if isinstance(effect, Answer)}
    assert ("r2", "r1", 2) == body(replies["first"])
    assert isinstance(replies["second"], Refused)
    assert "generation_mismatch" == replies["second"].code


def test_a_switch_that_the_disk_refuses_changes_nothing(driver: ServiceDriver) -> None:
    driver.holding = True
    driver.command(SwitchDefault("f", "r2", on=True))
    driver.release(FULL)
    assert [Answer("client", Refused("storage_full", "no room"))] == driver.take()
    assert ("r1", 1) == driver.default()
    assert ("r2", "r1", 2) == body(driver.switch("r2"))


def test_a_default_that_is_stopped_leaves_none_though_the_disk_is_full_at_first(driver: ServiceDriver) -> None:
    driver.holding = True
    driver.command(StopTask("s1"))
    driver.release(FULL)
    assert ("r1", 1) == driver.default()
    driver.pass_time(RETRY_US)
    assert (None, 2) == driver.default()
    assert 0 == len(driver.node.functions)


def test_a_revision_that_is_being_stopped_can_not_be_the_default(driver: ServiceDriver) -> None:
    driver.command(StopTask("s2"))
    reply = driver.switch("r2")
    assert isinstance(reply, Refused)
    assert "revision_not_running" == reply.code


def test_a_revision_that_runs_and_is_not_on_disk_yet_can_not_be_the_default(driver: ServiceDriver) -> None:
    driver.deploy("s3", revision="r3")
    driver.holding = True
    driver.ready(3)
    reply = driver.switch("r3")
    assert isinstance(reply, Refused)
    assert "revision_not_running" == reply.code
    driver.release()
    assert ("r3", "r1", 2) == body(driver.switch("r3"))


def test_a_function_keeps_its_generation_without_any_revision(driver: ServiceDriver) -> None:
    for task_id, runner_id in (("s1", 1), ("s2", 2)):
        driver.command(StopTask(task_id, force=True))
        driver.die(runner_id)
    assert (None, 2) == driver.default()
    driver.serve("s3", revision="r1", default=True)
    assert ("r1", 3) == driver.default()


def test_a_function_that_was_never_deployed_is_unknown(driver: ServiceDriver) -> None:
    reply = driver.switch("r1", function="g")
    assert isinstance(reply, Refused)
    assert "function_unknown" == reply.code
