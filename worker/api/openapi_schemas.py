"""The components of the OpenAPI document: what is sent and what is answered, as JSON Schema 2020-12.

The ranges are the contract's, the ceilings the operator's, so that the document says what this very worker takes.
"""

from __future__ import annotations

from worker.api.openapi_services import function, function_default, service_answered, service_posted
from worker.api.openapi_stats import audit, ready, stats
from worker.api.openapi_types import (
    DIGEST,
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
    page,
    ref,
    string,
)
from worker.api.problems import KINDS
from worker.api.schemas import DAY_MS, MAX_LABEL_KEY_BYTES, MAX_LABEL_VALUE_BYTES
from worker.config import Config
from worker.config_values import read_volume
from worker.core.task import Reason, State

# No control characters, and in a label's key no `=` either.
_LABEL_KEY = "^[^=\\u0000-\\u001f\\u007f]+$"
_LABEL_VALUE = "^[^\\u0000-\\u001f\\u007f]*$"
_URL = "^(?:https?|file)://[!-\\[\\]-~]+$"
_NO_NUL = "^[^\\u0000]*$"
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_RELATIVE_PATH = "^(?!/)(?!(?:.*/)?\\.\\.(?:/|$))[^\\u0000]+$"


def schemas(config: Config) -> dict[str, Schema]:
    """Every named schema of the document."""
    return {
        "Problem": _problem(),
        "Post": {"oneOf": [ref("PostedJob"), ref("PostedService")]},
        "PostedJob": _posted_job(config),
        "PostedService": _posted_service(config),
        "Task": _task(listed=False),
        "ListedTask": _task(listed=True),
        "TaskPage": page("tasks", "ListedTask"),
        "Module": _module(),
        "ModulePage": page("modules", "Module"),
        "Function": function(),
        "FunctionPage": page("functions", "Function"),
        "Default": function_default(),
        "DefaultPage": page("defaults", "Default"),
        "Switched": closed({**function_default()["properties"], "previous": nullable(string(NAME))}),
        "Ready": ready(),
        "Stats": stats(),
        "Audit": audit(),
    }


def _problem() -> Schema:
    """RFC 9457. `/readyz` adds members."""
    properties = {
        "type": string(),
        "title": string(),
        "status": integer(400, 599),
        "code": choice(*KINDS),
        "detail": string(description="What was wrong and what would be right; for `internal` an id."),
        "field": string(description="The field, query parameter or header in question."),
        "executed": choice("no", "maybe", "yes", description="Whether what was asked for was done."),
    }
    required = [name for name in properties if name != "field"]
    return {"type": "object", "properties": properties, "required": required}


def _value() -> Schema:
    return {
        "description": 'A Wasm number. An i64 may be a decimal string; floats may be "NaN", "Infinity", "-Infinity".',
        "anyOf": [{"type": "number"}, string(maxLength=500)],
    }


def _posted_job(config: Config) -> Schema:
    properties = {
        "kind": choice("job"),
        **_posted(config),
        "entry": closed({"export": string(minLength=1, maxLength=256), "params": array(_value(), 64)}, ("export",)),
        "stdin": {"oneOf": [string(), closed({"base64": string(_BASE64)})]},
        "isolation": choice("process", "instance"),
        "retry": closed({"max": integer(0, 10)}, ()),
    }
    return closed(properties, ("kind", "module"))


def _posted_service(config: Config) -> Schema:
    properties = {"kind": choice("service"), **_posted(config), **service_posted(config)}
    return closed(properties, ("kind", "module", "function", "handler"))


def _posted(config: Config) -> dict[str, Schema]:
    """What both kinds have."""
    volumes = [volume.name for text in config.volumes if (volume := read_volume(text)) is not None]
    return {
        "name": string(NAME),
        "module": {
            **closed({"digest": string(DIGEST), "url": string(_URL, minLength=1, maxLength=2048)}, ()),
            "minProperties": 1,
        },
        "args": array(string(_NO_NUL), 256),
        "env": {
            "type": "object",
            "maxProperties": 256,
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": string(_NO_NUL),
        },
        "limits": _limits(config),
        "queue_ms": integer(0, DAY_MS),
        "mounts": array(_mount(volumes), 16 if volumes else 0),
        "unknown_imports": choice("deny", "stub"),
        "labels": {
            "type": "object",
            "maxProperties": 32,
            "propertyNames": {"pattern": _LABEL_KEY, "minLength": 1, "maxLength": MAX_LABEL_KEY_BYTES},
            "additionalProperties": string(_LABEL_VALUE, maxLength=MAX_LABEL_VALUE_BYTES),
        },
        "priority": integer(0, 9),
    }


def _limits(config: Config) -> Schema:
    def limit(low: int, high: int, default: int) -> Schema:
        return integer(low, high, default=default)

    return closed(
        {
            "fuel": limit(1, config.max_fuel, config.default_fuel),
            "memory_bytes": limit(64 * 1024, config.max_memory_bytes, config.default_memory_bytes),
            "wall_ms": limit(1, config.max_wall_ms, config.default_wall_ms),
            "output_bytes": limit(0, config.max_output_bytes, config.default_output_bytes),
        },
        (),
    )


def _mount(volumes: list[str]) -> Schema:
    return closed(
        {
            "volume": choice(*volumes) if volumes else string(NAME),
            "guest": string(_NO_NUL, minLength=1, maxLength=256),
            "path": string(_RELATIVE_PATH, minLength=1, maxLength=1024, default="."),
            "mode": choice("ro", "rw", default="ro"),
        },
        ("volume", "guest"),
    )


def _task(*, listed: bool) -> Schema:
    text, number, time = nullable(string()), nullable(integer()), nullable(moment())
    properties: dict[str, Schema] = {
        "id": string(TASK_ID),
        "state": choice(*State),
        "previous_state": nullable(choice(*State)),
        "reason": nullable(choice(*Reason)),
        **_spec(),
        **dict.fromkeys(("trap_code", "signal"), text),
        "exit_code": number,
        "result": nullable(array(_value())),
        "detail": text,
        "truncated": boolean(),
        **dict.fromkeys(
            ("fuel_used", "wall_us", "queue_us", "init_us", "run_us", "cpu_us", "peak_memory_bytes"), number
        ),
        "attempts": integer(1),
        "runner": nullable(closed({"pid": integer(), "uid": integer(), "layers": array(string())})),
        "created_at": moment(),
        **dict.fromkeys(("scheduled_at", "started_at", "finished_at"), time),
    }
    if not listed:
        event = closed({"at": moment(), "event": string(), "state": choice(*State), "reason": text, "detail": text})
        properties["events"] = array(event)
    return closed(properties)


def _spec() -> dict[str, Schema]:
    """What a task's answer repeats of what was posted, with what was left out filled in."""
    text = nullable(string())
    return {
        "kind": choice("job", "service"),
        "name": text,
        "module": closed({"digest": text, "url": text}),
        "entry": nullable(closed({"export": string(), "params": array(_value())})),
        "args": array(string()),
        "env": {
            "type": "object",
            "description": "The names; values are never given back.",
            "additionalProperties": {"type": "null"},
        },
        "stdin": closed({"size_bytes": integer(0)}),
        "limits": closed(dict.fromkeys(("fuel", "memory_bytes", "wall_ms", "output_bytes"), integer(0))),
        "queue_ms": nullable(integer(0)),
        "callback_url": text,
        "callback": {"type": "null"},
        "mounts": array(closed(dict.fromkeys(("volume", "path", "guest", "mode"), string()))),
        "isolation": choice("process", "instance"),
        "unknown_imports": choice("deny", "stub"),
        "labels": {"type": "object", "additionalProperties": string()},
        "retry": closed({"max": integer(0)}),
        "priority": integer(0, 9),
        **service_answered(),
    }


def _module() -> Schema:
    extern = {"name": string(), "kind": choice("func", "table", "memory", "global", "tag")}
    signature = {"params": array(string()), "results": array(string())}
    exported = closed({**extern, **signature}, ("name", "kind"))
    imported = closed({"module": string(), **extern, **signature}, ("module", "name", "kind"))
    return closed(
        {
            "digest": string(DIGEST),
            "size_bytes": integer(0),
            "imports": array(imported),
            "exports": array(exported),
            "created_at": moment(),
        }
    )
