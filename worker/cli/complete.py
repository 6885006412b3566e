"""What the shell may complete that only a worker knows: names of functions, ids of tasks.

A shell waits for it, so it asks once, briefly, and is silent about whatever goes wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from worker.cli.server import connected
from worker.errors import WorkerError

if TYPE_CHECKING:
    from worker.client import Client

_PATIENCE_S = 1.0
_MOST = 100


def functions(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`F`, and `F/R` once there is a slash."""

    def names(worker: Client) -> Iterable[CompletionItem]:
        for function in worker.every_function():
            yield CompletionItem(function.function)
            if "/" in incomplete:
                yield from (CompletionItem(f"{function.function}/{known.revision}") for known in function.revisions)

    return _ask(ctx, incomplete, names)


def task_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest tasks."""

    def ids(worker: Client) -> Iterable[CompletionItem]:
        page = worker.tasks(limit=_MOST)
        return [CompletionItem(task.id, help=f"{task.kind} {task.name}, {task.state}") for task in page.items]

    return _ask(ctx, incomplete, ids)


def _ask(
    ctx: click.Context, incomplete: str, what: Callable[[Client], Iterable[CompletionItem]]
) -> list[CompletionItem]:
    url = ctx.params.get("url") or os.environ.get("GALAGO_URL")
    try:
        with connected(url, ctx.params.get("token_file"), _PATIENCE_S, attempts=1) as worker:
            found = islice(what(worker), 10 * _MOST)
            return [item for item in found if item.value.startswith(incomplete)][:_MOST]
    except WorkerError:
        return []
