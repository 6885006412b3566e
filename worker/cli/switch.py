"""`galago-worker switch`."""

from __future__ import annotations

from pathlib import Path

import click

from worker.cli import show
from worker.cli.complete import functions
from worker.cli.server import connected, server_options


@click.command(short_help="Make a revision the default.")
@click.argument("function", shell_complete=functions)
@click.argument("revision", required=False)
@click.option("--off", is_flag=True, help="make it not the default; the function then has none")
@click.option("--generation", type=int, metavar="N", help="only while the function's generation is this one")
@click.option("--json", is_flag=True, help="for programs")
@server_options
def switch(
    function: str,
    revision: str | None,
    off: bool,
    generation: int | None,
    json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Make REVISION the default of FUNCTION: who calls it without a revision gets this one from now on.

    FUNCTION/REVISION is understood, too.
    """
    if revision is None:
        function, _, revision = function.partition("/")
    if not (function and revision):
        raise click.UsageError("name a revision: FUNCTION REVISION")
    with connected(url, token_file) as worker:
        switched = worker.switch(function, revision, on=not off, generation=generation)
    if json:
        show.as_json(switched.document)
    else:
        was = f" (it was {switched.previous})" if switched.previous not in (None, switched.default) else ""
        now = f"{switched.default} is the default of" if switched.default else "there is no default of"
        click.echo(f"{now} {function}{was}; generation {switched.generation}")
