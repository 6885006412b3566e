"""Runners: each effect leaves exactly the timer that watches the runner next; a killed one has none."""

from __future__ import annotations

import pytest

from tests.core.core_builders import START, make_task
from worker.core.effects import CloseRunner, Effect, GiveJob, InterruptJob, KillRunner, StartRunner
from worker.core.pool import Pool, Runner, RunnerState
from worker.core.runners import LINGER_US, Runners
from worker.core.timers import Timer, Timers

DUE_US = START.monotonic_us + 5
LINGER_DUE_US = START.monotonic_us + LINGER_US


class Desk:
    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.timers = Timers()
        self.pool = Pool(1)
        self.runners = Runners(self.pool, self.timers, self.effects)
        started = self.pool.start("key", "t1", 9)
        assert started is not None
        self.runner: Runner = started

    def watched(self) -> dict[str, int]:
        """The runner's timers and when each is due. Takes them."""
        due = {}
        while (at := self.timers.next_due_us()) is not None:
            due |= {timer.kind: at for timer in self.timers.pop_due(at)}
        return due


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_runner_that_starts_is_watched_until_its_job_begins(desk: Desk) -> None:
    desk.runners.start(desk.runner, make_task(), DUE_US)
    assert [StartRunner(1, 0, make_task(), 9)] == desk.effects
    assert {"init": DUE_US} == desk.watched()


def test_a_runner_that_is_given_a_job_is_watched_until_it_begins(desk: Desk) -> None:
    desk.runners.rest(desk.runner, DUE_US - 1)
    desk.runners.give(desk.runner, make_task(), DUE_US)
    assert [GiveJob(1, make_task(), 0)] == desk.effects
    assert {"init": DUE_US} == desk.watched()


def test_a_started_job_is_watched_to_its_deadline(desk: Desk) -> None:
    desk.runners.start(desk.runner, make_task(), DUE_US)
    desk.runners.started(desk.runner, DUE_US + 1)
    assert {"deadline": DUE_US + 1} == desk.watched()


def test_an_interrupted_job_keeps_its_deadline_beside_the_grace(desk: Desk) -> None:
    desk.runners.started(desk.runner, DUE_US)
    desk.runners.interrupt(desk.runner, DUE_US + 2)
    assert [InterruptJob(1)] == desk.effects
    assert {"deadline": DUE_US, "grace": DUE_US + 2} == desk.watched()


def test_a_runner_rests_until_its_time_is_up(desk: Desk) -> None:
    desk.runners.started(desk.runner, DUE_US)
    desk.runners.rest(desk.runner, DUE_US + 3)
    assert (RunnerState.IDLE, {"idle": DUE_US + 3}) == (desk.runner.state, desk.watched())


def test_a_closed_runner_may_not_linger(desk: Desk) -> None:
    desk.runners.started(desk.runner, DUE_US)
    desk.runners.interrupt(desk.runner, DUE_US)
    desk.runners.close(desk.runner, START)
    assert [InterruptJob(1), CloseRunner(1)] == desk.effects
    assert (RunnerState.ENDING, {"linger": LINGER_DUE_US}) == (desk.runner.state, desk.watched())


def test_a_killed_runner_needs_no_watching(desk: Desk) -> None:
    desk.runners.started(desk.runner, DUE_US)
    desk.runners.interrupt(desk.runner, DUE_US)
    desk.runners.kill(desk.runner, "stop")
    assert [InterruptJob(1), KillRunner(1)] == desk.effects
    assert (RunnerState.ENDING, "stop", {}) == (desk.runner.state, desk.runner.killed_because, desk.watched())


def test_a_runner_is_killed_once_and_for_the_first_cause(desk: Desk) -> None:
    desk.runners.kill(desk.runner, "deadline")
    desk.runners.kill(desk.runner, "stop")
    assert ([KillRunner(1)], "deadline") == (desk.effects, desk.runner.killed_because)


def test_a_runner_that_is_gone_leaves_slot_and_time(desk: Desk) -> None:
    desk.runners.started(desk.runner, DUE_US)
    assert desk.runner is desk.runners.gone(1)
    assert (1, {}, None) == (desk.pool.free, desk.pool.runners, desk.timers.next_due_us())


def test_timers_name_their_runner(desk: Desk) -> None:
    desk.runners.started(desk.runner, DUE_US)
    assert [Timer("deadline", 1)] == list(desk.timers)
