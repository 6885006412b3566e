"""Functions and their revisions as JSON: what the table says, and what runs now where the coordinator told it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from worker.api.render import Document, rfc3339, service_members
from worker.core.functions import FunctionRow
from worker.core.task import Task
from worker.shared.routes import Route

# What the coordinator tells of a revision; each is null where it tells nothing.
FIGURES = ("runners", "queued", "calls", "errors", "cold_starts", "fuel", "queue_us", "init_us", "run_us")

# function -> revision -> its figures, as `ReadFunctions` is answered
Live = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision: how it is routed to, and the task that keeps it."""

    route: Route
    task: Task


def function_json(function: FunctionRow, revisions: Iterable[Revision], live: Live) -> bytes:
    """One function, whole."""
    return orjson.dumps(_function(function, revisions, live))


def functions_json(functions: Iterable[tuple[FunctionRow, Iterable[Revision]]], live: Live, after: str | None) -> bytes:
    """A page of functions."""
    return orjson.dumps({"functions": [_function(*function, live) for function in functions], "next": after})


def defaults_json(functions: Iterable[FunctionRow], after: str | None) -> bytes:
    """A page of functions with their defaults alone."""
    return orjson.dumps({"defaults": [_default(function) for function in functions], "next": after})


def _default(function: FunctionRow) -> Document:
    return {"function": function.name, "default": function.default, "generation": function.generation}


def _function(function: FunctionRow, revisions: Iterable[Revision], live: Live) -> Document:
    known = live.get(function.name, {})
    return {
        **_default(function),
        "revisions": [_revision(revision, known.get(revision.route.revision, {})) for revision in revisions],
    }


def _revision(revision: Revision, figures: Mapping[str, Any]) -> Document:
    route, task = revision.route, revision.task
    assert route.spec.service is not None, "a route is a service's"
    members = service_members(route.spec.service)
    # Another task may have taken the revision's name since the table was read.
    known = figures if figures.get("task_id") == route.task_id else {}
    return {
        "revision": route.revision,
        "task_id": route.task_id,
        "state": task.status.state,
        "routed": route.routed,
        "trouble": route.trouble,
        "module": {"digest": route.spec.digest, "url": route.spec.url},
        "handler": members["handler"],
        "scale": members["scale"],
        "reuse": members["reuse"],
        "created_at": rfc3339(task.created_at_us),
        **{name: known.get(name) for name in FIGURES},
    }
