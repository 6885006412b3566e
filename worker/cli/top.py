"""`galago-worker top`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import node, show
from worker.cli.server import connected, server_options

if TYPE_CHECKING:
    from rich.console import Group

    from worker.client import Client, Stats


@click.command(short_help="Watch the node, live.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="S", help="between looks; default 1")
@click.option("--count", "looks", type=click.IntRange(1), metavar="N", help="end after so many looks")
@server_options
def top(interval: float, looks: int | None, url: str | None, token_file: Path | None) -> None:
    """Watch the node: its runners, functions with their calls per second, and what runs. Ctrl-C ends it."""
    with connected(url, token_file) as worker:
        screen = show.console()
        views = _views(worker, interval, looks)
        if not screen.is_terminal:
            for view in views:
                show.show(view)
            return
        from rich.live import Live

        with suppress(KeyboardInterrupt), Live(console=screen, screen=True, auto_refresh=False) as live:
            for view in views:
                live.update(view, refresh=True)


def _views(worker: Client, interval_s: float, looks: int | None) -> Iterator[Group]:
    before: tuple[float, Stats] | None = None
    for number in count(1):
        now_s, stats = time.monotonic(), worker.stats()
        yield node.view(stats, None if before is None else _rates(before[1], stats, now_s - before[0]))
        if number == looks:
            return
        before = now_s, stats
        time.sleep(interval_s)


def _rates(before: Stats, after: Stats, seconds: float) -> dict[str, float]:
    """Calls per second, by function, and of all together under "". A count that fell began anew."""
    rates = {"": max(0, after.calls.get("calls", 0) - before.calls.get("calls", 0)) / seconds}
    for name, found in after.functions.items():
        was = before.functions.get(name, {}).get("calls", 0)
        rates[name] = max(0, found.get("calls", 0) - was) / seconds
    return rates
