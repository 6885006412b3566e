"""`galago-worker logs`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from worker.cli import show
from worker.cli.complete import task_ids
from worker.cli.server import connected, server_options

_STREAMS = {"stdout": ("stdout",), "stderr": ("stderr",), "both": ("stdout", "stderr")}


@click.command(short_help="Print what a task wrote.")
@click.argument("task_id", metavar="ID", shell_complete=task_ids)
@click.option("--follow", "-f", is_flag=True, help="go on with what it writes, to its end")
@click.option("--stream", type=click.Choice(list(_STREAMS)), default="both", help="default both")
@click.option("--raw", is_flag=True, help="control characters as they are, on a terminal too")
@server_options
def logs(task_id: str, follow: bool, stream: str, raw: bool, url: str | None, token_file: Path | None) -> None:
    """Print what a task wrote: its stdout to ours, its stderr to ours."""
    ours = {"stdout": sys.stdout, "stderr": sys.stderr}
    with connected(url, token_file) as worker:
        if follow:
            for chunk in worker.follow_output(task_id, _STREAMS[stream]):
                show.write_bytes(chunk.data, ours[chunk.stream], raw=raw)
        else:
            for name in _STREAMS[stream]:
                show.write_bytes(worker.output(task_id, name), ours[name], raw=raw)
