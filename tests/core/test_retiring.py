"""Runners that are asked to end: by a message that whichever takes it first hears, or by their record."""

from __future__ import annotations

import pytest

from tests.core.core_builders import of
from tests.core.service_builders import MS, ServiceDriver, far, started
from worker.core.effects import Effect, RetireServer
from worker.core.task import Limits

SECOND_US = 1_000_000
WALL = Limits(wall_ms=1_000)


@pytest.fixture
def driver() -> ServiceDriver:
    return ServiceDriver()


def test_of_two_that_retire_each_is_waited_for(driver: ServiceDriver) -> None:
    driver.serve(min=0, max=2, idle_ms=1_000)
    driver.waits()
    driver.next_sample(queued=2, busy={1: far(driver)})
    driver.ready(2)
    driver.go_quiet()
    driver.pass_time(SECOND_US)
    driver.leave(1)
    assert "retire" in driver.timers
    driver.leave(2)
    assert "retire" not in driver.timers


def test_a_retirement_that_is_not_in_the_queue_any_more_is_forgotten(driver: ServiceDriver) -> None:
    driver.serve(idle_ms=1_000)
    driver.pass_time(SECOND_US)
    driver.pass_time(2 * SECOND_US)
    driver.waits()
    driver.next_sample(queued=1)
    assert (1, set()) == (driver.view().queued, driver.timers & {"retire"})


@pytest.fixture
def crowded() -> ServiceDriver:
    """`s1` has both slots, and both runners are at calls."""
    driver = ServiceDriver(slots=2)
    driver.serve("s1", max=2, limits=WALL)
    driver.waits()
    driver.next_sample(queued=1, busy={1: far(driver)})
    driver.ready(2)
    both_busy(driver)
    return driver


def both_busy(driver: ServiceDriver, queued: int = 0) -> list[Effect]:
    """A sample 50 ms later; whom it asks to end."""
    busy = {1: far(driver), 2: far(driver)}
    return of(RetireServer, driver.next_sample("s1", queued=queued, busy=busy, us=50 * MS))


def test_what_is_still_in_the_queue_is_not_sent_again(crowded: ServiceDriver) -> None:
    assert [RetireServer("s1")] == of(RetireServer, crowded.deploy("s2", function="g"))
    assert [] == [effect for _ in range(60) for effect in both_busy(crowded, queued=1)]
    assert 0 == crowded.view("s1").queued


def test_who_takes_a_message_that_is_late_has_not_failed(crowded: ServiceDriver) -> None:
    crowded.deploy("s2", function="g")
    for _ in range(60):
        both_busy(crowded, queued=1)
    assert ["s2"] == started(crowded.die(2, calls=1))
    crowded.die(1, calls=1)
    assert ["s1"] == started(crowded.next_sample("s1", queued=2))
    crowded.ready(4)
    crowded.leave(4)
    assert (None, []) == (crowded.view("s1").trouble, crowded.troubles())


def test_a_runner_that_was_told_by_its_record_is_counted_until_it_is_gone(crowded: ServiceDriver) -> None:
    crowded.tells.append(2)
    assert [RetireServer("s1")] == of(RetireServer, crowded.deploy("s2", function="g"))
    # Of 50 ms: longer than a message may take, not as long as a call.
    assert [] == [effect for _ in range(60) for effect in both_busy(crowded, queued=2)]
    assert 2 == crowded.view("s1").queued
    assert ["s2"] == started(crowded.leave(2, calls=1))
    assert "retire" not in crowded.timers


def test_a_runner_that_does_not_do_what_it_was_told_is_not_counted_on_for_ever(crowded: ServiceDriver) -> None:
    crowded.tells.append(2)
    crowded.deploy("s2", function="g")
    asked = [effect for _ in range(70) for effect in both_busy(crowded)]
    assert [RetireServer("s1")] == asked


@pytest.mark.parametrize("runner_id", [1, 99, None])
def test_an_answer_that_comes_when_nobody_is_to_end_any_more_counts_for_nothing(
    driver: ServiceDriver, runner_id: int | None
) -> None:
    driver.serve(max=2)
    driver.node.traffic.retire_asked("s1", runner_id, driver.now)
    driver.node.traffic.retire_asked("gone", runner_id, driver.now)
    assert ([], set()) == (driver.take(), driver.timers & {"retire"})
    driver.waits()
    driver.next_sample(queued=1, busy={1: far(driver)})
    assert 1 == driver.view().queued


def test_one_that_went_before_it_could_be_told_is_asked_for_again(crowded: ServiceDriver) -> None:
    crowded.tells += [99, 2]
    crowded.deploy("s2", function="g")
    asked = [effect for _ in range(41) for effect in both_busy(crowded)]
    assert ([RetireServer("s1")], {2}) == (asked, crowded.node.services.revisions["s1"].told)


def test_who_was_told_is_waited_for_though_another_is_asked_meanwhile() -> None:
    """Two of three are to end; the message to the second doesn't shorten the time of the first."""
    driver = ServiceDriver(slots=3)
    driver.serve("s1", max=3, limits=WALL)
    driver.waits()
    everyone = (1, 2, 3)
    for number in (1, 2):
        driver.next_sample(queued=1, busy={runner_id: far(driver) for runner_id in everyone[:number]})
        driver.ready(number + 1)
    driver.next_sample(busy={runner_id: far(driver) for runner_id in everyone})
    driver.tells.append(2)
    asked = [of(RetireServer, driver.deploy(f"s{number}", function=f"f{number}")) for number in (2, 3)]
    assert [[RetireServer("s1")]] * 2 == asked
    for _ in range(60):
        busy = {runner_id: far(driver) for runner_id in everyone}
        assert [] == of(RetireServer, driver.next_sample("s1", queued=1, busy=busy, us=50 * MS))
    assert {2} == driver.node.services.revisions["s1"].told
