"""The operations on functions and their default revisions; calls are `openapi_calls.py`'s."""

from __future__ import annotations

from worker.api.openapi_parts import (
    QUERY,
    json_response,
    operation,
    page_parameters,
    path_parameter,
    text_header,
)
from worker.api.openapi_types import NAME, Schema


def function_paths() -> dict[str, Schema]:
    """The paths and their operations."""
    return {
        "/functions": {
            "get": _list("listFunctions", "Functions by name, with their revisions", "FunctionPage"),
        },
        "/revisions/default": {
            "get": _list("listDefaults", "Functions by name, each with its default revision", "DefaultPage"),
        },
        "/revisions/{function}": {"get": _get_function()},
        "/revisions/{function}/{revision}/default/on": {
            "put": _switch("switchDefaultOn", "Make the revision the default"),
        },
        "/revisions/{function}/{revision}/default/off": {
            "put": _switch("switchDefaultOff", "Make the revision not the default; nothing changes where it isn't"),
        },
    }


def _list(name: str, summary: str, schema: str) -> Schema:
    return operation(name, summary, "read", {"200": json_response(schema)}, QUERY, page_parameters())


def _get_function() -> Schema:
    good = {"200": _with_etag(json_response("Function"))}
    parameters = [path_parameter("function", NAME)]
    return operation("getFunction", "One function, with its revisions", "read", good, ("function_unknown",), parameters)


def _switch(name: str, summary: str) -> Schema:
    description = 'The ETag that the function must still have, like "7"; or *.'
    if_match: Schema = {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": '^(\\*|"(0|[1-9][0-9]{0,17})")$'},
        "description": description,
    }
    parameters = [path_parameter("function", NAME), path_parameter("revision", NAME), if_match]
    codes = ("function_unknown", "revision_unknown", "revision_not_running", "generation_mismatch", "storage_full")
    good = {"200": _with_etag(json_response("Switched", "It is so, whether it was before or not"))}
    return operation(name, summary, "admin", good, codes, parameters)


def _with_etag(response: Schema) -> Schema:
    return {**response, "headers": {"ETag": text_header()}}
