"""The pieces that the document's JSON Schemas (2020-12) are put together from."""

from __future__ import annotations

from typing import Any

from worker.core import names

Schema = dict[str, Any]

NAME = f"^{names.NAME}$"
DIGEST = "^sha256:[0-9a-f]{64}$"
TASK_ID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def page(name: str, item: str) -> Schema:
    """A list's answer; `next` is given as `after` to get the next page."""
    return closed({name: {"type": "array", "items": ref(item)}, "next": nullable(string())})


def closed(properties: dict[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    """An object that has these properties and no others; all are required unless told."""
    return {**open_to_more(properties, required), "additionalProperties": False}


def open_to_more(properties: dict[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    """An object that has these properties, and may get others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
    }


def string(pattern: str | None = None, **more: Any) -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def integer(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: bound for name, bound in bounds.items() if bound is not None}, **more}


def boolean(**more: Any) -> Schema:
    return {"type": "boolean", **more}


def choice(*values: str, **more: Any) -> Schema:
    return {"type": "string", "enum": list(values), **more}


def nullable(schema: Schema) -> Schema:
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, **({"maxItems": most} if most is not None else {})}


def moment() -> Schema:
    """A point in time: RFC 3339, UTC, microseconds."""
    return string("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$", format="date-time")
