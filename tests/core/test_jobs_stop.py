"""A stop, in every state that a task can be in."""

from __future__ import annotations

import pytest

from tests.core.core_builders import (
    CLEAN,
    COMPLETED,
    DIGEST,
    KILLED,
    SECOND_US,
    Driver,
    make_spec,
    of,
    starts,
    with_limits,
)
from worker.core.effects import (
    CancelArtifact,
    Effect,
    InterruptJob,
    KillRunner,
)
from worker.core.task import Reason, State
from worker.core.verdict import Report


def test_a_stop_while_the_artifact_is_made_calls_it_off(driver: Driver) -> None:
    driver.add()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [CancelArtifact(DIGEST)] == of(CancelArtifact, driver.take())
    assert (State.FAILED, Reason.STOPPED) == driver.ended()


def test_a_stop_while_another_waits_for_the_artifact_calls_off_nothing(driver: Driver) -> None:
    driver.add("t1")
    driver.add("t2")
    driver.take()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [] == driver.take()


def test_a_task_stopped_in_the_queue_never_gets_a_runner() -> None:
    driver = Driver(slots=1)
    driver.run("t1")
    driver.add("t2")
    driver.node.jobs.stop("t2", False, driver.now)
    assert [] == starts(driver.exit(1))
    assert (State.FAILED, Reason.STOPPED) == driver.ended("t2")


def test_a_stop_before_it_runs_kills_the_runner_and_the_slot_comes_back_with_the_exit(driver: Driver) -> None:
    driver.schedule()
    driver.take()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [KillRunner(1)] == driver.take()
    assert ((State.FAILED, Reason.STOPPED), 1) == (driver.ended(), driver.node.pool.free)
    driver.exit(1, KILLED, bye=False)
    assert 2 == driver.node.pool.free


def test_a_stop_while_it_runs_interrupts_then_kills_after_the_grace(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [InterruptJob(1)] == driver.take()
    assert (State.RUNNING, True) == (driver.status().state, driver.status().stopping)
    driver.pass_time(SECOND_US - 1)
    assert [] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()
    driver.exit(1, KILLED, bye=False)
    assert (State.COMPLETED, Reason.STOPPED) == driver.ended()


def test_a_second_stop_does_not_move_the_grace(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.pass_time(SECOND_US - 1)
    driver.node.jobs.stop("t1", False, driver.now)
    assert [InterruptJob(1)] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()


def test_a_guest_that_stops_in_its_grace_says_so(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.report(1, Report("stopped", fuel_used=9))
    driver.exit(1)
    assert ((State.COMPLETED, Reason.STOPPED), 9) == (driver.ended(), driver.status().usage.fuel_used)


def test_a_forced_stop_has_no_grace(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.take()
    driver.node.jobs.stop("t1", True, driver.now)
    assert ([KillRunner(1)], set()) == (driver.take(), driver.timers)
    driver.exit(1, KILLED, bye=False)
    assert (State.COMPLETED, Reason.STOPPED) == driver.ended()


@pytest.mark.parametrize(("force", "effects"), [(False, []), (True, [KillRunner(1)])])
def test_a_stop_after_the_report_leaves_the_report_as_it_is(driver: Driver, force: bool, effects: list[Effect]) -> None:
    driver.run()
    driver.report(1)
    driver.take()
    driver.node.jobs.stop("t1", force, driver.now)
    assert effects == driver.take()
    driver.exit(1, KILLED if force else CLEAN, bye=not force)
    assert COMPLETED == driver.ended()


def test_a_stop_of_a_job_that_is_killed_already_asks_for_nothing(driver: Driver) -> None:
    driver.run(spec=with_limits(make_spec(), wall_ms=1))
    driver.pass_time(SECOND_US)
    driver.take()
    driver.node.jobs.stop("t1", False, driver.now)
    assert ([], set()) == (driver.take(), driver.timers)


def test_a_stop_of_a_task_that_is_not_there_does_nothing(driver: Driver) -> None:
    driver.node.jobs.stop("t9", True, driver.now)
    assert [] == driver.take()
