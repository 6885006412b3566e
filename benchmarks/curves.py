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
    notes: list[str] = field(default_factory=list)

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
        if row.note and row.note not in curve.notes:
            curve.notes.append(row.note)
        if row.peer is not None:
            curve.series.setdefault(row.peer_name, {})[row.at] = row.peer
    for curve in found.values():
        curve.series = {name: curve.series[name] for name in sorted(curve.series, key=lambda n: n not in curve.ours)}
    return list(found.values())


# By section and axis.
WHY = {
    ("warm call", "percent of calls"): (
        "Up to the median it is the way through API worker and runner; the tail is waiting for a core: clients, API "
        "workers and runners are more processes than there are cores."
    ),
    ("concurrency", "connections"): (
        "With one connection the rate is one call's way through API worker and runner, each waiting for the other. "
        "It rises until the API workers are busy all the time, and stays there; from then on every further "
        "connection only waits, so that latency grows in proportion."
    ),
    ("concurrency", "runners"): (
        "A runner that runs a call uses a core, which API workers and load generator want too: more runners than "
        "cores add nothing to the rate."
    ),
    ("concurrency", "bytes of body"): (
        "A small body comes with its head in one read. From tens of kilobytes on its copies count: client to API "
        "worker, to the runner, into the guest's memory, and all the way back."
    ),
    ("job throughput", "runners"): (
        "A process job is CPU time (fork, seal, load, exit), so that the cores bend its curve. An instance job costs "
        "its runner next to nothing: HTTP, coordinator and the commits set its rate, however many runners there are."
    ),
    ("density", "functions"): (
        "A function without runners is a listener that the coordinator polls and a row of the routes. A call finds "
        "its route in a table in memory, whatever its size; a deployment has each API worker read the routes anew, "
        "which is what grows."
    ),
    ("table at size", "finished tasks"): (
        "Each read goes by an index, and counts are kept, never counted. What grows is the depth of the indexes, and "
        "that less of them is in memory. A start reads the tasks that haven't ended alone."
    ),
}
