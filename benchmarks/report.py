"""The results for people: aligned text on a terminal, Markdown for the README. Curves become tables of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.compare import Change
from benchmarks.curves import Curve, curves
from benchmarks.measure import Row

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # head, lines
Changes = Mapping[tuple[Any, ...], Change]

NOTHING = "-"


def text(rows: Sequence[Row], changes: Changes | None = None) -> str:
    """All tables, each aligned: what was measured once, the curves, and last what the aims are about."""
    parts = [_aligned(results(rows, changes))] if any(not row.axis for row in rows) else []
    for curve in curves(rows):
        parts.append("\n".join([curve.title, _aligned(growth(curve)), *curve.notes]))
    if aimed := [row for row in rows if row.aim is not None]:
        parts.append(f"{_tally(aimed)}\n{_aligned(results(aimed, changes))}")
    return "\n\n".join(parts)


def markdown(
    rows: Sequence[Row], run: Mapping[str, Any], skipped: Iterable[str], changes: Changes | None = None
) -> str:
    """A page of results: what it was taken on, the rows by section, the curves, and what was skipped."""
    parts = ["# What it costs: results", _conditions(run)]
    if aimed := [row for row in rows if row.aim is not None]:
        parts += ["## Aims", f"{_tally(aimed)}.", _piped(results(aimed, changes))]
    for section in dict.fromkeys(row.section for row in rows):
        mine = [row for row in rows if row.section == section]
        parts.append(f"## {section[0].upper()}{section[1:]}")
        if any(not row.axis for row in mine):
            parts.append(_piped(results(mine, changes), without="section"))
        for curve in curves(mine):
            parts += [f"### {curve.title}", _piped(growth(curve))]
            parts += [" ".join([curve.why, *(f"{note}." for note in curve.notes)])] if curve.why or curve.notes else []
    if skipped := list(skipped):
        parts.append("## Skipped\n\n" + "\n".join(f"- {what}" for what in skipped))
    return "\n\n".join(parts) + "\n"


def results(rows: Iterable[Row], changes: Changes | None = None) -> Table:
    """What is no point of a curve: medians with their quartiles, ours beside the peer's, and whether the aim is met."""
    head: tuple[str, ...] = (
        "section",
        "what",
        "ours",
        "quartiles",
        "beside",
        "its",
        "quartiles",
        "ratio",
        "aim",
        "met",
    )
    if changes is not None:
        head += ("before",)
    lines = []
    for row in rows:
        if not row.axis:
            changed = () if changes is None else (str(changes.get(row.key, "new")),)
            lines.append((*_cells(row), *changed))
    return head, lines


def _cells(row: Row) -> tuple[str, ...]:
    theirs = (number(row.peer.median), _quartiles(row.peer)) if row.peer else (NOTHING, NOTHING)
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else NOTHING
    met = {None: "", True: "met", False: "missed"}[row.met]
    ours = f"{number(row.ours.median)} {row.unit}"
    beside = (row.peer_name or NOTHING, *theirs, ratio)
    return row.section, row.what, ours, _quartiles(row.ours), *beside, str(row.aim or NOTHING), met


def growth(curve: Curve) -> Table:
    """One line for each point, one column for each contender."""
    points = sorted({at for series in curve.series.values() for at in series})
    lines = []
    for at in points:
        found = [series.get(at) for series in curve.series.values()]
        lines.append((f"{at:,g}", *(number(summary.median) if summary else NOTHING for summary in found)))
    return (curve.axis, *curve.series), lines


def _tally(aimed: Sequence[Row]) -> str:
    return f"Aims: {sum(row.met is True for row in aimed)} met, {sum(row.met is False for row in aimed)} missed"


def number(value: float) -> str:
    """Three digits that count; large ones whole."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"


def _quartiles(summary: Any) -> str:
    return f"{number(summary.low)}-{number(summary.high)}"


def _conditions(run: Mapping[str, Any]) -> str:
    if not run:
        return "Nothing was measured."
    versions = ", ".join(f"{name} {value}" for name, value in run["versions"].items() if value)
    who = "root" if run["root"] else "an ordinary user"
    return (
        f"Taken {run['at']} on {run['cores']} cores ({run['processor']}), {run['memory_bytes'] >> 30} GiB, Linux "
        f"{run['kernel']} ({run['machine']}), as {who}, load {run['load_before']:.2f} before; Python {run['python']}, "
        f"{versions}. Settings: `{run['settings']['name']}`. Medians with quartiles; ours and its peers took turns. "
        "The load generator runs on the same machine: read the figures as proportions."
    )


def _aligned(table: Table) -> str:
    lines = [table[0], *table[1]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _piped(table: Table, without: str = "") -> str:
    kept = [column for column, name in enumerate(table[0]) if name != without]
    lines = [[line[column].replace("|", "\\|") for column in kept] for line in (table[0], *table[1])]
    lines.insert(1, ["---"] * len(kept))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
