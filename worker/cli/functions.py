"""`galago-worker functions`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import complete, show
from worker.cli.server import connected, server_options

if TYPE_CHECKING:
    from worker.client import Function

_HEADINGS = ("FUNCTION", "REVISION", "DEFAULT", "STATE", "RUNNERS", "QUEUED", "CALLS", "ERRORS", "P50", "P99", "TASK")


@click.command(short_help="List functions and how they fare.")
@click.argument("name", metavar="[FUNCTION]", required=False, shell_complete=complete.functions)
@click.option("--json", is_flag=True, help="for programs")
@server_options
def functions(name: str | None, json: bool, url: str | None, token_file: Path | None) -> None:
    """List functions with their revisions and how they fare, or one of them."""
    with connected(url, token_file) as worker:
        found = list(worker.every_function()) if name is None else [worker.function(name)]
    if json:
        show.as_json({"functions": [function.document for function in found]} if name is None else found[0].document)
        return
    show.show(show.table(_HEADINGS, _rows(found)))
    for function in found:
        for revision in function.revisions:
            if revision.trouble:
                told = f"{function.function}/{revision.revision} does not start: {revision.trouble}"
                click.echo(show.harmless(told), err=True)


def _rows(found: Iterable[Function]) -> Iterator[tuple[object, ...]]:
    for function in found:
        if not function.revisions:
            yield (function.function, *["-"] * (len(_HEADINGS) - 1))
        for revision in function.revisions:
            runners = revision.runners
            times = revision.run_us or {}
            yield (
                function.function,
                revision.revision,
                "yes" if revision.revision == function.default else "",
                revision.state,
                None if runners is None else f"{runners.busy}/{runners.busy + runners.idle + runners.starting}",
                revision.queued,
                revision.calls,
                None if revision.errors is None else sum(revision.errors.values()),
                show.duration(times.get("p50")),
                show.duration(times.get("p99")),
                revision.task_id,
            )
