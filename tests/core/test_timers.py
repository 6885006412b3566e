"""Timers come when they are due, earliest first, moved by setting them again, and never once cancelled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.core.timers import Timer, Timers

ONE, TWO, THREE = Timer("init", 1), Timer("init", 2), Timer("queue", "t3")


def test_nothing_is_due_without_a_timer() -> None:
    timers = Timers()
    assert (None, []) == (timers.next_due_us(), list(timers.pop_due(10**12)))


def test_due_timers_come_earliest_first_and_only_once() -> None:
    timers = Timers()
    timers.set(ONE, 300)
    timers.set(THREE, 100)
    timers.set(TWO, 200)
    assert 100 == timers.next_due_us()
    assert [THREE, TWO] == list(timers.pop_due(200))
    assert [] == list(timers.pop_due(200))
    assert [ONE] == list(timers)


def test_setting_a_timer_again_moves_it() -> None:
    timers = Timers()
    timers.set(ONE, 100)
    timers.set(ONE, 500)
    assert (500, []) == (timers.next_due_us(), list(timers.pop_due(499)))
    timers.set(ONE, 50)
    assert [ONE] == list(timers.pop_due(50))
    assert [] == list(timers.pop_due(10_000))


def test_setting_a_timer_twice_to_the_same_time_lets_it_come_once() -> None:
    timers = Timers()
    timers.set(ONE, 100)
    timers.set(ONE, 100)
    assert [ONE] == list(timers.pop_due(100))


def test_a_timer_can_be_moved_to_earlier_alone() -> None:
    timers = Timers()
    timers.set_earlier(ONE, 100)
    timers.set_earlier(ONE, 200)
    assert 100 == timers.next_due_us()
    timers.set_earlier(ONE, 50)
    assert [ONE] == list(timers.pop_due(50))


def test_a_cancelled_timer_does_not_come() -> None:
    timers = Timers()
    timers.set(ONE, 100)
    timers.set(TWO, 200)
    timers.cancel(ONE)
    timers.cancel(THREE)
    assert (200, [TWO]) == (timers.next_due_us(), list(timers.pop_due(1_000)))


def test_what_a_handler_cancels_does_not_come_any_more() -> None:
    timers = Timers()
    timers.set(ONE, 100)
    timers.set(TWO, 100)
    came = []
    for timer in timers.pop_due(100):
        came.append(timer)
        timers.cancel(TWO)
    assert [ONE] == came


def test_cancelled_timers_far_ahead_hold_no_place() -> None:
    timers = Timers()
    timers.set(TWO, 5)
    for due_us in range(10_000):
        timers.set(ONE, 10**9 + due_us)
        timers.cancel(ONE)
    assert len(timers._heap) < 200
    assert [TWO] == list(timers.pop_due(10))


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO, THREE]), st.none() | st.integers(0, 50)), max_size=200))
def test_what_is_due_is_what_was_last_set(steps: list[tuple[Timer, int | None]]) -> None:
    timers, expected = Timers(), {}
    for timer, due_us in steps:
        if due_us is None:
            timers.cancel(timer)
            expected.pop(timer, None)
        else:
            timers.set(timer, due_us)
            expected[timer] = due_us
    assert min(expected.values(), default=None) == timers.next_due_us()
    assert sorted(timer for timer, due_us in expected.items() if due_us <= 25) == sorted(timers.pop_due(25), key=tuple)
