"""`galago-worker task`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.cli import show
from worker.cli.complete import task_ids
from worker.cli.server import connected, server_options
from worker.errors import CommandExit

if TYPE_CHECKING:
    from worker.client import Client, Event, Task


@click.command(short_help="Tell all that is known of a task.")
@click.argument("task_id", metavar="ID", shell_complete=task_ids)
@click.option("--follow", "-f", is_flag=True, help="tell what happens, as it does, to its end")
@click.option("--json", is_flag=True, help="for programs; with --follow, one document a line whenever it changed")
@server_options
def task(task_id: str, follow: bool, json: bool, url: str | None, token_file: Path | None) -> int:
    """Tell all that is known of a task.

    With --follow it ends when the task does, with exit code 1 if that failed.
    """
    with connected(url, token_file) as worker:
        known = _follow(worker, task_id, json) if follow else worker.task(task_id)
    if not json:
        show.show(show.pairs(_facts(known)))
    elif not follow:
        show.as_json(known.document)
    if not follow and not json:
        click.echo()
        for event in known.events:
            click.echo(_line(event))
    return CommandExit.FAILED if follow and known.state == "failed" else CommandExit.OK


def _follow(worker: Client, task_id: str, json: bool) -> Task:
    told = 0
    for known in worker.follow_task(task_id):
        last = known
        if json:
            click.echo(jsonlib.dumps(known.document))
        else:
            for event in known.events[told:]:
                click.echo(_line(event))
            told = len(known.events)
    return last


def _line(event: Event) -> str:
    more = "".join(f", {word}" for word in (event.reason, event.detail) if word)
    return show.harmless(f"{event.at:%Y-%m-%dT%H:%M:%S.%fZ}  {event.event}: {event.state}{more}")


def _facts(known: Task) -> list[tuple[str, object]]:
    function = f"{known.function.name}/{known.function.revision}" if known.function else None
    labels = " ".join(f"{key}={value}" for key, value in known.labels.items())
    return [
        ("id", known.id),
        ("kind", known.kind),
        ("name", known.name),
        ("function", function),
        ("state", known.state),
        ("reason", known.reason),
        ("detail", known.detail),
        ("trap code", known.trap_code),
        ("signal", known.signal),
        ("exit code", known.exit_code),
        ("result", None if known.result is None else " ".join(map(str, known.result))),
        ("truncated", "yes, its output" if known.truncated else None),
        ("module", known.module.digest or known.module.url),
        ("labels", labels),
        ("attempts", known.attempts),
        *_usage(known),
        ("runner", f"pid {known.runner.pid}, uid {known.runner.uid}" if known.runner else None),
        ("created", f"{known.created_at:%Y-%m-%dT%H:%M:%SZ}, {show.ago(known.created_at)} ago"),
    ]


def _usage(known: Task) -> list[tuple[str, object]]:
    times = (("queue", known.queue_us), ("init", known.init_us), ("run", known.run_us), ("cpu", known.cpu_us))
    told = ", ".join(f"{name} {show.duration(value)}" for name, value in times if value is not None)
    memory = None if known.peak_memory_bytes is None else show.size(known.peak_memory_bytes)
    return [("fuel", known.fuel_used), ("times", told), ("memory", memory)]
