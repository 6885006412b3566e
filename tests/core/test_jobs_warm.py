"""Warm runners: given the next job, closed, replaced, and lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.core_builders import (
    COMPLETED,
    CRASHED,
    KILLED,
    SECOND_US,
    Driver,
    of,
    says_outcome,
    says_started,
    starts,
    warm_spec,
)
from worker.core.effects import (
    CloseRunner,
    GiveJob,
    KillRunner,
    StartRunner,
)
from worker.core.pool import RunnerState
from worker.core.runners import LINGER_US
from worker.core.task import Reason, State
from worker.core.verdict import Exit, Report


def test_a_warm_runner_is_judged_by_its_report_and_takes_the_next_job(driver: Driver) -> None:
    driver.run("t1", warm_spec())
    driver.report(1)
    assert (COMPLETED, {"idle"}) == (driver.ended(), driver.timers)
    (give,) = of(GiveJob, driver.add("t2", warm_spec(args=("x",))))
    assert GiveJob(1, driver.rows["t2"], 2) == give
    assert {"init"} == driver.timers
    driver.pass_time(25)
    driver.begin(1)
    driver.report(1)
    assert COMPLETED == driver.ended("t2")
    assert (None, 56) == (driver.status("t2").usage.init_us, driver.status("t2").usage.cpu_us)


def test_a_waiting_task_of_its_key_gets_the_warm_runner_at_once() -> None:
    driver = Driver(slots=1)
    driver.run("t1", warm_spec())
    driver.add("t2", warm_spec())
    assert [GiveJob] == [type(effect) for effect in of(GiveJob, driver.report(1))]


def test_a_warm_runner_that_rested_long_enough_is_closed(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    driver.pass_time(10 * SECOND_US)
    assert [CloseRunner(1)] == driver.take()
    driver.exit(1)
    assert (2, set()) == (driver.node.pool.free, driver.timers)


def test_a_closed_runner_that_does_not_end_is_killed(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    driver.pass_time(10 * SECOND_US)
    driver.pass_time(LINGER_US)
    assert [CloseRunner(1), KillRunner(1)] == driver.take()


@pytest.mark.parametrize("says", [says_started(1), says_outcome(1), says_started(0), says_outcome(0)])
def test_a_closed_runner_that_goes_on_working_is_killed(driver: Driver, says: Callable[[Driver], None]) -> None:
    driver = Driver(max_jobs_per_runner=1)
    driver.run(spec=warm_spec())
    assert [CloseRunner(1)] == of(CloseRunner, driver.report(1))
    says(driver)
    assert [KillRunner(1)] == driver.take()


def test_a_warm_runner_is_replaced_after_its_last_job() -> None:
    driver = Driver(max_jobs_per_runner=2)
    driver.run("t1", warm_spec())
    assert [] == of(CloseRunner, driver.report(1))
    driver.add("t2", warm_spec())
    driver.begin(1)
    assert [CloseRunner(1)] == of(CloseRunner, driver.report(1))
    assert [StartRunner] == [type(effect) for effect in of(StartRunner, driver.add("t3", warm_spec()))]


def test_a_resting_runner_gives_way_to_a_task_that_has_no_slot() -> None:
    driver = Driver(slots=2)
    driver.run("t1", warm_spec())
    driver.run("t2", warm_spec(env=(("A", "b"),)))
    driver.report(2)
    driver.report(1)
    assert [CloseRunner(2)] == of(CloseRunner, driver.add("t3") + driver.add("t4"))
    effects = driver.exit(2)
    assert (["t3"], [CloseRunner(1)]) == (starts(effects), of(CloseRunner, effects))
    assert ["t4"] == starts(driver.exit(1))


def test_a_resting_runner_that_dies_costs_nobody(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    driver.exit(1, KILLED, bye=False)
    assert (2, set(), COMPLETED) == (driver.node.pool.free, driver.timers, driver.ended())
    assert [StartRunner] == [type(effect) for effect in of(StartRunner, driver.add("t2", warm_spec()))]


def test_a_warm_runner_that_dies_takes_the_job_that_it_began(driver: Driver) -> None:
    driver.run("t1", warm_spec())
    driver.report(1)
    driver.add("t2", warm_spec())
    driver.begin(1)
    driver.exit(1, Exit(signal="SIGSEGV"), bye=False)
    assert (COMPLETED, CRASHED) == (driver.ended("t1"), driver.ended("t2"))


def test_a_stop_before_a_warm_runner_began_the_job_kills_it(driver: Driver) -> None:
    driver.run("t1", warm_spec())
    driver.report(1)
    driver.add("t2", warm_spec())
    driver.node.jobs.stop("t2", False, driver.now)
    assert [KillRunner(1)] == of(KillRunner, driver.take())
    assert ["t3"] == starts(driver.add("t3", warm_spec()))
    assert [2] == [live.runner_id for live in driver.node.tasks.live.values()]


def test_a_stop_of_a_warm_job_leaves_the_runner_warm(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.node.jobs.stop("t1", False, driver.now)
    driver.report(1, Report("stopped"))
    assert ((State.COMPLETED, Reason.STOPPED), {"idle"}) == (driver.ended(), driver.timers)
    assert RunnerState.IDLE == driver.node.pool.runners[1].state


def test_a_warm_runner_that_could_not_load_its_artifact_takes_no_job(driver: Driver) -> None:
    driver.schedule(spec=warm_spec())
    driver.node.job_reported(1, 0, Report("init_failed"), driver.now)
    driver.take()
    assert {"linger"} == driver.timers
    driver.exit(1)
    assert (State.FAILED, Reason.INIT_FAILED) == driver.ended()
