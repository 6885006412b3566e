"""`galago-worker call`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import show
from worker.cli.complete import functions
from worker.cli.files import read_file, read_numbers
from worker.cli.server import connected, server_options
from worker.errors import CommandExit

if TYPE_CHECKING:
    from worker.client import CallAnswer

_JSON = {"content-type": "application/json"}


@click.command(short_help="Call a function.")
@click.argument("target", shell_complete=functions)
@click.argument("params", nargs=-1)
@click.option("--data", "-d", metavar="TEXT", help="the body; @FILE takes a file, @- our input")
@click.option("--method", "-X", metavar="METHOD", help="else POST with a body, GET without")
@click.option("--header", "-H", "fields", multiple=True, metavar="NAME:VALUE", help="of the request; may be repeated")
@click.option("--include", "-i", is_flag=True, help="print status and headers, too")
@click.option("--timeout", type=float, default=60.0, metavar="S", help="for the call itself; default 60")
@server_options
def call(
    target: str,
    params: tuple[str, ...],
    data: str | None,
    method: str | None,
    fields: tuple[str, ...],
    include: bool,
    timeout: float,
    url: str | None,
    token_file: Path | None,
) -> int:
    """Call TARGET, a function F, a revision of it F/R, or a path below that: F/R/some/path?name=value.

    PARAMS are the numbers for one that is an export (`--` before them where one is negative); its results are printed.
    Exit code 1: the guest failed, or answered with a status of 400 or more.
    """
    if params and data is not None:
        raise click.UsageError("PARAMS are the body already; leave out --data, or them")
    headers = _headers(fields)
    body = _body(data)
    if params:
        body = jsonlib.dumps({"params": read_numbers(params)}).encode()
        headers = {**_JSON, **headers}
    function, revision, path = split_target(target)
    with connected(url, token_file) as worker:
        answer = worker.call(
            function,
            revision,
            path=path,
            method=method or ("POST" if params or data is not None else "GET"),
            body=body,
            headers=headers,
            wait_s=timeout,
        )
    _show(answer, include=include, numbers=bool(params))
    if answer.status < 400:
        return CommandExit.OK
    click.echo(f"galago-worker: the guest answered with status {answer.status}", err=True)
    return CommandExit.FAILED


def split_target(target: str) -> tuple[str, str | None, str]:
    """(function, revision, the rest) of `F`, `F/R`, `F/R/path?query`; a query may follow anything."""
    place, mark, query = target.partition("?")
    function, _, rest = place.partition("/")
    revision, slash, path = rest.partition("/")
    if not function:
        raise click.BadParameter("name a function: F, F/R or F/R/path", param_hint="TARGET")
    return function, revision or None, slash + path + mark + query


def _headers(fields: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in fields:
        name, colon, value = text.partition(":")
        if not (name.strip() and colon):
            raise click.BadParameter(f"{text!r} is no NAME:VALUE", param_hint="--header")
        found[name.strip()] = value.strip()
    return found


def _body(data: str | None) -> bytes:
    if data is None:
        return b""
    return read_file(Path(data[1:])) if data.startswith("@") else data.encode()


def _show(answer: CallAnswer, *, include: bool, numbers: bool) -> None:
    if include:
        click.echo(f"HTTP {answer.status}")
        for name, value in answer.headers.items():
            click.echo(show.harmless(f"{name}: {value}"))
        click.echo()
    if numbers and answer.status == 200:
        click.echo(" ".join(str(value) for value in jsonlib.loads(answer.body)["result"]))
    else:
        show.write_bytes(answer.body, raw=False)
