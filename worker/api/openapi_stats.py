"""The components of the OpenAPI document that say how the node is: `/readyz` and `/stats`."""

from __future__ import annotations

from worker.api.openapi_types import (
    Schema,
    array,
    boolean,
    choice,
    closed,
    integer,
    nullable,
    open_to_more,
    string,
)
from worker.core.task import State

_NUMBER: Schema = {"type": "number"}
_LEVELS = ("full", "reduced")


def ready() -> Schema:
    """How full the worker is; what is not known is left out."""
    figures = ("tasks_waiting", "tasks_running", "tasks_queued", "calls_waiting", "runners_total", "runners_free")
    most = ("max_queued", "max_runners")
    properties = {"ready": boolean(), "state": string(), **dict.fromkeys((*figures, *most), integer(0))}
    return open_to_more(properties, ("ready", "state"))


def stats() -> Schema:
    """What a manager schedules by. Any object in it may get further members."""
    properties = {
        "node": _node(),
        "uptime_s": _NUMBER,
        "tasks": open_to_more(dict.fromkeys([state.value for state in State], integer(0)), ()),
        "queue": open_to_more({"length": integer(0)}),
        "runners": open_to_more(dict.fromkeys(("total", "free"), integer(0))),
        "running": array(_running()),
        "calls": open_to_more(dict.fromkeys(("calls", "errors", "waiting", "cold_starts"), integer(0))),
        "functions": {"type": "object", "additionalProperties": _function()},
        "versions": {"type": "object", "additionalProperties": string()},
        "seal": closed(
            {
                "level": nullable(choice(*_LEVELS)),
                "layers": {"type": "object", "additionalProperties": boolean()},
            }
        ),
    }
    return {**open_to_more(properties), "description": "What a manager schedules by."}


def audit() -> Schema:
    """In what the coordinator's books and the machine differ: nothing, when all is well."""
    counts = ("slots", "runners", "children", "processes", "tasks", "descriptors", "listeners", "artifacts", "left_out")
    properties = {
        "differences": array(open_to_more({"kind": string(), "detail": string()})),
        "checked": open_to_more({**dict.fromkeys(counts, integer(0)), "cgroup": nullable(integer(0))}, ()),
    }
    return {**open_to_more(properties), "description": "Every difference is named; `checked` counts what was compared."}


def _node() -> Schema:
    sizes = {"total_bytes": integer(0), "available_bytes": integer(0), "allocated_bytes": integer(0)}
    return open_to_more(
        {
            "name": string(),
            "cores": integer(1),
            "load": array(_NUMBER, 3),
            "memory": open_to_more(sizes),
            "disk": open_to_more(dict.fromkeys(("total_bytes", "free_bytes"), integer(0))),
            "uptime_s": integer(0),
        }
    )


def _function() -> Schema:
    return open_to_more(dict.fromkeys(("revisions", "runners", "queued", "calls", "errors"), integer(0)))


def _running() -> Schema:
    return open_to_more(
        {
            "task_id": string(),
            "pid": integer(1),
            "cpu_percent": nullable(_NUMBER),
            "cpu_us": integer(0),
            "rss_bytes": integer(0),
        }
    )
