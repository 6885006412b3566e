"""`galago-worker stats`."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli import node, show
from worker.cli.server import connected, server_options


@click.command(short_help="Tell how the node is.")
@click.option("--json", is_flag=True, help="for programs")
@server_options
def stats(json: bool, url: str | None, token_file: Path | None) -> None:
    """Tell how the node is: what runs, what waits, what is free."""
    with connected(url, token_file) as worker:
        found = worker.stats()
    if json:
        show.as_json(found.document)
    else:
        show.show(node.view(found))
