"""How a worker's `/stats` look to people: the node, its runners, its functions, what runs. For `stats` and `top`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worker.cli import show

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from worker.client import Stats

_BAR = 20
_ORDER = ("pending", "scheduled", "running", "completed", "failed")


def view(stats: Stats, rates: Mapping[str, float] | None = None) -> Group:
    """All of it. `rates`: calls per second by function, where they are known; the name "" stands for all together."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [show.pairs(_facts(stats, rates)), Text("")]
    parts += [show.pairs(_gauges(stats)), Text("")]
    if stats.functions:
        parts += [_functions(stats, rates), Text("")]
    if stats.running:
        parts += [_running(stats)]
    return Group(*parts)


def _facts(stats: Stats, rates: Mapping[str, float] | None) -> list[tuple[str, object]]:
    seal = stats.seal.get("level") or "not known yet"
    lacking = [name for name, there in stats.seal.get("layers", {}).items() if not there]
    calls = stats.calls
    called = f"{calls.get('calls', 0)}, {calls.get('errors', 0)} errors, {calls.get('waiting', 0)} waiting"
    return [
        ("node", f"{stats.node.get('name')}, up {show.duration(stats.uptime_s * 1e6)}"),
        ("version", ", ".join(f"{name} {version}" for name, version in stats.versions.items())),
        ("seal", seal + (f", without {', '.join(lacking)}" if lacking else "")),
        ("tasks", ", ".join(f"{stats.tasks.get(state, 0)} {state}" for state in _ORDER)),
        ("queue", stats.queue.get("length")),
        ("calls", called + (f", {rates['']:.1f}/s" if rates and "" in rates else "")),
    ]


def _gauges(stats: Stats) -> list[tuple[str, Any]]:
    node, memory, disk = stats.node, stats.node.get("memory", {}), stats.node.get("disk", {})
    cores, load = node.get("cores", 1), (node.get("load") or [0.0])[0]
    total, free = stats.runners.get("total", 0), stats.runners.get("free", 0)
    memory_total, available = memory.get("total_bytes", 0), memory.get("available_bytes", 0)
    disk_total, disk_free = disk.get("total_bytes", 0), disk.get("free_bytes", 0)
    allocated = show.size(memory.get("allocated_bytes", 0))
    return [
        ("runners", _gauge(total - free, total, f"{total - free} of {total}")),
        ("load", _gauge(load, cores, f"{load:.2f} on {cores} cores")),
        ("memory", _gauge(memory_total - available, memory_total, f"{_of(memory_total - available, memory_total)}")),
        ("", f"{allocated} given to running tasks"),
        ("disk", _gauge(disk_total - disk_free, disk_total, f"{_of(disk_total - disk_free, disk_total)}")),
    ]


def _of(used_bytes: int, total_bytes: int) -> str:
    return f"{show.size(used_bytes)} of {show.size(total_bytes)}"


def _gauge(used: float, total: float, told: str) -> Text:
    """A bar and what it stands for: red from nine tenths on."""
    from rich.text import Text

    part = min(1.0, used / total) if total else 0.0
    full = round(part * _BAR)
    bar = Text("#" * full + "." * (_BAR - full), "red" if part >= 0.9 else "green")
    return Text.assemble("[", bar, "] ", show.harmless(told))


def _functions(stats: Stats, rates: Mapping[str, float] | None) -> Any:
    headings = ["FUNCTION", "REVISIONS", "RUNNERS", "QUEUED", "CALLS", "ERRORS", *(["CALLS/S"] if rates else [])]
    rows = []
    for name, found in sorted(stats.functions.items()):
        row = [name, *(found.get(key) for key in ("revisions", "runners", "queued", "calls", "errors"))]
        rows.append([*row, f"{rates.get(name, 0.0):.1f}"] if rates else row)
    return show.table(headings, rows)


def _running(stats: Stats) -> Any:
    rows = []
    for found in stats.running:
        figures = show.duration(found.get("cpu_us")), show.size(found.get("rss_bytes"))
        rows.append((found.get("task_id"), found.get("pid"), found.get("cpu_percent"), *figures))
    return show.table(("RUNNING TASK", "PID", "CPU %", "CPU TIME", "MEMORY"), rows)
