"""`galago-worker tasks`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import show
from worker.cli.server import connected, server_options

if TYPE_CHECKING:
    from worker.client import Task

_STATES = ("pending", "scheduled", "running", "completed", "failed")


@click.command
@click.option("--state", type=click.Choice(_STATES), help="in this state alone")
@click.option("--kind", type=click.Choice(["job", "service"]), help="of this kind alone")
@click.option("--function", metavar="F", help="revisions of this function alone")
@click.option("--label", metavar="KEY=VALUE", help="with this label alone")
@click.option("--limit", type=click.IntRange(1), default=50, metavar="N", help="the newest N; default 50")
@click.option("--all", "everything", is_flag=True, help="all of them")
@click.option("--json", is_flag=True, help="for programs")
@server_options
def tasks(
    limit: int, everything: bool, json: bool, url: str | None, token_file: Path | None, **filters: str | None
) -> None:
    """List tasks, newest first."""
    with connected(url, token_file) as worker:
        found = list(islice(worker.every_task(**filters), None if everything else limit + 1))
    more = not everything and len(found) > limit
    found = found if everything else found[:limit]
    if json:
        show.as_json({"tasks": [task.document for task in found]})
        return
    headings = ("ID", "KIND", "NAME", "STATE", "REASON", "FUNCTION", "AGE", "RAN")
    show.show(show.table(headings, map(_row, found)))
    if more:
        click.echo(f"there are more than {limit}: --limit N or --all", err=True)


def _row(task: Task) -> tuple[object, ...]:
    function = f"{task.function.name}/{task.function.revision}" if task.function else None
    return (
        task.id,
        task.kind,
        task.name,
        task.state,
        task.reason,
        function,
        show.ago(task.created_at),
        show.duration(task.run_us),
    )
