"""The components of the OpenAPI document: what is sent and what is answered, as JSON Schema 2020-12.

The ranges are the contract's, the ceilings the operator's, so that the document says what this very worker takes.
"""

from __future__ import annotations

from typing import Any

from worker.api.problems import KINDS
from worker.api.schemas import DAY_MS, MAX_LABEL_KEY_BYTES, MAX_LABEL_VALUE_BYTES
from worker.config import Config
from worker.config_values import read_volume
from worker.core.task import Reason, State

Schema = dict[str, Any]

NAME = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
DIGEST = "^sha256:[0-9a-f]{64}$"
TASK_ID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
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
        "Post": _post(config),
        "Task": _task(listed=False),
        "ListedTask": _task(listed=True),
        "TaskPage": page("tasks", "ListedTask"),
        "Module": _module(),
        "ModulePage": page("modules", "Module"),
        "Ready": _ready(),
        "Stats": {"type": "object", "description": "What a manager schedules by."},
    }


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def page(name: str, item: str) -> Schema:
    """A list's answer; `next` is given as `after` to get the next page."""
    return closed({name: {"type": "array", "items": ref(item)}, "next": _nullable(_string())})


def closed(properties: dict[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    """An object that has these properties and no others; all are required unless told."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _string(pattern: str | None = None, **more: Any) -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def _integer(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: bound for name, bound in bounds.items() if bound is not None}, **more}


def _choice(*values: str, **more: Any) -> Schema:
    return {"type": "string", "enum": list(values), **more}


def _nullable(schema: Schema) -> Schema:
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _array(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, **({"maxItems": most} if most is not None else {})}


def _problem() -> Schema:
    """RFC 9457. `/readyz` adds members."""
    properties = {
        "type": _string(),
        "title": _string(),
        "status": _integer(400, 599),
        "code": _choice(*KINDS),
        "detail": _string(description="What was wrong and what would be right; for `internal` an id."),
        "field": _string(description="The field, query parameter or header in question."),
        "executed": _choice("no", "maybe", "yes", description="Whether what was asked for was done."),
    }
    required = [name for name in properties if name != "field"]
    return {"type": "object", "properties": properties, "required": required}


def _value() -> Schema:
    return {
        "description": 'A Wasm number. An i64 may be a decimal string; floats may be "NaN", "Infinity", "-Infinity".',
        "anyOf": [{"type": "number"}, _string(maxLength=500)],
    }


def _post(config: Config) -> Schema:
    volumes = [volume.name for text in config.volumes if (volume := read_volume(text)) is not None]
    mounts = _array(_mount(volumes), 16 if volumes else 0)
    entry = closed({"export": _string(minLength=1, maxLength=256), "params": _array(_value(), 64)}, ("export",))
    properties = {
        "kind": _choice("job"),
        "name": _string(NAME),
        "module": {
            **closed({"digest": _string(DIGEST), "url": _string(_URL, minLength=1, maxLength=2048)}, ()),
            "minProperties": 1,
        },
        "entry": entry,
        "args": _array(_string(_NO_NUL), 256),
        "env": {
            "type": "object",
            "maxProperties": 256,
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": _string(_NO_NUL),
        },
        "stdin": {"oneOf": [_string(), closed({"base64": _string(_BASE64)})]},
        "limits": _limits(config),
        "queue_ms": _integer(0, DAY_MS),
        "mounts": mounts,
        "isolation": _choice("process", "instance"),
        "unknown_imports": _choice("deny", "stub"),
        "labels": {
            "type": "object",
            "maxProperties": 32,
            "propertyNames": {"pattern": _LABEL_KEY, "minLength": 1, "maxLength": MAX_LABEL_KEY_BYTES},
            "additionalProperties": _string(_LABEL_VALUE, maxLength=MAX_LABEL_VALUE_BYTES),
        },
        "retry": closed({"max": _integer(0, 10)}, ()),
        "priority": _integer(0, 9),
    }
    return closed(properties, ("kind", "module"))


def _limits(config: Config) -> Schema:
    def limit(low: int, high: int, default: int) -> Schema:
        return _integer(low, high, default=default)

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
            "volume": _choice(*volumes) if volumes else _string(NAME),
            "guest": _string(_NO_NUL, minLength=1, maxLength=256),
            "path": _string(_RELATIVE_PATH, minLength=1, maxLength=1024, default="."),
            "mode": _choice("ro", "rw", default="ro"),
        },
        ("volume", "guest"),
    )


def _task(*, listed: bool) -> Schema:
    text, number, moment = _nullable(_string()), _nullable(_integer()), _nullable(_time())
    properties: dict[str, Schema] = {
        "id": _string(TASK_ID),
        "state": _choice(*State),
        "previous_state": _nullable(_choice(*State)),
        "reason": _nullable(_choice(*Reason)),
        **_spec(),
        **dict.fromkeys(("trap_code", "signal"), text),
        "exit_code": number,
        "result": _nullable(_array(_value())),
        "detail": text,
        "truncated": {"type": "boolean"},
        **dict.fromkeys(
            ("fuel_used", "wall_us", "queue_us", "init_us", "run_us", "cpu_us", "peak_memory_bytes"), number
        ),
        "attempts": _integer(1),
        "runner": _nullable(closed({"pid": _integer(), "uid": _integer(), "layers": _array(_string())})),
        "created_at": _time(),
        **dict.fromkeys(("scheduled_at", "started_at", "finished_at"), moment),
    }
    if not listed:
        event = closed({"at": _time(), "event": _string(), "state": _choice(*State), "reason": text, "detail": text})
        properties["events"] = _array(event)
    return closed(properties)


def _spec() -> dict[str, Schema]:
    """What a task's answer repeats of what was posted, with what was left out filled in."""
    text = _nullable(_string())
    return {
        "kind": _choice("job", "service"),
        "name": text,
        "module": closed({"digest": text, "url": text}),
        "entry": _nullable(closed({"export": _string(), "params": _array(_value())})),
        "args": _array(_string()),
        "env": {
            "type": "object",
            "description": "The names; values are never given back.",
            "additionalProperties": {"type": "null"},
        },
        "stdin": closed({"size_bytes": _integer(0)}),
        "limits": closed(dict.fromkeys(("fuel", "memory_bytes", "wall_ms", "output_bytes"), _integer(0))),
        "queue_ms": _nullable(_integer(0)),
        "callback_url": text,
        "callback": {"type": "null"},
        "mounts": _array(closed(dict.fromkeys(("volume", "path", "guest", "mode"), _string()))),
        "isolation": _choice("process", "instance"),
        "unknown_imports": _choice("deny", "stub"),
        "labels": {"type": "object", "additionalProperties": _string()},
        "retry": closed({"max": _integer(0)}),
        "priority": _integer(0, 9),
    }


def _module() -> Schema:
    extern = {"name": _string(), "kind": _choice("func", "table", "memory", "global", "tag")}
    signature = {"params": _array(_string()), "results": _array(_string())}
    exported = closed({**extern, **signature}, ("name", "kind"))
    imported = closed({"module": _string(), **extern, **signature}, ("module", "name", "kind"))
    return closed(
        {
            "digest": _string(DIGEST),
            "size_bytes": _integer(0),
            "imports": _array(imported),
            "exports": _array(exported),
            "created_at": _time(),
        }
    )


def _ready() -> Schema:
    figures = ("tasks_waiting", "tasks_running", "max_queued", "max_runners")
    properties = {"ready": {"type": "boolean"}, "state": _string(), **dict.fromkeys(figures, _integer(0))}
    return {"type": "object", "properties": properties, "required": ["ready", "state"]}


def _time() -> Schema:
    return _string("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$", format="date-time")
