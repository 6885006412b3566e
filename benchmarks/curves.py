"""Rows that are points of one curve, gathered: what each table and each plot of growth shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.measure import Row, Summary


@dataclass(slots=True)
class Curve:
    """How one figure grows along one axis, for everybody that it was measured of."""

    section: str
    axis: str
    unit: str
    series: dict[str, dict[float, Summary]] = field(default_factory=dict)  # by contender, by point
    ours: list[str] = field(default_factory=list)  # which of them are ours

    @property
    def title(self) -> str:
        return f"{self.section}: {self.unit} by {self.axis}"

    @property
    def why(self) -> str:
        """What bends it."""
        return WHY.get((self.section, self.axis), "")


def curves(rows: Iterable[Row]) -> list[Curve]:
    """All of them, in the order of the rows."""
    found: dict[tuple[str, str, str], Curve] = {}
    for row in rows:
        if not row.axis:
            continue
        key = (row.section, row.axis, row.unit)
        curve = found.setdefault(key, Curve(*key))
        curve.series.setdefault(row.what, {})[row.at] = row.ours
        if row.what not in curve.ours:
            curve.ours.append(row.what)
        if row.peer is not None:
            curve.series.setdefault(row.peer_name, {})[row.at] = row.peer
    for curve in found.values():
        curve.series = {name: curve.series[name] for name in sorted(curve.series, key=lambda n: n not in curve.ours)}
    return list(found.values())


WHY: dict[tuple[str, str], str] = {}
