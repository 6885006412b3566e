"""Samples, their summary, and rounds that alternate between two contenders so that a drift of the machine hits both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one contender's samples, all in one unit."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    p99: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Of at least two samples."""
        ordered = sorted(samples)
        low, median, high = statistics.quantiles(ordered, n=4)
        return cls(median, low, high, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], len(ordered))


@dataclass(slots=True)
class Row:
    """One line of the results. `ratio` is ours to the peer's, as medians; `better` says which way is good."""

    section: str
    what: str
    unit: str
    better: str  # "lower" or "higher"
    ours: Summary
    peer_name: str = ""
    peer: Summary | None = None
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours.median / self.peer.median if self.peer is not None and self.peer.median else None

    def document(self) -> dict[str, Any]:
        """As a JSON object, raw samples included."""
        return {
            "section": self.section,
            "what": self.what,
            "unit": self.unit,
            "better": self.better,
            "ours": self.ours.median,
            "ours_quartiles": [self.ours.low, self.ours.high],
            "ours_p99": self.ours.p99,
            "peer": self.peer_name or None,
            "peer_median": self.peer.median if self.peer else None,
            "peer_p99": self.peer.p99 if self.peer else None,
            "ratio": self.ratio,
            "note": self.note,
            "samples": self.samples,
        }


def alternate(rounds: int, *contenders: Callable[[], list[Sample]]) -> list[list[Sample]]:
    """Each contender's samples over `rounds` rounds, taken in turn: A B C, A B C, ..."""
    samples: list[list[Sample]] = [[] for _ in contenders]
    for _ in range(rounds):
        for index, contender in enumerate(contenders):
            samples[index].extend(contender())
    return samples


def table(rows: Sequence[Row]) -> str:
    """The rows as an aligned text table: median (quartiles), p99, peer, ratio."""
    head = ("section", "what", "ours", "p99", "peer", "peer's", "ratio")
    lines = [head]
    for row in rows:
        ours = f"{row.ours.median:.2f} {row.unit} ({row.ours.low:.2f}-{row.ours.high:.2f})"
        theirs = f"{row.peer.median:.2f} {row.unit} ({row.peer.low:.2f}-{row.peer.high:.2f})" if row.peer else "-"
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else "-"
        lines.append((row.section, row.what, ours, f"{row.ours.p99:.2f}", row.peer_name or "-", theirs, ratio))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)
