"""After a restart, and on the way to one."""

from __future__ import annotations

import pytest

from tests.core.core_builders import (
    DIGEST,
    OTHER_DIGEST,
    START,
    Driver,
    make_task,
    of,
    starts,
    task_in,
    warm_spec,
)
from worker.core.effects import (
    CloseRunner,
    PrepareArtifact,
)
from worker.core.task import Reason, State

# -- after a restart --------------------------------------------------------------------------------------------------


def recovered(*tasks: object) -> Driver:
    driver = Driver()
    driver.node.restore(list(tasks), [], START)  # type: ignore[arg-type]
    driver.settle()
    return driver


def test_what_waited_goes_on() -> None:
    driver = recovered(make_task(queue_ms=7))
    assert ([PrepareArtifact(DIGEST)], {"queue"}) == (driver.take(), driver.timers)
    driver.artifact_ready()
    assert State.SCHEDULED == driver.status().state


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RUNNING])
def test_what_had_a_runner_is_lost(state: State) -> None:
    driver = recovered(task_in(state))
    assert (State.FAILED, Reason.LOST) == driver.ended()
    assert "the worker restarted while it ran (attempt 1, retry.max 0)" == driver.status().detail


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RUNNING])
def test_what_had_a_runner_goes_back_where_retry_allows(state: State) -> None:
    driver = recovered(task_in(state, retry_max=1, queue_ms=7))
    assert ((State.PENDING, None), 2) == (driver.ended(), driver.status().attempts)
    assert {"queue"} == driver.timers


def test_what_had_begun_is_lost_though_its_row_says_that_it_waits() -> None:
    task = make_task()
    driver = Driver()
    driver.node.restore([task], [], START, frozenset({task.id}))
    driver.settle()
    assert (State.FAILED, Reason.LOST) == driver.ended()
    assert State.SCHEDULED == driver.status().previous_state


def test_what_was_being_stopped_is_stopped() -> None:
    running = task_in(State.RUNNING, retry_max=5)
    stopping = make_task(status=type(running.status)(state=State.RUNNING, stopping=True), retry_max=5)
    assert (State.COMPLETED, Reason.STOPPED) == recovered(stopping).ended()


def test_the_queue_keeps_its_order_over_a_restart() -> None:
    driver = recovered(*(make_task(f"t{number}") for number in range(4)))
    assert ["t0", "t1"] == starts(driver.artifact_ready())


# -- drain ------------------------------------------------------------------------------------------------------------


def test_a_drain_starts_nothing_and_closes_what_rests(driver: Driver) -> None:
    driver.run("warm", warm_spec())
    driver.report(1)
    driver.run("cold")
    driver.node.jobs.admit(make_task("waits", digest=OTHER_DIGEST), driver.now)
    driver.take()
    driver.node.jobs.drain(driver.now)
    assert [CloseRunner(1)] == driver.take()
    assert [] == driver.exit(1) + driver.artifact_ready(OTHER_DIGEST) + driver.exit(2)
    assert {"waits"} == set(driver.node.tasks.live)


def test_a_draining_node_closes_warm_runners_as_they_finish(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.node.jobs.drain(driver.now)
    assert [CloseRunner(1)] == of(CloseRunner, driver.report(1))


def test_a_module_is_used_while_a_task_of_it_is_alive(driver: Driver) -> None:
    driver.add()
    assert (True, False) == (driver.node.tasks.uses(DIGEST), driver.node.tasks.uses(OTHER_DIGEST))
    driver.node.jobs.stop("t1", False, driver.now)
    assert not driver.node.tasks.uses(DIGEST)
