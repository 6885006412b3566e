"""`galago-worker run`."""

from __future__ import annotations

import base64
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from worker.cli import show
from worker.cli.files import read_file, read_numbers, read_variables
from worker.cli.server import CommandFailed, explained, import_client
from worker.config_values import show as show_figure
from worker.embedded import Embedded, embedded
from worker.errors import CommandExit

if TYPE_CHECKING:
    from worker.client import Client, Module, Task

MiB = 1 << 20
# A program of one's own at one's own terminal: as much as there may be, unless told less.
MOST_FUEL, MOST_WALL_MS, MOST_MEMORY_BYTES, MOST_OUTPUT_BYTES = 2**63 - 1, 24 * 3_600_000, 512 * MiB, 1024 * MiB
MAX_STDIN_BYTES = MiB
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

# How a guest's end that is none of its own exit codes is told to the shell.
_CODES = {
    "fuel": CommandExit.TIME_UP,
    "deadline": CommandExit.TIME_UP,
    "killed_deadline": CommandExit.TIME_UP,
    "trap": CommandExit.TRAPPED,
    "crashed": CommandExit.TRAPPED,
    "oom_guest": CommandExit.OUT_OF_MEMORY,
    "oom_kernel": CommandExit.OUT_OF_MEMORY,
    "output_limit": CommandExit.FAILED,
}


@click.command(
    short_help="Run a Wasm program, sealed, without a server.", context_settings={"allow_interspersed_args": False}
)
@click.option("--env", "-e", multiple=True, metavar="NAME[=VALUE]", help="for the guest; without VALUE, ours")
@click.option("--export", metavar="NAME", help="call this export; ARGS are its parameters, the result is printed")
@click.option("--fuel", type=click.IntRange(1, MOST_FUEL), default=MOST_FUEL, metavar="N", help="else without end")
@click.option(
    "--wall-ms", type=click.IntRange(1, MOST_WALL_MS), default=MOST_WALL_MS, metavar="MS", help="run time; else a day"
)
@click.option(
    "--memory-bytes",
    type=click.IntRange(65_536, 1 << 32),
    default=MOST_MEMORY_BYTES,
    metavar="BYTES",
    help="of the guest; else 512 MiB",
)
@click.option("--stub-imports", is_flag=True, help="imports that are not known here do nothing")
@click.option("--allow-unsealed", is_flag=True, help="run even without seccomp and no_new_privs")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("args", nargs=-1)
def run(file: Path, args: tuple[str, ...], **options: Any) -> int:
    """Run a Wasm program, sealed, without a server: FILE.wasm with ARGS.

    Its input is read to the end first, and its output is shown as it comes. It ends with the guest's exit code; with
    124 past its time or fuel, 126 if the program can't be run, 134 after a trap, 137 out of memory.
    """
    module = read_file(file)
    serve = ["--max-wall-ms", str(MOST_WALL_MS), "--max-output-bytes", str(MOST_OUTPUT_BYTES), "--max-runners", "1"]
    memory_bytes = str(max(options["memory_bytes"], MOST_MEMORY_BYTES))
    serve += ["--max-memory-bytes", memory_bytes]
    if options["allow_unsealed"]:
        serve.append("--allow-unsealed")
    task = {
        "kind": "job",
        "env": read_variables(options["env"]),
        "limits": {
            "fuel": options["fuel"],
            "wall_ms": options["wall_ms"],
            "memory_bytes": options["memory_bytes"],
            "output_bytes": MOST_OUTPUT_BYTES,
        },
        "unknown_imports": "stub" if options["stub_imports"] else "deny",
        **_entry(options["export"], args),
    }
    with _ended_by_signals(), embedded(serve, meanwhile=import_client) as worker:
        client = import_client()
        try:
            return _run(client, worker, module, task)
        except BrokenPipeError:
            _drop_output()
            return 128 + signal.SIGPIPE
        except client.Refused as exc:
            raise CommandFailed(f"{file}: {explained(exc)}", CommandExit.CANT_RUN) from exc
        except client.ClientError as exc:
            raise explained(exc) from exc


def _entry(export: str | None, args: tuple[str, ...]) -> dict[str, Any]:
    return {"args": args} if export is None else {"entry": {"export": export, "params": read_numbers(args)}}


def _run(client: Any, worker: Embedded, module: bytes, task: dict[str, Any]) -> int:
    with client.Client(worker.url, token=worker.token) as asked:
        known = asked.upload(module)
        stdin = _stdin(known)
        if stdin:
            task = {**task, "stdin": {"base64": base64.b64encode(stdin).decode()}}
        started = asked.submit({**task, "module": {"digest": known.digest}})
        try:
            _pass_on(asked, started.id)
            return _end(asked.task(started.id))
        except BaseException:  # a signal, or a reader that is gone
            with suppress(client.ClientError):
                asked.stop(started.id, force=True)
            raise


def _stdin(module: Module) -> bytes:
    """Our input, if the program can read it at all: who doesn't is not held up by a terminal or an open pipe."""
    if not any(found.name == "fd_read" for found in module.imports):
        return b""
    if sys.stdin.isatty():
        click.echo("galago-worker: the input is read to its end first (Ctrl-D)", err=True)
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        most = show_figure(MAX_STDIN_BYTES, "bytes")
        raise CommandFailed(f"the input is longer than {most}, the most that a job takes", CommandExit.CANT_RUN)
    return data


def _pass_on(asked: Client, task_id: str) -> None:
    """The guest's output to ours, as it comes."""
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    for chunk in asked.follow_output(task_id):
        show.write_bytes(chunk.data, streams[chunk.stream])


def _drop_output() -> None:
    """Nobody reads it any more, and what is still buffered must not be told as an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _end(task: Task) -> int:
    """The exit code; why, on stderr, where it isn't the guest's own."""
    if task.reason in ("exit", "nonzero_exit"):
        if task.result is not None:
            click.echo(" ".join(str(value) for value in task.result))
        return (task.exit_code or 0) & 0xFF
    detail = f": {task.detail}" if task.detail else ""
    click.echo(show.harmless(f"galago-worker: {task.reason}{detail}"), err=True)
    return _CODES.get(task.reason or "", CommandExit.CANT_RUN)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the block, as Ctrl-C does, so that nothing is left behind."""

    def unwind(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
