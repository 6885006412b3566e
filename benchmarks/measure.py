"""Samples, their summary, an aim beside them, and rounds that alternate: a drift of the machine hits everybody."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

Sample = TypeVar("Sample")

_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}


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
        """Of at least one sample."""
        ordered = sorted(samples)
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        return cls(median, low, high, ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], len(ordered))


@dataclass(frozen=True, slots=True)
class Aim:
    """What a row should reach: `of` is "ratio" (ours to the peer's), "ours" or "extra" (ours less the peer's)."""

    sign: str
    figure: float
    of: str = "ratio"

    def __str__(self) -> str:
        return f"{'' if self.of == 'ours' else self.of + ' '}{self.sign} {self.figure:g}"


@dataclass(slots=True)
class Row:
    """One line of the results: ours and, where there is one, a peer or a floor, as medians.

    `axis` and `at` are for one point of a curve: what grows, and how far it has grown here.
    """

    what: str
    unit: str
    ours: Summary
    peer_name: str = ""
    peer: Summary | None = None
    aim: Aim | None = None
    note: str = ""
    axis: str = ""
    at: float = 0
    samples: dict[str, list[float]] = field(default_factory=dict)
    section: str = ""  # set by who runs the sections

    @classmethod
    def of(
        cls,
        what: str,
        unit: str,
        ours: Sequence[float],
        peer: tuple[str, Sequence[float]] | None = None,
        aim: Aim | None = None,
        **more: Any,
    ) -> Row:
        """From the raw samples; `peer` is its name and its samples."""
        samples = {"ours": list(ours)} | ({"peer": list(peer[1])} if peer else {})
        name, theirs = (peer[0], Summary.of(peer[1])) if peer else ("", None)
        return cls(what, unit, Summary.of(ours), name, theirs, aim, samples=samples, **more)

    @property
    def better(self) -> str:
        """Which way is good: a rate's is up, everything else's is down."""
        return "higher" if self.unit.endswith("/s") else "lower"

    @property
    def ratio(self) -> float | None:
        return self.ours.median / self.peer.median if self.peer is not None and self.peer.median else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is; None without one."""
        if self.aim is None:
            return None
        extra = self.ours.median - self.peer.median if self.peer is not None else None
        found = {"ratio": self.ratio, "ours": self.ours.median, "extra": extra}[self.aim.of]
        return None if found is None else bool(_SIGNS[self.aim.sign](found, self.aim.figure))

    @property
    def key(self) -> tuple[str, str, str, str, str, float]:
        """What makes it the same row in another run."""
        return self.section, self.what, self.unit, self.peer_name, self.axis, self.at

    def document(self) -> dict[str, Any]:
        """As a JSON object, raw samples included."""
        return asdict(self) | {"better": self.better, "ratio": self.ratio, "met": self.met}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Row:
        """Back from `document()`; what can be computed is."""
        given = {name: document[name] for name in cls.__slots__}
        given["ours"] = Summary(**given["ours"])
        given["peer"] = Summary(**given["peer"]) if given["peer"] else None
        given["aim"] = Aim(**given["aim"]) if given["aim"] else None
        return cls(**given)


def alternate(rounds: int, *contenders: Callable[[], list[Sample]]) -> list[list[Sample]]:
    """Each contender's samples over `rounds` rounds, taken in turn: A B C, A B C, ..."""
    samples: list[list[Sample]] = [[] for _ in contenders]
    for _ in range(rounds):
        for index, contender in enumerate(contenders):
            samples[index].extend(contender())
    return samples
