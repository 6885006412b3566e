"""The figures of functions' calls: what API workers report, added up for each service that lives.

An API worker parses what anybody sends, so its word is checked: a report of what isn't here is dropped, and so is one
that isn't made as it should be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from worker.core.commands import CallFigures
from worker.core.figures import MOST_COUNT, MOST_SUM, empty, quantile

# The contract has some 30 codes that a call can end by; whoever sends more makes them up.
MOST_CODES = 64
MOST_CODE_CHARACTERS = 40
OK = "ok"


@dataclass(slots=True)
class Histogram:
    """Counts by bucket (`worker.core.figures`), and the sum of what was counted, in microseconds."""

    counts: list[int] = field(default_factory=empty)
    sum_us: int = 0

    def add(self, counts: Sequence[int], sum_us: int) -> None:
        if counts:
            # A new list, since the old one may be somebody's copy.
            self.counts = [min(MOST_COUNT, have + more) for have, more in zip(self.counts, counts, strict=True)]
            self.sum_us = min(MOST_SUM, self.sum_us + sum_us)

    def document(self) -> dict[str, int | None]:
        """The quantiles (upper bounds of their buckets) and the mean, in microseconds; None before the first call."""
        calls = sum(self.counts)
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
        quantiles = {name: quantile(self.counts, share) for name, share in shares.items()}
        return {**quantiles, "mean": self.sum_us // calls if calls else None}


@dataclass(slots=True)
class ServiceFigures:
    """One service's calls so far. `outcomes` counts by code."""

    outcomes: Counter[str] = field(default_factory=Counter)
    fuel: int = 0
    queue: Histogram = field(default_factory=Histogram)
    init: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)

    @property
    def calls(self) -> int:
        return min(MOST_COUNT, self.outcomes.total())

    @property
    def failed(self) -> int:
        return min(MOST_COUNT, sum(self.errors.values()))

    @property
    def errors(self) -> dict[str, int]:
        return {code: number for code, number in sorted(self.outcomes.items()) if code != OK}

    def add(self, seen: CallFigures) -> None:
        for code, number in seen.outcomes:
            self.outcomes[code] = min(MOST_COUNT, self.outcomes[code] + number)
        self.fuel = min(MOST_SUM, self.fuel + seen.fuel)
        self.queue.add(seen.queue, seen.queue_us)
        self.init.add(seen.init, seen.init_us)
        self.run.add(seen.run, seen.run_us)

    def copy(self) -> ServiceFigures:
        """As they are now; the originals go on."""
        histograms = (replace(histogram) for histogram in (self.queue, self.init, self.run))
        return ServiceFigures(self.outcomes.copy(), self.fuel, *histograms)

    def document(self) -> dict[str, Any]:
        """As `/functions` shows them."""
        return {
            "calls": self.calls,
            "errors": self.errors,
            "fuel": self.fuel,
            "queue_us": self.queue.document(),
            "init_us": self.init.document(),
            "run_us": self.run.document(),
        }


class Figures:
    """The figures of all services that live, by task id. `lives` says whether one does."""

    def __init__(self, lives: Callable[[str], bool]) -> None:
        self._lives = lives
        self._services: dict[str, ServiceFigures] = {}

    def add(self, reports: Iterable[CallFigures]) -> None:
        for seen in reports:
            if self._lives(seen.task_id) and _is_sound(seen):
                figures = self._services.setdefault(seen.task_id, ServiceFigures())
                if len(figures.outcomes.keys() | dict(seen.outcomes).keys()) <= MOST_CODES:
                    figures.add(seen)

    def of(self, task_id: str) -> ServiceFigures:
        """Those of one service; all zero before its first report."""
        return self._services.get(task_id) or ServiceFigures()

    def forget_ended(self) -> None:
        """Let go of services that don't live any more."""
        for task_id in [task_id for task_id in self._services if not self._lives(task_id)]:
            del self._services[task_id]


def _is_sound(seen: CallFigures) -> bool:
    buckets = len(empty())
    histograms = (seen.queue, seen.init, seen.run)
    numbers = [number for _, number in seen.outcomes]
    numbers += [seen.fuel, seen.queue_us, seen.init_us, seen.run_us, *(n for counts in histograms for n in counts)]
    codes = [code for code, _ in seen.outcomes]
    return (
        all(len(counts) in (0, buckets) for counts in histograms)
        and all(0 <= number <= MOST_SUM for number in numbers)
        and all(0 < len(code) <= MOST_CODE_CHARACTERS and code.isidentifier() and code.isascii() for code in codes)
    )
