"""The ticker of a server: what it owes a call is counted from the call's start, and what it pushes is little."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator

import pytest

from runner import call_ticker
from runner.call_ticker import CallTicker
from runner.ticker import TICK_NS, pushes_at
from tests.e2e.harness import wait_for
from tests.runner.zygote_host import DEADLINE_S


class World:
    """Engine, asker, clock and watch of one ticker. Its thread waits in `look` for as long as it is held there."""

    def __init__(self) -> None:
        self.now_ns = 10**9
        self.epoch = self.looks = 0
        self.held = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.asker_waits = True
        self.over = False

    def increment_epoch(self) -> None:
        self.epoch += 1

    def mark(self) -> None:
        pass

    def is_there(self) -> bool:
        return self.asker_waits

    def look(self) -> None:
        self.looks += 1
        if self.over:
            raise SystemExit  # the thread's end
        if not self.go.is_set():
            self.held.set()
            self.go.wait(DEADLINE_S)

    def hold(self) -> None:
        self.held.clear()
        self.go.clear()
        assert self.held.wait(DEADLINE_S)

    def see_looks(self, count: int) -> None:
        until = self.looks + count
        wait_for(lambda: self.looks >= until, "the ticker looks")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(call_ticker, "monotonic_ns", lambda: made.now_ns)
    before = _thread.stack_size()
    yield made
    _thread.stack_size(before)


@pytest.fixture
def ticker(world: World) -> Iterator[CallTicker]:
    made = CallTicker(world, world, world)  # type: ignore[arg-type]
    made.start()
    yield made
    world.over = True
    world.go.set()
    made.begin(1, False)
    wait_for(lambda: world.looks, "the ticker has ended")


def test_what_the_thread_was_late_by_before_a_call_is_not_the_calls(world: World, ticker: CallTicker) -> None:
    ticker.begin(10, False)
    world.hold()
    ticker.end()
    world.now_ns += 1000 * TICK_NS
    ticker.begin(10, False)
    world.go.set()
    world.see_looks(3)
    assert 0 == world.epoch
    world.now_ns += 7 * TICK_NS  # and what it is late by within it is
    wait_for(lambda: world.epoch == 7, "the epoch is where the clock is")
    world.see_looks(2)
    assert 7 == world.epoch
    ticker.end()


def test_a_call_that_has_to_stop_is_pushed_over_its_deadline_now_and_then(world: World, ticker: CallTicker) -> None:
    ticker.begin(6000, False, lambda: True)
    world.see_looks(20)
    ticker.end()
    pushes, rest = divmod(world.epoch, 6000)
    assert 0 == rest
    assert 3 <= pushes <= 10  # at 1, 2, 4, 8, 16, and on a loaded machine some more


@pytest.mark.parametrize(("left_s", "expected"), [(1800.0, [0.2]), (0.3, [0.2]), (0.05, [0.2, 0.05])])
def test_the_alarm_of_a_call_whose_asker_has_gone_comes_soon_and_is_never_put_off(
    monkeypatch: pytest.MonkeyPatch, world: World, ticker: CallTicker, left_s: float, expected: list[float]
) -> None:
    armed: list[float] = []

    def set_timer(_which: int, seconds: float) -> tuple[float, float]:
        armed.append(seconds)
        return (left_s if len(armed) == 1 else armed[-2]), 0.0

    monkeypatch.setattr(call_ticker._signal, "setitimer", set_timer)
    world.asker_waits = False
    ticker.begin(10, True)
    wait_for(ticker.stopped, "it is noticed")
    world.see_looks(5)
    ticker.end()
    assert expected == armed  # once


def test_pushes_come_at_powers_of_two() -> None:
    assert [1, 2, 4, 8, 16, 32] == [number for number in range(1, 64) if pushes_at(number)]
