"""The curves as SVG files, and who shares a name with what: one file for each curve, one for what a runner takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.curves import Curve, curves
from benchmarks.measure import Row
from benchmarks.peers import PeerMissing

SIZE_INCHES = (8, 5)
OURS_COLOURS = ("#b3261e", "#e07b00", "#8e44ad", "#c2185b")
PEER_COLOURS = ("#1f6fb2", "#2e8b57", "#5f6b7a", "#17a2b8", "#8c6d31")
MARKERS = "osD^v<>P*"
# Axes that grow by factors. A zero stays on them as a point of its own, beside the smallest.
BY_FACTORS = ("connections", "bytes of body", "finished tasks")
PERCENT_TICKS = (50, 75, 90, 99, 99.9)
FIRST_PERCENT = 25  # what is quicker crowds at the axis
UNITS = {
    "calls/s": "calls a second",
    "jobs/s": "jobs a second",
    "ms": "milliseconds",
    "ms p50": "milliseconds, median",
    "ms p99": "milliseconds, 99th percentile",
    "s": "seconds",
    "MB USS": "MB of memory that no other process shares (USS)",
}


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write every plot that the rows allow: their files.

    Raises:
        PeerMissing: matplotlib isn't there.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise PeerMissing("plots: pip install matplotlib") from exc
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for curve in curves(rows):
        if max(len(series) for series in curve.series.values()) > 1:
            made.append(_save(Figure, directory / f"{_file_name(curve.title)}.svg", _curve_drawer(curve)))
    if any(row.unit == "MB USS" and not row.axis for row in rows):
        made.append(_save(Figure, directory / "density-memory-of-a-runner.svg", _memory_drawer(rows)))
    return made


def _save(figure_class: Any, path: Path, drawer: Callable[[Any], None]) -> Path:
    figure = figure_class(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    drawer(axes)
    # Without a date, and with ids that don't change, so that the same rows give the same file.
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "galago-worker", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def _curve_drawer(curve: Curve) -> Callable[[Any], None]:
    percent = curve.axis == "percent of calls"

    def drawer(axes: Any) -> None:
        for index, (name, series) in enumerate(curve.series.items()):
            points = sorted(at for at in series if not percent or FIRST_PERCENT <= at < 100)
            xs = [_percent_position(at) if percent else at for at in points]
            style = _style(curve, name, index)
            axes.plot(xs, [series[at].median for at in points], label=name, **style)
            if not percent:
                low, high = ([getattr(series[at], which) for at in points] for which in ("low", "high"))
                axes.fill_between(xs, low, high, color=style["color"], alpha=0.12, linewidth=0)
        _scales(axes, curve, percent)
        axes.set_title(curve.title, loc="left", fontsize=12)
        axes.set_ylabel(UNITS.get(curve.unit, curve.unit))
        axes.legend(frameon=False, fontsize=9, loc="best")

    return drawer


def _style(curve: Curve, name: str, index: int) -> dict[str, Any]:
    ours = name in curve.ours
    colours = OURS_COLOURS if ours else PEER_COLOURS
    place = index if ours else index - len(curve.ours)
    return {
        "color": colours[place % len(colours)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 2.0 if ours else 1.4,
        "linestyle": "-" if ours else "--",
    }


def _scales(axes: Any, curve: Curve, percent: bool) -> None:
    points = sorted({at for series in curve.series.values() for at in series})
    if percent:
        axes.set_xticks([_percent_position(at) for at in PERCENT_TICKS], [f"{at:g} %" for at in PERCENT_TICKS])
        axes.set_xlabel("share of calls that took at most so long")
    else:
        if curve.axis in BY_FACTORS:
            axes.set_xscale("symlog", linthresh=min(at for at in points if at > 0), linscale=0.5)
        axes.set_xticks(points, [_short(at) for at in points], rotation=45 if len(points) > 8 else 0)
        axes.minorticks_off()
        axes.set_xlabel(curve.axis)
    values = [summary.median for series in curve.series.values() for summary in series.values()]
    if curve.unit.startswith("ms") and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5), numticks=20)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    else:
        axes.set_ylim(0, 1.1 * max(axes.dataLim.y1, max(values)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _percent_position(percent: float) -> float:
    """So that 90, 99 and 99.9 are equally far apart, as in a histogram of high dynamic range."""
    from math import log10

    return -log10(1 - percent / 100)


def _short(value: float) -> str:
    for factor, suffix in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if value and value % factor == 0:
            return f"{value / factor:g} {suffix}"
    for factor, suffix in ((10**6, "M"), (10**3, "k")):
        if value >= factor:
            return f"{value / factor:g} {suffix}"
    return f"{value:g}"


def _memory_drawer(rows: Sequence[Row]) -> Callable[[Any], None]:
    found = [row for row in rows if row.unit == "MB USS" and not row.axis]

    def drawer(axes: Any) -> None:
        names = [row.what.replace(", ", "\n") for row in found]
        bars = axes.bar(names, [row.ours.median for row in found], width=0.5, color=OURS_COLOURS[0])
        axes.bar_label(bars, [f"{row.ours.median:.2f}" for row in found], padding=3)
        for place, row in enumerate(found):
            if row.aim is not None:
                axes.hlines(row.aim.figure, place - 0.35, place + 0.35, color="#333333", linestyle="--")
                axes.annotate(f"aim {row.aim.figure:g}", (place + 0.36, row.aim.figure), va="center", fontsize=9)
        axes.set_ylabel(UNITS["MB USS"])
        axes.set_title(f"density: what an idle runner takes, of {found[0].ours.count}", loc="left", fontsize=12)
        axes.margins(x=0.2, y=0.15)

    return drawer


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower().replace("/", " per ")).replace(
        "--", "-"
    )
