"""`galago-worker modules`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import show
from worker.cli.server import CommandFailed, connected, server_options
from worker.errors import CommandExit

if TYPE_CHECKING:
    from worker.client import Client, Extern, Module

_DIGEST_LENGTH = len("sha256:") + 64


@click.command(short_help="List modules, or show one.")
@click.argument("digest", required=False)
@click.option("--delete", is_flag=True, help="delete it; refused while a task that hasn't ended needs it")
@click.option("--json", is_flag=True, help="for programs")
@server_options
def modules(digest: str | None, delete: bool, json: bool, url: str | None, token_file: Path | None) -> None:
    """List modules, newest first; or show one, by its digest or the beginning of it, with its imports and exports."""
    if delete and digest is None:
        raise click.UsageError("--delete takes the digest of one module")
    with connected(url, token_file) as worker:
        found = list(worker.every_module()) if digest is None else [_one(worker, digest)]
        if delete:
            worker.delete_module(found[0].digest)
            click.echo(f"{found[0].digest} is deleted")
            return
    if json:
        show.as_json({"modules": [module.document for module in found]} if digest is None else found[0].document)
    elif digest is None:
        headings = ("DIGEST", "SIZE", "IMPORTS", "EXPORTS", "AGE")
        show.show(show.table(headings, map(_row, found)))
    else:
        show.show(show.pairs(_facts(found[0])))


def _one(worker: Client, digest: str) -> Module:
    if len(digest) == _DIGEST_LENGTH:
        return worker.module(digest)
    beginning = "sha256:" + digest.removeprefix("sha256:")
    found = [module for module in worker.every_module() if module.digest.startswith(beginning)]
    if len(found) != 1:
        how_many = f"{len(found) or 'no'} modules"
        raise CommandFailed(f"{how_many} begin with {digest}; `galago-worker modules` lists them", CommandExit.REFUSED)
    return found[0]


def _row(module: Module) -> tuple[object, ...]:
    counts = len(module.imports), len(module.exports)
    return (show.short(module.digest), show.size(module.size_bytes), *counts, show.ago(module.created_at))


def _facts(module: Module) -> list[tuple[str, object]]:
    return [
        ("digest", module.digest),
        ("size", show.size(module.size_bytes)),
        ("age", show.ago(module.created_at)),
        *[("import", _signature(found)) for found in module.imports],
        *[("export", _signature(found)) for found in module.exports],
    ]


def _signature(found: Extern) -> str:
    name = found.name if found.module is None else f"{found.module} {found.name}"
    if found.kind != "func":
        return f"{name}: {found.kind}"
    return f"{name}: ({', '.join(found.params)}) -> ({', '.join(found.results)})"
