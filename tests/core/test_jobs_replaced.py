"""A job that was handed to a warm runner and never began there: a new process gets it, once, in the same slot."""

from __future__ import annotations

import pytest

from tests.core.core_builders import (
    CLEAN,
    COMPLETED,
    CRASHED,
    DIGEST,
    KILLED,
    SECOND_US,
    Driver,
    of,
    warm_spec,
)
from worker.core.effects import GiveJob, KillRunner, StartRunner
from worker.core.task import Reason, State
from worker.core.verdict import Exit, Report

SEGV = Exit(signal="SIGSEGV")


def handed(driver: Driver) -> None:
    """t1 is over, and its runner, 1, has been handed t2 as job 2."""
    driver.run("t1", warm_spec())
    driver.report(1)
    (give,) = of(GiveJob, driver.add("t2", warm_spec()))
    assert GiveJob(1, driver.rows["t2"], 2) == give


@pytest.mark.parametrize("died", [KILLED, SEGV, CLEAN], ids=["killed", "crashed", "ended"])
@pytest.mark.parametrize("bye", [False, True], ids=["silent", "with_BYE"])
def test_a_warm_runner_that_dies_before_it_began_its_job_is_replaced(driver: Driver, died: Exit, bye: bool) -> None:
    handed(driver)
    (start,) = of(StartRunner, driver.exit(1, died, bye=bye))
    assert ("t2", 3, State.SCHEDULED, {"init"}) == (
        start.task.id,
        start.job_id,
        driver.status("t2").state,
        driver.timers,
    )
    driver.begin(start.runner_id)
    driver.report(start.runner_id)
    assert (COMPLETED, 1) == (driver.ended("t2"), driver.status("t2").attempts)


def test_one_that_does_not_begin_in_time_is_killed_and_replaced(driver: Driver) -> None:
    handed(driver)
    driver.pass_time(5 * SECOND_US)
    assert [KillRunner(1)] == driver.take()
    (start,) = of(StartRunner, driver.exit(1, KILLED, bye=False))
    driver.begin(start.runner_id)
    driver.report(start.runner_id)
    assert COMPLETED == driver.ended("t2")


def test_one_that_can_not_be_told_is_killed_and_replaced(driver: Driver) -> None:
    handed(driver)
    driver.node.not_given(1)
    assert [KillRunner(1)] == driver.take()
    assert [3] == [start.job_id for start in of(StartRunner, driver.exit(1, KILLED, bye=False))]


def test_that_one_who_is_gone_can_not_be_told_changes_nothing(driver: Driver) -> None:
    driver.node.not_given(7)
    assert [] == driver.take()


def test_its_story_tells_of_the_first_one(driver: Driver) -> None:
    handed(driver)
    driver.holding = True
    driver.exit(1, SEGV, bye=False)
    (commit,) = driver.held
    told = [(note.event, note.state, note.detail) for note in commit.change.notes]  # type: ignore[union-attr]
    assert [("runner_replaced", "scheduled", "the runner died by SIGSEGV")] == told


def test_it_is_replaced_once_alone(driver: Driver) -> None:
    handed(driver)
    (start,) = of(StartRunner, driver.exit(1, KILLED, bye=False))
    assert [] == of(StartRunner, driver.exit(start.runner_id, KILLED, bye=False))
    assert (CRASHED, 2) == (driver.ended("t2"), driver.node.pool.free)


def test_what_the_first_one_said_does_not_count_for_the_second(driver: Driver) -> None:
    handed(driver)
    (start,) = of(StartRunner, driver.exit(1, CLEAN, bye=True))
    driver.begin(start.runner_id)
    driver.node.exited(start.runner_id, CLEAN, driver.now)
    driver.settle()
    assert CRASHED == driver.ended("t2")


def test_a_job_that_it_began_is_not_begun_again(driver: Driver) -> None:
    handed(driver)
    driver.begin(1)
    assert [] == of(StartRunner, driver.exit(1, KILLED, bye=False))
    assert CRASHED == driver.ended("t2")


def test_one_that_broke_its_protocol_is_not_replaced(driver: Driver) -> None:
    """It is hostile: that it did not say STARTED shows nothing."""
    handed(driver)
    driver.node.misbehaved(1, "garbage")
    assert [] == of(StartRunner, driver.exit(1, KILLED, bye=False))
    assert CRASHED == driver.ended("t2")


def test_a_new_runner_that_dies_before_it_began_is_not_replaced(driver: Driver) -> None:
    driver.schedule("t1", warm_spec())
    assert [] == of(StartRunner, driver.exit(1, KILLED, bye=False))
    assert CRASHED == driver.ended("t1")


def test_a_job_that_was_stopped_meanwhile_needs_no_runner(driver: Driver) -> None:
    handed(driver)
    driver.node.jobs.stop("t2", False, driver.now)
    assert [] == of(StartRunner, driver.exit(1, KILLED, bye=False))
    assert (State.FAILED, Reason.STOPPED) == driver.ended("t2")


@pytest.mark.parametrize("told", [True, False], ids=["told", "not_told"])
def test_without_its_artifact_it_ends_as_its_runner_did(driver: Driver, told: bool) -> None:
    """The artifact was let go meanwhile, and its way back to the queue is closed: no other runner can be made."""
    handed(driver)
    driver.node.artifact_evicted(DIGEST)
    if not told:
        driver.node.not_given(1)
    assert [] == of(StartRunner, driver.exit(1, KILLED, bye=False))
    reason = Reason.CRASHED if told else Reason.INIT_FAILED
    assert (State.FAILED, reason) == driver.ended("t2")


def test_an_outcome_of_the_job_that_went_on_to_another_is_out_of_turn(driver: Driver) -> None:
    handed(driver)
    (start,) = of(StartRunner, driver.exit(1, KILLED, bye=False))
    driver.node.runner_ready(start.runner_id, 60_001, (), 1, driver.now)
    driver.node.job_reported(start.runner_id, 2, Report("exit"), driver.now)
    assert [KillRunner(start.runner_id)] == driver.take()
