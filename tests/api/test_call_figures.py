"""What the coordinator is told of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from runner.protocol.call import Answer
from worker.api.call_figures import OK, Reporter
from worker.core import figures
from worker.core.commands import CallFigures, Command, Done, Reply, ReportCalls
from worker.errors import NoAnswer, NotSent
from worker.shared.channel_codec import encode

ANSWER = Answer("exit", b"", fuel_used=3, queue_us=70, init_us=10, run_us=40_000_000)


class Told:
    """The channel: what was said, and what befalls the next words."""

    def __init__(self, *fates: Exception) -> None:
        self.fates = list(fates)
        self.commands: list[ReportCalls] = []

    async def ask(self, command: Command, timeout_s: float) -> Reply:
        assert isinstance(command, ReportCalls)
        if self.fates:
            raise self.fates.pop(0)
        self.commands.append(command)
        return Done()

    def close(self) -> None:
        """Nothing is open."""

    @property
    def figures(self) -> list[CallFigures]:
        return [each for command in self.commands for each in command.figures]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 10))


async def come(told: Told, count: int = 1) -> None:
    while len(told.commands) < count:
        await asyncio.sleep(0.001)


def test_calls_are_told_together_after_a_while() -> None:
    told = Told()

    async def calls() -> None:
        reporter = Reporter(told, period_s=0.01)
        reporter.count("a", OK, ANSWER)
        reporter.count("a", OK, ANSWER)
        reporter.count("a", "fuel", ANSWER)
        reporter.count("b", "no_runner", None)
        await come(told)
        await reporter.close()

    run(calls())
    a, b = told.figures
    assert ("a", (("ok", 2), ("fuel", 1)), 9) == (a.task_id, a.outcomes, a.fuel)
    assert (210, 30, 120_000_000) == (a.queue_us, a.init_us, a.run_us)
    buckets = [figures.empty() for _ in range(3)]
    for histogram, duration_us in zip(buckets, (70, 10, 40_000_000), strict=True):
        histogram[figures.bucket(duration_us)] = 3
    assert [tuple(histogram) for histogram in buckets] == [a.queue, a.init, a.run]
    assert ("b", (("no_runner", 1),), 0, 0) == (b.task_id, b.outcomes, b.fuel, sum(b.queue))


def test_sums_stop_where_they_could_not_be_told() -> None:
    told = Told()
    most = Answer("exit", b"", fuel_used=2**63 - 1, queue_us=2**63 - 1, init_us=2**63 - 1, run_us=2**63 - 1)

    async def calls() -> None:
        reporter = Reporter(told)
        for _ in range(3):
            reporter.count("a", OK, most)
        await reporter.close()

    run(calls())
    [seen] = told.figures
    assert {2**63 - 1} == {seen.fuel, seen.queue_us, seen.init_us, seen.run_us}
    encode(1, told.commands[0])


def test_nothing_is_told_twice_and_nothing_when_there_is_nothing() -> None:
    told = Told()

    async def calls() -> None:
        reporter = Reporter(told, period_s=0.01)
        reporter.count("a", OK, None)
        await come(told)
        reporter.count("a", OK, None)
        await reporter.close()
        await reporter.close()

    run(calls())
    assert [(("ok", 1),)] * 2 == [each.outcomes for each in told.figures]


def test_what_never_left_is_told_with_the_next_report() -> None:
    told = Told(NotSent("no coordinator"))

    async def calls() -> None:
        reporter = Reporter(told, period_s=0.01)
        reporter.count("a", OK, None)
        while told.fates:
            await asyncio.sleep(0.001)
        reporter.count("b", OK, None)
        await come(told)
        await reporter.close()

    run(calls())
    assert ["a", "b"] == [each.task_id for each in told.figures]


def test_what_may_have_been_heard_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(NoAnswer("silence"))

    async def calls() -> None:
        reporter = Reporter(told)
        reporter.count("a", OK, None)
        await reporter.close()
        reporter.count("b", OK, None)
        await reporter.close()

    run(calls())
    assert ["b"] == [each.task_id for each in told.figures]
    assert "silence" in caplog.text


def test_a_report_of_very_many_revisions_fits_its_messages() -> None:
    told = Told()

    async def calls() -> None:
        reporter = Reporter(told)
        for number in range(1000):
            for code in range(20):
                reporter.count(f"{number:036}", f"some_long_code_{code}", ANSWER)
        await reporter.close()

    run(calls())
    assert 1000 == len(told.figures)
    for command in told.commands:
        encode(1, command)
