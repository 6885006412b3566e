"""worker.supervise: when a child is started, judged dead, started again, or given up."""

from __future__ import annotations

from itertools import product

import pytest

from worker.supervise import (
    TRANSITIONS,
    Beat,
    BecameReady,
    Child,
    Ended,
    Event,
    GiveUp,
    IllegalStep,
    Kill,
    Phase,
    Policy,
    Start,
    StopOrdered,
    Ticked,
    backoff_ms,
    step,
)

POLICY = Policy(heartbeat_timeout_ms=2_000, start_timeout_ms=30_000, failure_limit=3)
EVENTS: dict[type[Event], Event] = {
    Ticked: Ticked(),
    Beat: Beat(),
    BecameReady: BecameReady(),
    Ended: Ended("exit code 1"),
    StopOrdered: StopOrdered(),
}


def started(now_ms: int = 0, failures: int = 0) -> Child:
    child, effects = step(Child(start_at_ms=now_ms, failures=failures), Ticked(), now_ms, POLICY)
    assert effects == (Start(),)
    return child


def ready(now_ms: int = 0) -> Child:
    return step(started(now_ms), BecameReady(), now_ms, POLICY)[0]


def ticked_through(child: Child, from_ms: int, to_ms: int) -> tuple[Child, list[object]]:
    """Judge each quarter of a second, as the launcher does."""
    seen: list[object] = []
    for now_ms in range(from_ms, to_ms + 1, 250):
        child, effects = step(child, Ticked(), now_ms, POLICY)
        seen.extend(effects)
    return child, seen


def test_a_new_child_is_started_at_once() -> None:
    assert started().phase is Phase.STARTING


def test_a_child_that_waits_is_not_started_before_its_time() -> None:
    child = Child(start_at_ms=500)
    assert step(child, Ticked(), 499, POLICY) == (child, ())


def test_a_ready_child_that_is_silent_is_killed_once_after_the_heartbeat_timeout() -> None:
    _, effects = ticked_through(ready(), 250, 5_000)
    assert effects == [Kill("no heartbeat for 2250 ms")]


def test_a_child_that_beats_is_left_alone() -> None:
    child = ready()
    for now_ms in range(250, 20_000, 250):
        child, _ = step(child, Beat(), now_ms, POLICY)
        child, effects = step(child, Ticked(), now_ms, POLICY)
        assert effects == ()


def test_a_child_that_never_beat_has_the_start_timeout() -> None:
    child, effects = ticked_through(started(), 250, 30_000)
    assert effects == []
    _, effects = ticked_through(child, 30_250, 30_250)
    assert effects == [Kill("no first heartbeat for 30250 ms")]


def test_a_judge_that_slept_listens_for_a_whole_timeout_before_it_judges() -> None:
    child, effects = step(ready(), Ticked(), 60_000, POLICY)
    assert effects == ()
    _, effects = ticked_through(child, 60_250, 62_000)
    assert effects == []


def test_a_child_that_stays_silent_after_the_judge_slept_is_killed() -> None:
    child, _ = step(ready(), Ticked(), 60_000, POLICY)
    _, effects = ticked_through(child, 60_250, 63_000)
    assert effects == [Kill("no heartbeat for 2250 ms")]


def test_a_ready_child_that_ends_is_started_again_at_once() -> None:
    child, _ = step(ready(), Ended("killed by SIGKILL"), 1_000, POLICY)
    assert (child.phase, child.start_at_ms, child.failures) == (Phase.WAITING, 1_000, 0)


def test_a_child_that_was_ready_is_never_given_up() -> None:
    child = ready()
    for now_ms in range(0, 100_000, 1_000):
        child, effects = step(child, Ended("exit code 1"), now_ms, POLICY)
        assert effects == ()
        child, _ = step(child, Ticked(), now_ms, POLICY)
        child, _ = step(child, BecameReady(), now_ms, POLICY)


def test_a_failed_start_waits_longer_each_time() -> None:
    first, _ = step(started(), Ended("exit code 1"), 0, POLICY)
    second, _ = step(started(100, failures=1), Ended("exit code 1"), 100, POLICY)
    assert (first.start_at_ms, second.start_at_ms) == (100, 300)


def test_the_wait_has_a_limit() -> None:
    assert backoff_ms(20, POLICY) == POLICY.backoff_limit_ms


def test_the_circuit_breaker_opens_after_the_limit() -> None:
    child, effects = step(started(failures=2), Ended("exit code 7"), 0, POLICY)
    assert (child.phase, effects) == (Phase.ENDED, (GiveUp(3, "exit code 7"),))


def test_a_hopeless_start_is_not_tried_again() -> None:
    child, effects = step(started(), Ended("exit code 77", hopeless=True), 0, POLICY)
    assert (child.phase, effects) == (Phase.ENDED, (GiveUp(1, "exit code 77"),))


def test_getting_ready_forgets_the_failed_starts() -> None:
    child, _ = step(started(failures=2), BecameReady(), 0, POLICY)
    assert child.failures == 0


def test_a_child_that_must_stop_is_not_started_again() -> None:
    child, _ = step(ready(), StopOrdered(), 0, POLICY)
    child, effects = step(child, Ended("exit code 0"), 10, POLICY)
    assert (child.phase, effects) == (Phase.ENDED, ())


def test_a_child_that_must_stop_is_still_judged() -> None:
    child, _ = step(ready(), StopOrdered(), 0, POLICY)
    _, effects = ticked_through(child, 250, 3_000)
    assert effects == [Kill("no heartbeat for 2250 ms")]


def test_a_child_that_waits_for_its_start_and_must_stop_has_ended() -> None:
    child, effects = step(Child(start_at_ms=500), StopOrdered(), 0, POLICY)
    assert (child.phase, effects) == (Phase.ENDED, ())


@pytest.mark.parametrize(
    ("phase", "event"), [pair for pair in product(Phase, EVENTS) if pair not in TRANSITIONS], ids=lambda x: str(x)
)
def test_what_is_not_in_the_table_raises_and_changes_nothing(phase: Phase, event: type[Event]) -> None:
    child = Child(phase)
    with pytest.raises(IllegalStep, match=f"{event.__name__} can't happen"):
        step(child, EVENTS[event], 0, POLICY)
    assert child == Child(phase)
