"""What this API worker saw of calls, gathered by revision and told to the coordinator once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from runner.protocol.call import Answer
from worker.api.services import Channel
from worker.core import figures
from worker.core.commands import CallFigures, ReportCalls
from worker.core.figures import MOST_SUM
from worker.errors import ChannelError, NoAnswer, NotSent

_logger = logging.getLogger("galago.api")
REPORT_S = 1.0
_TIMEOUT_S = 5.0
# Of 256 KiB that a message may have, each takes 600 bytes at most.
_PER_MESSAGE = 200
OK = "ok"


class Tally:
    """One revision's calls since the last report."""

    __slots__ = ("fuel", "init", "init_us", "outcomes", "queue", "queue_us", "run", "run_us")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.fuel = self.queue_us = self.init_us = self.run_us = 0
        self.queue, self.init, self.run = figures.empty(), figures.empty(), figures.empty()

    def add(self, code: str, answer: Answer | None) -> None:
        self.outcomes[code] = self.outcomes.get(code, 0) + 1
        if answer is not None:
            self.fuel += answer.fuel_used
            self.queue_us += answer.queue_us
            self.init_us += answer.init_us
            self.run_us += answer.run_us
            bucket = figures.bucket
            self.queue[bucket(answer.queue_us)] += 1
            self.init[bucket(answer.init_us)] += 1
            self.run[bucket(answer.run_us)] += 1

    def report(self, task_id: str) -> CallFigures:
        return CallFigures(
            task_id,
            tuple(self.outcomes.items()),
            min(MOST_SUM, self.fuel),
            tuple(self.queue),
            min(MOST_SUM, self.queue_us),
            tuple(self.init),
            min(MOST_SUM, self.init_us),
            tuple(self.run),
            min(MOST_SUM, self.run_us),
        )


class Reporter:
    """To be used from one event loop.

    Args:
        channel: to the coordinator. What it is not told in time is told with the next report.
    """

    def __init__(self, channel: Channel, period_s: float = REPORT_S) -> None:
        self._channel = channel
        self._period_s = period_s
        self._tallies: dict[str, Tally] = {}
        self._unsent: list[CallFigures] = []
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    def count(self, task_id: str, code: str, answer: Answer | None) -> None:
        """One call ended: `code` is OK or the problem's; `answer` is the runner's, checked, where it gave one."""
        tally = self._tallies.get(task_id)
        if tally is None:
            tally = self._tallies[task_id] = Tally()
        tally.add(code, answer)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._period_s, self._due)

    async def close(self) -> None:
        """Tell what there is, once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._telling is not None:
            await asyncio.wait((self._telling,))
        await self._tell(self._period_s)

    def _due(self) -> None:
        self._timer = None
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell(_TIMEOUT_S))
        else:  # the coordinator is silent
            self._timer = asyncio.get_running_loop().call_later(self._period_s, self._due)

    async def _tell(self, timeout_s: float) -> None:
        tallies, self._tallies = self._tallies, {}
        told = [*self._unsent, *(tally.report(task_id) for task_id, tally in tallies.items())]
        self._unsent = []
        for chunk in _chunks(told):
            try:
                await self._channel.ask(ReportCalls(chunk), timeout_s)
            except NotSent:
                self._keep(chunk)
            except (NoAnswer, ChannelError) as exc:
                _logger.warning("the coordinator may not have been told of some calls' figures: %s", exc)

    def _keep(self, chunk: tuple[CallFigures, ...]) -> None:
        """For the next report, which the next call brings about."""
        if len(self._unsent) < 10 * _PER_MESSAGE:
            self._unsent.extend(chunk)


def _chunks(told: list[CallFigures]) -> Iterable[tuple[CallFigures, ...]]:
    return [tuple(told[start : start + _PER_MESSAGE]) for start in range(0, len(told), _PER_MESSAGE)]
