"""A service that was deployed to be its function's default becomes it by its first row as running, once."""

from __future__ import annotations

import pytest

from tests.core.core_builders import DIGEST, KILLED, of
from tests.core.service_builders import STOPPED, ServiceDriver, running_task, service_spec
from worker.core.changes import SetDefault, UpdateTask, WriteFailed
from worker.core.commands import Done, StopTask, SwitchDefault
from worker.core.effects import Answer
from worker.core.functions import FunctionRow
from worker.core.ledger import RETRY_US
from worker.core.task import Reason, State

FULL = WriteFailed("storage_full", "no room")


@pytest.fixture
def driver() -> ServiceDriver:
    return ServiceDriver()


def updates(driver: ServiceDriver) -> list[tuple[State, bool, bool]]:
    """State, stopping, default of every row of a task that was written."""
    tasks = [(change.task.status, change.default) for change in driver.written if isinstance(change, UpdateTask)]
    return [(status.state, status.stopping, default) for status, default in tasks]


def test_the_row_that_says_that_a_service_runs_makes_it_the_default(driver: ServiceDriver) -> None:
    driver.deploy(default=True)
    driver.holding = True
    driver.ready(1)
    (running,) = driver.held
    assert isinstance(running.change, UpdateTask)
    assert (State.RUNNING, True, None) == (
        running.change.task.status.state,
        running.change.default,
        driver.default()[0],
    )
    driver.release()
    assert ([], ("r1", 1)) == ([one for one in driver.written if isinstance(one, SetDefault)], driver.default())


def test_only_its_first_row_as_running_does(driver: ServiceDriver) -> None:
    driver.serve(default=True)
    driver.switch("r1", on=False)
    driver.command(StopTask("s1"))
    running, stopping = (State.RUNNING, False, True), (State.RUNNING, True, False)
    assert [(State.SCHEDULED, False, False), running, stopping] == updates(driver)
    assert (None, 2) == driver.default()


def test_a_default_that_the_disk_refused_is_with_the_next_row(driver: ServiceDriver) -> None:
    driver.deploy(default=True)
    driver.holding = True
    driver.ready(1)
    driver.release(FULL)
    assert (None, 0) == driver.default()
    driver.pass_time(RETRY_US)
    assert (updates(driver)[-1], ("r1", 1)) == ((State.RUNNING, False, True), driver.default())


@pytest.mark.parametrize("force", [False, True])
def test_one_that_is_stopped_before_it_is_on_disk_that_it_runs_is_never_the_default(
    driver: ServiceDriver, force: bool
) -> None:
    driver.deploy(default=True)
    driver.holding = True
    driver.ready(1)
    driver.release(FULL)
    driver.command(StopTask("s1", force))
    driver.pass_time(RETRY_US)
    assert ((None, 0), False) == (driver.default(), updates(driver)[-1][2])
    driver.die(1, KILLED)
    assert (0, STOPPED) == (len(driver.node.functions), driver.ended("s1"))


def test_a_switch_is_decided_after_the_row_that_makes_another_the_default(driver: ServiceDriver) -> None:
    driver.serve("s1", revision="r1")
    driver.deploy("s2", revision="r2", default=True)
    driver.holding = True
    driver.ready(2)
    assert [] == driver.command(SwitchDefault("f", "r1", on=True, if_generation=1))
    assert 1 == len(driver.held)
    driver.release()
    (answer,) = of(Answer, driver.take())
    assert isinstance(answer, Answer)
    assert (Done, ("r1", 2)) == (type(answer.reply), driver.default())


def test_of_two_that_become_the_default_at_once_the_later_row_counts(driver: ServiceDriver) -> None:
    for number in (1, 2):
        driver.deploy(f"s{number}", revision=f"r{number}", default=True)
    driver.holding = True
    driver.ready(1)
    driver.ready(2)
    driver.command(SwitchDefault("f", "r1", on=True, if_generation=2))
    driver.release()
    (answer,) = of(Answer, driver.take())
    assert isinstance(answer, Answer)
    assert (Done, ("r1", 3), 0) == (type(answer.reply), driver.default(), len(driver.node.functions))


def test_a_switch_on_its_way_to_the_disk_comes_before_a_new_default(driver: ServiceDriver) -> None:
    driver.serve("s1", revision="r1")
    driver.deploy("s2", revision="r2", default=True)
    driver.holding = True
    driver.command(SwitchDefault("f", "r1", on=True))
    driver.ready(2)
    driver.release()
    assert ("r2", 2) == driver.default()


def test_a_service_that_does_not_ask_for_it_is_not_the_default(driver: ServiceDriver) -> None:
    driver.serve()
    assert (None, 0) == driver.default()


def test_a_restart_does_not_take_the_default_back_from_another() -> None:
    driver = ServiceDriver()
    other = running_task("s1", service_spec(revision="r1"))
    mine = running_task("s2", service_spec(revision="r2", default=True))
    driver.node.restore([other, mine], [DIGEST], driver.now, functions=[FunctionRow("f", "r1", 3)])
    driver.artifact_ready()
    driver.ready(1)
    driver.ready(2)
    assert ("r1", 3) == driver.default()


@pytest.mark.parametrize("state", [State.PENDING, State.SCHEDULED])
@pytest.mark.parametrize("attempts", [1, 2])
def test_one_that_never_ran_before_the_restart_still_becomes_the_default(state: State, attempts: int) -> None:
    driver = ServiceDriver()
    task = running_task("s1", service_spec(default=True), state=state, attempts=attempts)
    driver.node.restore([task], [DIGEST], driver.now, functions=[FunctionRow("f", None, 3)])
    driver.artifact_ready()
    driver.ready(1)
    assert ("r1", 4) == driver.default()


@pytest.mark.parametrize("state", [State.PENDING, State.SCHEDULED])
def test_one_that_ran_before_the_restart_does_not_take_a_default_that_was_switched_off(state: State) -> None:
    driver = ServiceDriver()
    task = running_task("s1", service_spec(default=True), state=state, attempts=2)
    rows = [FunctionRow("f", None, 3)]
    driver.node.restore([task], [DIGEST], driver.now, frozenset({"s1"}), rows)
    driver.artifact_ready()
    driver.ready(1)
    assert (None, 3) == driver.default()


@pytest.mark.parametrize("attempts", [1, 2])
def test_one_that_never_ran_before_the_restart_ends_by_a_failed_start(attempts: int) -> None:
    driver = ServiceDriver()
    task = running_task("s1", service_spec(), state=State.SCHEDULED, attempts=attempts)
    driver.node.restore([task], [DIGEST], driver.now)
    driver.artifact_ready()
    driver.die(1)
    assert (State.FAILED, Reason.CRASHED) == driver.ended("s1")


def test_a_default_that_did_not_live_to_the_restart_is_none() -> None:
    driver = ServiceDriver()
    driver.node.restore([], [DIGEST], driver.now, functions=[FunctionRow("f", "r1", 3)])
    driver.settle()
    assert (None, 4) == driver.default()
