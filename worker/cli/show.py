"""How results are shown: tables, colours and bars for people at a terminal, plain columns in a pipe, JSON for programs.

Whatever a worker tells may come from a guest or a stranger, so nothing of it reaches a terminal as a control sequence.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

# C0 without tab and line feed, DEL, C1, and what turns a line's direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STYLES = {"running": "green", "completed": "dim", "failed": "red", "pending": "yellow", "scheduled": "yellow"}
_WIDEST = 10_000
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def harmless(text: str) -> str:
    """`text` with every control character written out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def console(stream: TextIO | None = None, width: int | None = None) -> Console:
    """A console that takes no markup, as wide as the terminal unless told; on a pipe it has no colours."""
    from rich.console import Console

    return Console(file=stream or sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def show(what: RenderableType, stream: TextIO | None = None) -> None:
    """Print, to stdout. Nothing is cut to fit a terminal: an id that isn't whole is of no use, and lines wrap by it."""
    screen = console(stream, _WIDEST)
    with screen.capture() as captured:
        screen.print(what)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), file=stream, color=screen.is_terminal)


def as_json(document: object) -> None:
    """Print for programs."""
    click.echo(json.dumps(document, indent=2))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Columns under headings. A cell that names a state has its colour; numbers stand right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    cells = [list(row) for row in rows]
    for index, heading in enumerate(headings):
        right = any(isinstance(row[index], (int, float)) for row in cells)
        made.add_column(heading, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in cells:
        made.add_row(*map(_styled, row))
    return made


def pairs(rows: Iterable[tuple[str, object]]) -> Table:
    """Names and what they are, of one thing; rows without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value is not None and value != "":
            made.add_row(name, value if isinstance(value, Text) else _styled(value))
    return made


def _styled(value: object) -> Text:
    from rich.text import Text

    text = harmless(_cell(value))
    return Text(text, _STYLES.get(text, ""))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def size(value_bytes: float | None) -> str:
    """`1536` as `1.5 KiB`."""
    if value_bytes is None:
        return "-"
    power = 0
    while value_bytes >= 1024 and power < len(_UNITS) - 1:
        value_bytes /= 1024
        power += 1
    return f"{value_bytes:.0f} {_UNITS[power]}" if power == 0 else f"{value_bytes:.1f} {_UNITS[power]}"


def duration(value_us: float | None) -> str:
    """Microseconds as people say them."""
    if value_us is None:
        return "-"
    if value_us < 1000:
        return f"{value_us:.0f} us" if value_us else "0 s"
    if value_us < 1_000_000:
        return f"{value_us / 1000:.1f} ms"
    seconds = value_us / 1_000_000
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.1f}".removesuffix(".0") + " s"


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, shortly; never less than nothing, whatever the clocks say."""
    return duration(max(0.0, ((now or datetime.now(UTC)) - at).total_seconds() // 1 * 1e6))


def short(digest: str | None) -> str:
    """The beginning of a module's digest, enough for people."""
    return "-" if digest is None else digest.removeprefix("sha256:")[:12]


@contextmanager
def uploading(total_bytes: int, what: str) -> Iterator[Any]:
    """A bar on stderr, where that is a terminal; the block gets what is told of the bytes that were sent."""
    with _bar("bytes") as progress:
        bar = progress.add_task(what, total=total_bytes)
        yield lambda sent: progress.update(bar, completed=sent)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Something that moves on stderr, where that is a terminal, for as long as it takes."""
    with _bar("time") as progress:
        progress.add_task(what, total=None)
        yield


def _bar(kind: str) -> Any:
    from rich import progress

    columns = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn(bar_width=24)]
    columns += [progress.DownloadColumn()] if kind == "bytes" else [progress.TimeElapsedColumn()]
    screen = console(sys.stderr)
    return progress.Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)


def write_bytes(data: bytes, stream: TextIO | None = None, *, raw: bool = True) -> None:
    """Bytes to stdout as they are. `raw` False: on a terminal, control characters are written out."""
    stream = stream or sys.stdout
    if not raw and stream.isatty():
        data = harmless(data.decode("utf-8", "backslashreplace")).encode()
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()
