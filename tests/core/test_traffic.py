"""What is seen of calls, and what follows: runners come while calls wait, and go when none do."""

from __future__ import annotations

import pytest

from tests.core.core_builders import DIGEST, OTHER_DIGEST, of
from tests.core.service_builders import MS, SAMPLE_US, ServiceDriver, far, service_spec, started
from worker.core.commands import AddTask, StopTask
from worker.core.effects import (
    CloseListener,
    KillRunner,
    PrepareArtifact,
    RetireServer,
    SampleCalls,
    WatchCalls,
)
from worker.core.task import Limits, State

SECOND_US = 1_000_000
WALL = Limits(wall_ms=1_000)


@pytest.fixture
def driver() -> ServiceDriver:
    return ServiceDriver()


# -- watching and sampling --------------------------------------------------------------------------------------------


def test_a_quiet_service_is_watched_by_nothing_that_wakes(driver: ServiceDriver) -> None:
    driver.serve(min=1)
    driver.pass_time(3600 * SECOND_US)
    assert ([], set()) == (of(SampleCalls | RetireServer, driver.take()), driver.timers)


def test_calls_are_sampled_while_they_come_and_watched_again_when_they_do_not(driver: ServiceDriver) -> None:
    driver.serve()
    assert [] == driver.waits()
    driver.pass_time(SAMPLE_US)
    assert [SampleCalls(("s1",))] == driver.take()
    driver.sample(queued=0, calls=1)
    quiet = [effect for _ in range(5) for effect in driver.next_sample(calls=1)]
    assert [SampleCalls(("s1",))] * 5 + [WatchCalls("s1")] == quiet
    assert {"shrink"} == driver.timers


def test_a_second_word_of_a_call_that_waits_changes_nothing(driver: ServiceDriver) -> None:
    driver.serve()
    driver.waits()
    assert [] == driver.waits()


def test_a_sample_of_what_is_not_sampled_changes_nothing(driver: ServiceDriver) -> None:
    driver.serve()
    assert [] == driver.sample(queued=9, busy={1: 1}) + driver.sample("gone", queued=9)
    assert 0 == driver.view().queued
    driver.node.traffic.call_waits("gone", driver.now)
    assert [] == driver.take()


def test_a_service_without_a_queue_is_sampled_less_often(driver: ServiceDriver) -> None:
    driver.serve()
    driver.waits()
    for calls in range(11):
        driver.next_sample(calls=calls + 1)
    driver.next_sample(calls=20)
    driver.pass_time(SAMPLE_US)
    assert [] == driver.take()
    driver.pass_time(4 * SAMPLE_US)
    assert [SampleCalls(("s1",))] == driver.take()


def test_services_are_sampled_together(driver: ServiceDriver) -> None:
    driver.serve("s1", function="f")
    driver.serve("s2", function="g")
    driver.waits("s1")
    driver.waits("s2")
    driver.pass_time(SAMPLE_US)
    assert [SampleCalls(("s1", "s2"))] == driver.take()


def test_a_service_that_stops_being_sampled_leaves_the_others_their_time(driver: ServiceDriver) -> None:
    driver.serve("s1", function="f")
    driver.serve("s2", function="g")
    driver.waits("s1")
    driver.pass_time(SAMPLE_US // 2)
    driver.waits("s2")
    driver.command(StopTask("s1", force=True))
    driver.pass_time(SAMPLE_US // 2)
    assert [] == driver.take()
    driver.pass_time(SAMPLE_US // 2)
    assert [SampleCalls(("s2",))] == driver.take()


def test_figures_tell_what_was_seen_last(driver: ServiceDriver) -> None:
    driver.serve(max=2)
    driver.waits()
    driver.next_sample(queued=3, busy={1: far(driver)})
    view = driver.view()
    assert (0, 1, 1, 3, 0, State.RUNNING) == (
        view.idle,
        view.busy,
        view.starting,
        view.queued,
        view.cold_starts,
        view.state,
    )
    assert 3 == driver.node.services.waiting_calls


# -- growing ----------------------------------------------------------------------------------------------------------


def test_from_zero_the_first_call_starts_a_runner_at_once(driver: ServiceDriver) -> None:
    driver.serve()
    driver.leave(1, calls=1)
    assert ["s1"] == started(driver.waits())
    assert 1 == driver.view().cold_starts


def test_runners_come_one_at_a_time_while_calls_wait_and_all_are_busy(driver: ServiceDriver) -> None:
    driver.serve(max=3)
    driver.waits()
    assert ["s1"] == started(driver.next_sample(queued=5, busy={1: far(driver)}))
    assert [] == started(driver.ready(2))
    assert [] == started(driver.next_sample(queued=5, busy={1: far(driver)}))
    assert ["s1"] == started(driver.next_sample(queued=5, busy={1: far(driver), 2: far(driver)}))
    driver.ready(3)
    assert [] == started(driver.next_sample(queued=5, busy={n: far(driver) for n in (1, 2, 3)}))


def test_the_minimum_is_kept_up(driver: ServiceDriver) -> None:
    driver.serve(min=2)
    assert 1 == driver.view().starting
    driver.ready(2)
    driver.pass_time(2 * SECOND_US)
    assert ["s1"] == started(driver.die(1))


def test_runners_that_do_not_take_what_waits_are_not_counted_on(driver: ServiceDriver) -> None:
    driver.serve(max=2)
    driver.waits()
    assert [] == started(driver.next_sample(queued=1))
    assert ["s1"] == started(driver.next_sample(queued=1, us=100 * MS))


def test_runners_that_do_not_take_what_waits_for_long_are_killed(driver: ServiceDriver) -> None:
    driver.serve(max=1)
    driver.waits()
    effects = [effect for _ in range(39) for effect in driver.next_sample(queued=1, us=50 * MS)]
    assert ([], []) == (of(KillRunner, effects), started(effects))
    effects = driver.next_sample(queued=1, us=50 * MS)
    assert ([KillRunner(1)], ["s1"]) == (of(KillRunner, effects), started(effects))


def test_a_coordinator_that_stood_still_kills_nobody_for_it(driver: ServiceDriver) -> None:
    driver.serve(max=2)
    driver.waits()
    driver.next_sample(queued=1)
    effects = driver.next_sample(queued=1, us=3600 * SECOND_US)
    assert ([], []) == (of(KillRunner, effects), started(effects))


def test_a_coordinator_that_is_late_again_and_again_kills_what_is_stuck_in_the_end(driver: ServiceDriver) -> None:
    """On a busy machine it may be so each time: what it saw before still counts."""
    driver.serve(max=1)
    driver.waits()
    effects = [effect for _ in range(45) for effect in driver.next_sample(queued=1, us=400 * MS)]
    assert [KillRunner(1)] == of(KillRunner, effects)


def test_what_was_just_answered_is_no_stall(driver: ServiceDriver) -> None:
    driver.serve(max=2)
    driver.waits()
    for calls in range(9):
        assert [] == started(driver.next_sample(queued=1, calls=calls + 1, us=100 * MS))


def test_a_queue_that_comes_up_after_a_long_call_is_no_stall(driver: ServiceDriver) -> None:
    """Nothing was answered and none waited meanwhile."""
    driver.serve(max=2)
    driver.waits()
    for _ in range(30):
        driver.next_sample(busy={1: far(driver)}, us=50 * MS)
    assert [] == started(driver.next_sample(queued=1, us=50 * MS))


def test_a_busy_runner_is_not_stuck(driver: ServiceDriver) -> None:
    driver.serve(max=1)
    driver.waits()
    driver.next_sample(queued=1, busy={1: far(driver)})
    assert [] == of(KillRunner, driver.next_sample(queued=1, busy={1: far(driver)}, us=2 * SECOND_US))


def test_a_queue_that_moves_kills_nobody(driver: ServiceDriver) -> None:
    driver.serve(max=1)
    driver.waits()
    for calls in range(5):
        assert [] == of(KillRunner, driver.next_sample(queued=1, calls=calls + 1, us=SECOND_US))


def test_a_runners_artifact_that_was_evicted_is_made_again_when_it_is_needed(driver: ServiceDriver) -> None:
    driver.serve()
    driver.leave(1, calls=1)
    driver.node.artifact_evicted(DIGEST)
    assert [PrepareArtifact(DIGEST)] == driver.waits()
    assert ["s1"] == started(driver.artifact_ready())


@pytest.mark.parametrize("asleep", [False, True])
def test_an_artifact_that_nobody_needs_is_not_made_again(driver: ServiceDriver, asleep: bool) -> None:
    driver.serve("s1", function="f")
    if asleep:
        driver.leave(1, calls=1)
    driver.node.artifact_evicted(DIGEST)
    driver.command(AddTask("s2", "token", service_spec(function="g", digest=OTHER_DIGEST)))
    assert [] == of(PrepareArtifact, driver.artifact_ready(OTHER_DIGEST))


def test_an_artifact_that_can_not_be_made_again_is_a_trouble_and_no_end(driver: ServiceDriver) -> None:
    driver.serve()
    driver.leave(1, calls=1)
    driver.node.artifact_evicted(DIGEST)
    driver.waits()
    driver.node.artifact_failed(DIGEST, "no memory", driver.now)
    assert [CloseListener("s1")] == driver.take()
    assert (State.RUNNING, "no memory") == (driver.status("s1").state, driver.view().trouble)
    driver.pass_time(100 * MS)
    assert [PrepareArtifact(DIGEST)] == driver.take()
    assert ["s1"] == started(driver.artifact_ready())


# -- shrinking --------------------------------------------------------------------------------------------------------


def test_idle_runners_are_given_up_down_to_the_minimum(driver: ServiceDriver) -> None:
    driver.serve(min=1, max=3, idle_ms=1_000)
    driver.waits()
    driver.next_sample(queued=2, busy={1: far(driver)})
    driver.ready(2)
    driver.next_sample(queued=2, busy={1: far(driver), 2: far(driver)})
    driver.ready(3)
    driver.go_quiet()
    driver.pass_time(SECOND_US)
    assert [RetireServer("s1")] * 2 == of(RetireServer, driver.take())


def test_a_revision_goes_to_zero_and_comes_back(driver: ServiceDriver) -> None:
    driver.serve(idle_ms=1_000)
    driver.pass_time(SECOND_US)
    assert [RetireServer("s1")] == driver.take()
    assert [] == driver.waits()
    assert [] == started(driver.leave(1))
    assert 0 == driver.view().idle
    driver.go_quiet()
    assert ["s1"] == started(driver.waits())


def test_a_call_right_after_the_last_runner_has_gone_starts_one_at_once(driver: ServiceDriver) -> None:
    """The message that it should end was seen as something that waits: nothing is left to sample when it has gone."""
    driver.serve(idle_ms=1_000)
    driver.pass_time(SECOND_US)
    driver.waits()
    assert [WatchCalls("s1")] == driver.leave(1)
    assert ["s1"] == started(driver.waits())


def test_a_runner_that_retires_is_no_call_that_waits(driver: ServiceDriver) -> None:
    driver.serve(idle_ms=1_000)
    driver.pass_time(SECOND_US)
    driver.waits()
    driver.next_sample(queued=1)
    assert 0 == driver.view().queued


def test_a_call_in_between_starts_the_idle_time_anew(driver: ServiceDriver) -> None:
    driver.serve(idle_ms=1_000)
    driver.pass_time(900 * MS)
    driver.waits()
    driver.next_sample(calls=1)
    driver.go_quiet(calls=1)
    driver.pass_time(900 * MS)
    assert [] == of(RetireServer, driver.take())
    driver.pass_time(100 * MS)
    assert [RetireServer("s1")] == of(RetireServer, driver.take())


def test_a_busy_revision_gives_up_what_it_did_not_use_for_its_idle_time(driver: ServiceDriver) -> None:
    driver.serve(max=2, idle_ms=1_000)
    driver.waits()
    driver.next_sample(queued=1, busy={1: far(driver)})
    driver.ready(2)
    driver.next_sample(busy={1: far(driver), 2: far(driver)})
    for calls in range(3):
        driver.next_sample(busy={1: far(driver)}, calls=calls + 1, us=500 * MS)
    assert [] == of(RetireServer, driver.take())
    retired = [driver.next_sample(busy={1: far(driver)}, calls=calls + 9, us=500 * MS) for calls in range(3)]
    assert [RetireServer("s1")] == [effect for effects in retired for effect in of(RetireServer, effects)]


# -- calls that nobody saw waiting ------------------------------------------------------------------------------------


def test_a_call_that_was_taken_before_it_was_seen_has_a_deadline_too(driver: ServiceDriver) -> None:
    driver.serve(limits=WALL)
    deadline_us = driver.now.monotonic_us + 1_200 * MS
    driver.node.traffic.look("s1", driver.now)
    assert [] == driver.take()
    assert [] == of(KillRunner, driver.next_sample(busy={1: deadline_us}, us=1_399 * MS))
    assert [KillRunner(1)] == of(KillRunner, driver.next_sample(busy={1: deadline_us}, us=1 * MS))


def test_a_look_at_what_is_sampled_or_gone_changes_nothing(driver: ServiceDriver) -> None:
    driver.serve()
    driver.waits()
    driver.node.traffic.look("s1", driver.now)
    driver.node.traffic.look("gone", driver.now)
    driver.pass_time(SAMPLE_US)
    assert [SampleCalls(("s1",))] == driver.take()


def test_what_was_seen_by_a_look_is_no_reason_for_a_runner(driver: ServiceDriver) -> None:
    driver.serve()
    driver.leave(1, calls=1)
    driver.node.traffic.look("s1", driver.now)
    assert [] == driver.take()
