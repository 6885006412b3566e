"""Services are stopped, restarted and drained: what waits is served, and none is forgotten."""

from __future__ import annotations

import pytest

from tests.core.core_builders import CREATED_US, DIGEST, KILLED, answers, of
from tests.core.service_builders import STOPPED, ServiceDriver, running_task, service_spec, started
from worker.core.commands import AddTask, Done, StopTask
from worker.core.effects import (
    Answer,
    CloseListener,
    KillRunner,
    PrepareArtifact,
    ShutListener,
)
from worker.core.task import Reason, State, Task
from worker.core.verdict import Report

LINK = Report("link_failed", detail="unknown import")


@pytest.fixture
def driver() -> ServiceDriver:
    return ServiceDriver()


# -- stop -------------------------------------------------------------------------------------------------------------


def test_a_stopped_service_serves_what_waits_and_ends_with_its_last_runner(driver: ServiceDriver) -> None:
    driver.serve(default=True)
    effects = driver.command(StopTask("s1"))
    assert [ShutListener("s1")] == of(ShutListener, effects)
    assert (True, (None, 2)) == (driver.status("s1").stopping, driver.default())
    effects = driver.leave(1)
    assert ([CloseListener("s1")], STOPPED) == (effects, driver.ended("s1"))
    assert set() == driver.timers


def test_a_stop_is_answered_when_the_order_is_on_disk(driver: ServiceDriver) -> None:
    driver.serve()
    driver.holding = True
    assert [] == answers(driver.command(StopTask("s1")))
    driver.release()
    assert [Answer("client", Done(task_id="s1"))] == answers(driver.take())


def test_a_service_without_runners_ends_at_once(driver: ServiceDriver) -> None:
    driver.serve(idle_ms=0)
    driver.leave(1)
    driver.command(StopTask("s1"))
    assert STOPPED == driver.ended("s1")


def test_a_stop_does_not_wait_for_a_runner_that_can_not_start(driver: ServiceDriver) -> None:
    """One of two runners fails while the other still serves what waits."""
    driver.serve(min=2, max=2)
    driver.waits()
    driver.next_sample(queued=2, busy={1: driver.now.monotonic_us + 10**6})
    driver.command(StopTask("s1"))
    assert [] == of(CloseListener, driver.die(2))
    driver.next_sample(queued=0)
    driver.leave(1, calls=3)
    assert STOPPED == driver.ended("s1")


def test_a_fork_that_fails_for_a_service_that_is_gone_changes_nothing(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.command(StopTask("s1"))
    driver.node.spawn_failed(1, "EAGAIN", driver.now)
    assert ([], 4) == (driver.take(), driver.node.pool.free)


def test_what_callers_wait_for_is_not_written_lazily() -> None:
    driver = ServiceDriver(lazy_commit_us=50_000)
    driver.serve()
    assert State.RUNNING == driver.status("s1").state


def test_a_stopped_service_that_does_not_end_in_its_time_is_killed(driver: ServiceDriver) -> None:
    driver.serve()
    driver.command(StopTask("s1"))
    driver.pass_time(10_000_000)
    assert [CloseListener("s1"), KillRunner(1)] == of(CloseListener | KillRunner, driver.take())
    driver.die(1, KILLED)
    assert STOPPED == driver.ended("s1")


def test_a_forced_stop_waits_for_nothing(driver: ServiceDriver) -> None:
    driver.serve()
    effects = driver.command(StopTask("s1", force=True))
    assert [CloseListener("s1"), KillRunner(1)] == of(CloseListener | KillRunner, effects)
    driver.die(1, KILLED)
    assert STOPPED == driver.ended("s1")


def test_a_second_stop_with_force_cuts_the_first_one_short(driver: ServiceDriver) -> None:
    driver.serve()
    driver.command(StopTask("s1"))
    driver.command(StopTask("s1"))
    effects = driver.command(StopTask("s1", force=True))
    assert [CloseListener("s1"), KillRunner(1)] == of(CloseListener | KillRunner, effects)


def test_calls_that_wait_at_the_stop_get_a_runner_where_none_is_left(driver: ServiceDriver) -> None:
    driver.serve(max=1)
    driver.waits()
    driver.next_sample(queued=2, busy={1: driver.now.monotonic_us + 10**6})
    driver.command(StopTask("s1"))
    assert ["s1"] == started(driver.die(1, calls=3))
    driver.ready(2)
    driver.next_sample(queued=0)
    driver.leave(2, calls=2)
    assert STOPPED == driver.ended("s1")


def test_calls_that_wait_at_the_stop_are_let_go_where_no_runner_can_start(driver: ServiceDriver) -> None:
    driver.serve(max=1)
    driver.waits()
    driver.next_sample(queued=2, busy={1: driver.now.monotonic_us + 10**6})
    driver.command(StopTask("s1"))
    driver.die(1, calls=3)
    effects = driver.die(2)
    assert ([CloseListener("s1")], STOPPED) == (of(CloseListener, effects), driver.ended("s1"))


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_service_that_is_stopped_before_it_ran_has_failed(driver: ServiceDriver, scheduled: bool) -> None:
    if scheduled:
        driver.deploy()
    else:
        driver.command(AddTask("s1", "token", service_spec()))
    driver.command(StopTask("s1"))
    assert (State.FAILED, Reason.STOPPED) == driver.ended("s1")
    if scheduled:
        driver.die(1, KILLED)
    assert (4, set(), []) == (driver.node.pool.free, driver.timers, driver.node.services.views())


# -- restart and drain ------------------------------------------------------------------------------------------------


def test_a_service_that_waited_goes_on_waiting_after_a_restart(driver: ServiceDriver) -> None:
    waiting = Task("s1", "token", service_spec(), CREATED_US)
    driver.node.restore([waiting], [DIGEST], driver.now)
    driver.artifact_ready()
    assert (State.SCHEDULED, 1) == (driver.status("s1").state, driver.status("s1").attempts)


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RUNNING])
def test_a_service_starts_again_after_a_restart_without_counting_retries(driver: ServiceDriver, state: State) -> None:
    driver.node.restore([running_task("s1", service_spec(), state=state, attempts=7)], [DIGEST], driver.now)
    driver.artifact_ready()
    assert (State.SCHEDULED, 8) == (driver.status("s1").state, driver.status("s1").attempts)
    driver.ready(1)
    assert State.RUNNING == driver.status("s1").state


def test_a_service_that_was_being_stopped_is_stopped_by_a_restart(driver: ServiceDriver) -> None:
    driver.node.restore([running_task("s1", service_spec(), stopping=True)], [DIGEST], driver.now)
    driver.settle()
    assert STOPPED == driver.ended("s1")


def test_a_service_that_ran_before_the_restart_tries_again_where_its_runner_dies(driver: ServiceDriver) -> None:
    driver.node.restore([running_task("s1", service_spec())], [DIGEST], driver.now)
    driver.artifact_ready()
    driver.die(1)
    assert State.SCHEDULED == driver.status("s1").state
    driver.pass_time(100_000)
    driver.ready(2)
    assert (State.RUNNING, ["the runner died by SIGSEGV", None]) == (driver.status("s1").state, driver.troubles())


@pytest.mark.parametrize("attempts", [1, 2])
def test_one_that_never_ran_ends_where_its_artifact_can_not_be_made(driver: ServiceDriver, attempts: int) -> None:
    task = running_task("s1", service_spec(), state=State.SCHEDULED, attempts=attempts)
    driver.node.restore([task], [DIGEST], driver.now)
    driver.node.artifact_failed(DIGEST, "no memory", driver.now)
    driver.settle()
    assert (State.FAILED, Reason.COMPILE_FAILED) == driver.ended("s1")


def test_one_that_ran_is_tried_again_where_its_artifact_can_not_be_made_after_a_restart(driver: ServiceDriver) -> None:
    driver.node.restore([running_task("s1", service_spec())], [DIGEST], driver.now)
    driver.take()
    driver.node.artifact_failed(DIGEST, "no memory", driver.now)
    assert [] == driver.take()
    assert (State.PENDING, "no memory") == (driver.status("s1").state, driver.view().trouble)
    driver.pass_time(100_000)
    assert [PrepareArtifact(DIGEST)] == driver.take()
    assert ["s1"] == started(driver.artifact_ready())
    driver.ready(1)
    assert (State.RUNNING, ["no memory", None]) == (driver.status("s1").state, driver.troubles())


def test_a_service_that_no_longer_links_after_a_restart_fails(driver: ServiceDriver) -> None:
    driver.node.restore([running_task("s1", service_spec())], [DIGEST], driver.now)
    driver.artifact_ready()
    driver.node.job_reported(1, 0, LINK, driver.now)
    driver.leave(1)
    assert (State.FAILED, Reason.LINK_FAILED) == driver.ended("s1")


def test_services_serve_while_the_node_drains_and_keep_nobody_waiting(driver: ServiceDriver) -> None:
    driver.serve()
    driver.node.drain(driver.now)
    driver.node.stop_running(driver.now)
    driver.waits()
    assert ["s1"] == started(driver.next_sample(queued=1, busy={1: driver.now.monotonic_us + 10**6}))
    assert driver.node.draining
    assert (True, State.RUNNING) == (driver.node.idle, driver.status("s1").state)
