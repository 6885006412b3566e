"""What a hostile runner says, and what comes too late: it is killed, and nobody else is troubled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.core_builders import (
    CLEAN,
    COMPLETED,
    CRASHED,
    KILLED,
    SECOND_US,
    Driver,
    exited_ok,
    of,
    says_bye,
    says_outcome,
    says_started,
    warm_spec,
)
from worker.core.effects import (
    KillRunner,
)
from worker.core.pool import RunnerState
from worker.core.task import Reason, State
from worker.core.verdict import Exit, Report


def scheduled(driver: Driver) -> None:
    driver.schedule()


def ready(driver: Driver) -> None:
    driver.schedule()
    driver.node.runner_ready(1, 60_001, (), 1, driver.now)


def running(driver: Driver) -> None:
    driver.run()


def reported(driver: Driver) -> None:
    driver.run()
    driver.report(1)


def warm_running(driver: Driver) -> None:
    driver.run(spec=warm_spec())


def refused_load(driver: Driver) -> None:
    driver.schedule()
    driver.node.job_reported(1, 0, Report("init_failed"), driver.now)
    driver.node.runner_ready(1, 60_001, (), 1, driver.now)


HOSTILE: list[tuple[str, Callable[[Driver], None], Callable[[Driver], None], str]] = [
    ("STARTED before READY", scheduled, says_started(1), "STARTED for job 1 out of turn; it was given 1"),
    ("STARTED of another job", ready, says_started(7), "STARTED for job 7 out of turn; it was given 1"),
    ("STARTED twice", running, says_started(1), "STARTED for job 1 out of turn"),
    ("STARTED after OUTCOME", reported, says_started(1), "STARTED for job 1 out of turn"),
    ("STARTED after a refused load", refused_load, says_started(1), "STARTED for job 1 out of turn"),
    ("OUTCOME of another job", running, says_outcome(7), "OUTCOME for job 7 out of turn; it was given 1"),
    ("OUTCOME of job 0 while it runs", running, says_outcome(0), "OUTCOME for job 0 out of turn; it was given 1"),
    ("OUTCOME of a job before READY", scheduled, says_outcome(1), "OUTCOME for job 1 out of turn; it was given 0"),
    ("OUTCOME twice", reported, says_outcome(1), "OUTCOME for job 1 out of turn"),
    ("OUTCOME without STARTED", ready, says_outcome(1), "OUTCOME says exit, which a scheduled job can't end with"),
    ("a stop that nobody ordered", running, says_outcome(1, Report("stopped")), "OUTCOME says stopped"),
    (
        "a reason that is not a guest's",
        warm_running,
        says_outcome(1, Report("compile_failed")),
        "OUTCOME says compile",
    ),
]


@pytest.mark.parametrize(
    ("before", "says", "detail"), [row[1:] for row in HOSTILE], ids=[row[0].replace(" ", "_") for row in HOSTILE]
)
def test_a_runner_that_breaks_its_protocol_is_killed_and_its_job_crashed(
    driver: Driver, before: Callable[[Driver], None], says: Callable[[Driver], None], detail: str
) -> None:
    before(driver)
    driver.take()
    says(driver)
    assert ([KillRunner(1)], set()) == (driver.take(), driver.timers)
    driver.exit(1, KILLED)
    assert CRASHED == driver.ended()
    assert (driver.status().detail or "").startswith(f"the runner broke its protocol and was killed: {detail}")


def test_garbage_on_the_pipe_after_the_report_makes_the_report_worthless(driver: Driver) -> None:
    reported(driver)
    driver.node.misbehaved(1, "bad magic")
    assert [KillRunner(1)] == driver.take()
    driver.exit(1)
    assert CRASHED == driver.ended()


@pytest.mark.parametrize("says", [says_started(0), says_outcome(0), says_bye])
def test_a_resting_runner_that_speaks_is_killed(driver: Driver, says: Callable[[Driver], None]) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    says(driver)
    assert [KillRunner(1)] == driver.take()
    assert (COMPLETED, set()) == (driver.ended(), driver.timers)


@pytest.mark.parametrize("says", [says_started(1), says_outcome(1)])
def test_what_a_killed_runner_still_says_does_not_change_why_it_was_killed(
    driver: Driver, says: Callable[[Driver], None]
) -> None:
    driver.schedule()
    driver.pass_time(5 * SECOND_US)
    assert [KillRunner(1)] == of(KillRunner, driver.take())
    says(driver)
    driver.node.misbehaved(1, "garbage")
    assert [] == driver.take()
    driver.exit(1, KILLED)
    assert (State.FAILED, Reason.INIT_FAILED) == driver.ended()


def test_a_runner_that_finished_while_it_was_being_killed_did_finish(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", True, driver.now)
    driver.report(1)
    assert set() == driver.timers
    driver.exit(1, CLEAN)
    assert COMPLETED == driver.ended()


def test_what_comes_of_a_runner_that_is_gone_changes_nothing(driver: Driver) -> None:
    driver.run()
    driver.exit(1, Exit(signal="SIGSEGV"), bye=False)
    node = driver.node
    node.spawned(1, 1)
    node.runner_ready(1, 60_001, (), 1, driver.now)
    node.job_started(1, 1, driver.now)
    node.job_reported(1, 1, exited_ok(), driver.now)
    node.runner_said_bye(1, driver.now)
    node.misbehaved(1, "late")
    assert ([], CRASHED, 2) == (driver.take(), driver.ended(), node.pool.free)


def test_a_second_ready_changes_nothing(driver: Driver) -> None:
    driver.run()
    driver.node.runner_ready(1, 0, ("another",), 9, driver.now)
    runner = driver.node.pool.runners[1]
    assert (RunnerState.BUSY, ("seccomp",), 250) == (runner.state, runner.layers, runner.load_us)
