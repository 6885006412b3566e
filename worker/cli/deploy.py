"""`galago-worker deploy`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli import show
from worker.cli.files import read_file, read_labels, read_variables
from worker.cli.server import CommandFailed, connected, server_options
from worker.errors import CommandExit

if TYPE_CHECKING:
    from worker.client import Client, Task

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@click.command(short_help="Deploy a module as a revision of a function.")
@click.argument("module")
@click.option("--function", "-f", required=True, metavar="F", help="the function's name")
@click.option("--revision", "-r", required=True, metavar="R", help="the revision's name, a new one")
@click.option("--default", is_flag=True, help="make it the default revision once it runs")
@click.option("--export", metavar="NAME", help="calls go to this export, numbers in and out; else to a WAGI command")
@click.option("--arg", "args", multiple=True, metavar="TEXT", help="argument of the guest; may be repeated")
@click.option("--env", "-e", multiple=True, metavar="NAME[=VALUE]", help="for the guest; without VALUE, ours")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="of the task; may be repeated")
@click.option("--min", type=int, metavar="N", help="runners that are always there")
@click.option("--max", type=int, metavar="N", help="runners at most")
@click.option("--idle-ms", type=int, metavar="MS", help="a runner beyond --min ends after so long without a call")
@click.option("--queue", type=int, metavar="N", help="calls that may wait")
@click.option("--fuel", type=int, metavar="N", help="of one call")
@click.option("--wall-ms", type=int, metavar="MS", help="run time of one call")
@click.option("--memory-bytes", type=int, metavar="BYTES", help="of one runner's guest")
@click.option("--stub-imports", is_flag=True, help="imports that the worker lacks do nothing")
@click.option("--timeout", type=float, default=180.0, metavar="S", help="to wait until it runs; default 180")
@click.option("--json", is_flag=True, help="print the task, for programs")
@server_options
def deploy(module: str, url: str | None, token_file: Path | None, timeout: float, json: bool, **options: Any) -> int:
    """Deploy MODULE (a file, a URL that the worker fetches, or the digest of one that is there) as a function.

    It waits until the revision runs. Exit code 1: it did not come to run.
    """
    data = None if _URL.match(module) or _DIGEST.fullmatch(module) else read_file(Path(module))
    with connected(url, token_file) as worker:
        reference = _reference(module) if data is None else {"digest": _upload(worker, data, module)}
        task = worker.submit({"module": reference, **_service(options)})
        with show.waiting("starting its first runner"):
            task = worker.await_running(task.id, timeout)
    if json:
        show.as_json(task.document)
    if task.state != "running":
        raise CommandFailed(_why(task), CommandExit.FAILED)
    if not json:
        name = f"{options['function']}/{options['revision']}"
        more = ", the default revision" if options["default"] else ""
        click.echo(f"{name} runs{more}: task {task.id}\ncall it by `galago-worker call {name}`")
        if not options["default"]:
            click.echo(f"make it the default by `galago-worker switch {name}`")
    return CommandExit.OK


def _reference(module: str) -> dict[str, str]:
    return {"digest": module} if _DIGEST.fullmatch(module) else {"url": module}


def _upload(worker: Client, data: bytes, name: str) -> str:
    with show.uploading(len(data), f"uploading {Path(name).name}") as on_sent:
        return worker.upload(data, on_sent).digest


def _service(options: dict[str, Any]) -> dict[str, Any]:
    """The task, with what was given and nothing else: the rest are the worker's defaults."""
    export = options["export"]
    return {
        "kind": "service",
        "function": {name: options[key] for name, key in _FUNCTION.items()},
        "handler": {"abi": "wagi"} if export is None else {"abi": "export", "export": export},
        "args": options["args"],
        "env": read_variables(options["env"]),
        "labels": read_labels(options["label"]),
        "scale": _given(options, "min", "max", "idle_ms", "queue"),
        "limits": _given(options, "fuel", "wall_ms", "memory_bytes"),
        "unknown_imports": "stub" if options["stub_imports"] else "deny",
    }


_FUNCTION = {"name": "function", "revision": "revision", "default": "default"}


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _why(task: Task) -> str:
    detail = f": {task.detail}" if task.detail else ""
    return f"it did not come to run: {task.reason}{detail}\n  `galago-worker task {task.id}` tells its story"
