"""Services among others and in trouble: who gives way, who backs off, who is killed for being late."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.core_builders import KILLED, add, of, warm_spec
from tests.core.service_builders import MS, SAMPLE_US, ServiceDriver, far, service_spec, started
from worker.core.changes import SetTrouble, WriteFailed
from worker.core.commands import AddTask
from worker.core.effects import (
    CloseListener,
    CloseRunner,
    Commit,
    KillRunner,
    OpenListener,
    RetireServer,
    StartRunner,
)
from worker.core.ledger import RETRY_US
from worker.core.task import Limits
from worker.core.verdict import Exit

SECOND_US = 1_000_000
WALL = Limits(wall_ms=1_000)


@pytest.fixture
def driver() -> ServiceDriver:
    return ServiceDriver()


# -- for others -------------------------------------------------------------------------------------------------------


def test_an_idle_runner_goes_for_a_revision_that_has_none() -> None:
    driver = ServiceDriver(slots=1)
    driver.serve("s1", function="f")
    assert [RetireServer("s1")] == of(RetireServer, driver.deploy("s2", function="g"))
    assert ["s2"] == started(driver.leave(1))


def test_a_warm_runner_without_a_job_goes_first() -> None:
    driver = ServiceDriver(slots=2)
    driver.serve("s1", function="f")
    runner_id = driver.run("t1", warm_spec())
    driver.report(runner_id)
    assert [CloseRunner(runner_id)] == of(CloseRunner | RetireServer, driver.deploy("s2", function="g"))


def test_a_service_goes_for_the_first_job() -> None:
    driver = ServiceDriver(slots=1)
    driver.serve()
    assert [RetireServer("s1")] == of(RetireServer, driver.command(add("t1")))
    assert ["t1"] == [effect.task.id for effect in of(StartRunner, driver.leave(1))]  # type: ignore[attr-defined]


def test_jobs_leave_a_slot_for_services_that_sleep() -> None:
    driver = ServiceDriver(slots=3)
    driver.serve()
    driver.leave(1, calls=1)
    for number in range(4):
        driver.command(add(f"t{number}"))
    assert 1 == driver.node.pool.free
    assert ["s1"] == started(driver.waits())


def test_memory_is_shared_with_jobs() -> None:
    driver = ServiceDriver(slots=4, runners_memory_bytes=150 * 2**20)
    driver.serve(limits=Limits(memory_bytes=64 * 2**20))
    driver.schedule("t1")
    assert [] == of(StartRunner, driver.command(add("t2")))
    assert (2, 6 * 2**20) == (driver.node.pool.free, driver.node.pool.free_memory_bytes)


# -- trouble ----------------------------------------------------------------------------------------------------------


def fail(driver: ServiceDriver) -> None:
    """The service runs, has no runner left, and the next one dies before it is ready."""
    driver.serve()
    driver.leave(1, calls=1)
    driver.waits()
    driver.die(2)


def test_a_service_whose_runner_can_not_start_says_why_and_sends_its_callers_away(driver: ServiceDriver) -> None:
    driver.serve()
    driver.leave(1, calls=1)
    driver.waits()
    assert [CloseListener("s1")] == driver.die(2)
    assert "the runner died by SIGSEGV" == driver.view().trouble
    assert ["the runner died by SIGSEGV"] == driver.troubles()


def test_it_is_tried_again_after_a_while_with_a_new_listener(driver: ServiceDriver) -> None:
    fail(driver)
    driver.pass_time(99 * MS)
    assert [] == driver.take()
    driver.pass_time(1 * MS)
    effects = driver.take()
    assert ([OpenListener(driver.rows["s1"])], ["s1"]) == (of(OpenListener, effects), started(effects))
    driver.ready(3)
    assert (None, [None]) == (driver.view().trouble, driver.troubles()[-1:])


def test_every_failure_in_a_row_doubles_the_wait(driver: ServiceDriver) -> None:
    fail(driver)
    for delay_ms in (100, 200, 400, 800):
        driver.pass_time((delay_ms - 1) * MS)
        assert [] == started(driver.take())
        driver.pass_time(1 * MS)
        (runner_id,) = driver.node.pool.runners
        driver.die(runner_id)
    assert 1 == driver.troubles().count("the runner died by SIGSEGV")


@pytest.mark.parametrize(
    ("lived_us", "exit_", "calls", "bye", "backs_off"),
    [
        (0, Exit(signal="SIGSEGV"), 0, False, True),
        (0, Exit(signal="SIGSEGV"), 1, False, False),
        (SECOND_US, Exit(signal="SIGSEGV"), 0, False, False),
        (0, Exit(code=0), 0, True, True),
        (0, Exit(code=0), 5, True, False),
        (0, Exit(code=1), 0, False, True),
    ],
)
def test_who_dies_as_soon_as_it_is_ready_has_not_started(
    driver: ServiceDriver, lived_us: int, exit_: Exit, calls: int, bye: bool, backs_off: bool
) -> None:
    driver.serve()
    driver.pass_time(lived_us)
    if bye:
        driver.node.runner_said_bye(1, driver.now)
    driver.die(1, exit_, calls)
    assert backs_off == (driver.view().trouble is not None)


def test_a_service_with_other_runners_keeps_its_listener_in_trouble(driver: ServiceDriver) -> None:
    driver.serve(min=2)
    assert [] == of(CloseListener, driver.die(2))
    assert driver.view().trouble is not None
    driver.pass_time(100 * MS)
    assert ["s1"] == started(driver.take())


def test_a_trouble_that_the_disk_refused_is_written_again(driver: ServiceDriver) -> None:
    driver.serve(min=2)
    driver.holding = True
    driver.die(2)
    (commit,) = driver.held
    assert isinstance(commit, Commit)
    driver.release(WriteFailed("storage_full", "no room"))
    driver.pass_time(RETRY_US)
    written = [change for change in driver.written if isinstance(change, SetTrouble)]
    assert 2 <= len(written)
    assert {"the runner died by SIGSEGV"} == {change.detail for change in written[:2]}


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_a_runner_past_its_deadline_is_killed(driver: ServiceDriver) -> None:
    driver.serve(limits=WALL)
    driver.waits()
    deadline_us = driver.now.monotonic_us + 300 * MS
    assert [] == of(KillRunner, driver.next_sample(busy={1: deadline_us}, us=499 * MS))
    assert [KillRunner(1)] == of(KillRunner, driver.next_sample(busy={1: deadline_us}, us=1 * MS))
    driver.die(1, KILLED)
    assert None is driver.view().trouble


@pytest.mark.parametrize("deadline_us", [2**63, 2**64 - 1])
def test_a_record_can_not_buy_time(driver: ServiceDriver, deadline_us: int) -> None:
    driver.serve(limits=WALL)
    driver.waits()
    driver.next_sample(busy={1: deadline_us})
    assert [] == of(KillRunner, driver.next_sample(busy={1: deadline_us}, us=1_399 * MS))
    assert [KillRunner(1)] == of(KillRunner, driver.next_sample(busy={1: deadline_us}, us=1 * MS))


def test_each_call_has_a_deadline_of_its_own(driver: ServiceDriver) -> None:
    driver.serve(limits=WALL)
    driver.waits()
    for _ in range(5):
        assert [] == of(KillRunner, driver.next_sample(busy={1: driver.now.monotonic_us + SECOND_US}, us=SECOND_US))


@pytest.mark.parametrize("seen", [{"busy": {7: 1}}, {"busy": {2: 0}}])
def test_a_record_of_nobody_who_serves_kills_nobody(driver: ServiceDriver, seen: dict[str, Any]) -> None:
    driver.serve("s1", min=2)
    driver.waits()
    assert [] == of(KillRunner, driver.next_sample(**seen))


def test_one_service_of_many_that_wait_is_not_starved() -> None:
    """Two busy revisions want everything; a third one's first call still finds a runner."""
    driver = ServiceDriver(slots=4)
    for number in (1, 2, 3):
        driver.command(AddTask(f"s{number}", "token", service_spec(function=f"f{number}", max=8)))
    driver.artifact_ready()
    for runner_id in list(driver.node.pool.runners):
        driver.ready(runner_id)
    driver.leave(3, calls=1)
    driver.waits("s1")
    driver.waits("s2")
    for _ in range(5):
        driver.pass_time(SAMPLE_US)
        for task_id in ("s1", "s2"):
            mine = driver.node.services.revisions[task_id].runners
            driver.sample(task_id, queued=9, busy={runner_id: far(driver) for runner_id in mine})
        for runner_id in list(driver.node.pool.runners):
            driver.ready(runner_id)
    assert 1 == driver.node.pool.free
    assert ["s3"] == started(driver.waits("s3"))
