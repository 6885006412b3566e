"""The components of the OpenAPI document that are about services: as posted, as answered, and as functions."""

from __future__ import annotations

from worker.api.openapi_types import (
    NAME,
    TASK_ID,
    Schema,
    array,
    boolean,
    choice,
    closed,
    integer,
    moment,
    nullable,
    open_to_more,
    string,
)
from worker.api.posted_service import DEFAULT_QUEUE, RESERVED, longest_queue
from worker.api.schemas import DAY_MS, MAX_CALLS_OF_INSTANCE, MAX_RUNNERS_OF_REVISION
from worker.config import Config
from worker.core.task import State

CALL_NAME = NAME.replace("^", f"^(?!{RESERVED}$)", 1)
_ABI, _AUTH, _ON_DISCONNECT = ("wagi", "export"), ("none", "token"), ("finish", "cancel")


def service_posted(config: Config) -> dict[str, Schema]:
    """What a service has when it is posted, and a job has not."""
    flags = {
        "auth": choice(*_AUTH, default="none"),
        "expose_usage": boolean(default=False),
        "retryable": boolean(default=False),
        "on_disconnect": choice(*_ON_DISCONNECT, default="finish"),
    }
    export = string(minLength=1, maxLength=256, description="A function that the module exports.")
    queue = longest_queue()
    scale = {
        "min": integer(0, MAX_RUNNERS_OF_REVISION, default=0, description="Up to max."),
        "max": integer(1, MAX_RUNNERS_OF_REVISION, default=4),
        "idle_ms": integer(0, DAY_MS, default=60_000),
        "queue": integer(1, queue, default=min(DEFAULT_QUEUE, queue), description="Calls that may wait."),
    }
    reuse = {
        "max_calls": integer(1, MAX_CALLS_OF_INSTANCE, default=1, description="1: every call has a fresh instance."),
        "max_memory_bytes": integer(64 * 1024, config.max_memory_bytes, description="Up to the memory limit."),
    }
    name = string(CALL_NAME)
    return {
        "function": closed({"name": name, "revision": name, "default": boolean(default=False)}, ("name", "revision")),
        "handler": {
            "oneOf": [
                closed({"abi": choice("wagi"), **flags}, ("abi",)),
                closed({"abi": choice("export"), "export": export, **flags}, ("abi", "export")),
            ]
        },
        "scale": closed(scale, ()),
        "reuse": closed(reuse, ()),
    }


def service_answered() -> dict[str, Schema]:
    """The same in a task's answer, where a job has null."""
    function = closed({"name": string(), "revision": string(), "default": boolean()})
    return {name: nullable(schema) for name, schema in {"function": function, **_kept()}.items()}


def function_default() -> Schema:
    """A function, and which of its revisions is the default; `generation` counts the switches."""
    return closed({"function": string(NAME), "default": nullable(string(NAME)), "generation": integer(0)})


def function() -> Schema:
    """A function with its revisions."""
    return closed({**function_default()["properties"], "revisions": array(_revision())})


def _kept() -> dict[str, Schema]:
    """How a revision is called and kept."""
    handler = {
        "abi": choice(*_ABI),
        "export": nullable(string()),
        "auth": choice(*_AUTH),
        "expose_usage": boolean(),
        "retryable": boolean(),
        "on_disconnect": choice(*_ON_DISCONNECT),
    }
    return {
        "handler": closed(handler),
        "scale": closed(dict.fromkeys(("min", "max", "idle_ms", "queue"), integer(0))),
        "reuse": closed(dict.fromkeys(("max_calls", "max_memory_bytes"), integer(0))),
    }


def _revision() -> Schema:
    """The figures are null where the coordinator tells none."""
    count = nullable(integer(0))
    durations = nullable(open_to_more(dict.fromkeys(("p50", "p90", "p99", "mean"), nullable({"type": "number"}))))
    return closed(
        {
            "revision": string(NAME),
            "task_id": string(TASK_ID),
            "state": choice(*State),
            "routed": boolean(description="Calls may go there."),
            "trouble": nullable(string(description="Why its runners can't start.")),
            "module": closed(dict.fromkeys(("digest", "url"), nullable(string()))),
            **_kept(),
            "created_at": moment(),
            "runners": nullable(open_to_more(dict.fromkeys(("idle", "busy", "starting"), integer(0)))),
            **dict.fromkeys(("queued", "calls"), count),
            "errors": nullable({"type": "object", "additionalProperties": integer(0)}),
            **dict.fromkeys(("cold_starts", "fuel"), count),
            **dict.fromkeys(("queue_us", "init_us", "run_us"), durations),
        }
    )
