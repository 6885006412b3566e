"""`galago-worker stop`."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli import show
from worker.cli.complete import task_ids
from worker.cli.server import connected, server_options


@click.command
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=task_ids)
@click.option("--force", is_flag=True, help="at once, without grace for what runs")
@click.option("--wait", is_flag=True, help="until each has ended")
@server_options
def stop(ids: tuple[str, ...], force: bool, wait: bool, url: str | None, token_file: Path | None) -> None:
    """Stop tasks. One that has ended stays as it is."""
    with connected(url, token_file) as worker:
        for task_id in ids:
            worker.stop(task_id, force=force)
        for task_id in ids if wait else ():
            with show.waiting(f"{task_id} ends"):
                ended = worker.await_end(task_id)
            click.echo(f"{task_id} {ended.state}: {ended.reason}")
