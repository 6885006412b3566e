"""What the document's operations are put together from: answers, problems and parameters."""

from __future__ import annotations

from typing import Any

from worker.api.openapi_types import DIGEST, TASK_ID, Schema, ref
from worker.api.prefer import MAX_WAIT_S
from worker.api.problems import CONTENT_TYPE, KINDS
from worker.api.resource import JSON
from worker.api.tasks import MAX_PAGE

# What stands before every route, and before every control route but health.
EVERYWHERE = ("bad_path", "bad_header", "headers_too_large", "internal")
CONTROL = ("origin_refused", "forbidden", "host_refused", "coordinator_unavailable", "field_unknown", "field_conflict")
QUERY = ("field_range", "field_type")
BODY = ("body_truncated", "request_timeout", "media_type", "storage_full")


def operation(
    name: str,
    summary: str,
    scope: str | None,
    good: dict[str, Schema],
    codes: tuple[str, ...],
    parameters: list[Schema] | None = None,
    everywhere: tuple[str, ...] = EVERYWHERE + CONTROL,
) -> Schema:
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys((*codes, *everywhere)):
        by_status.setdefault(str(KINDS[code].status), []).append(code)
    problems = {status: problem_response(tuple(found)) for status, found in sorted(by_status.items())}
    whole: Schema = {"operationId": name, "summary": summary, "responses": {**good, **problems}}
    if parameters:
        whole["parameters"] = parameters
    if scope is not None:
        whole["x-scope"] = scope
    return whole


def problem_response(codes: tuple[str, ...]) -> Schema:
    schema = {"allOf": [ref("Problem"), {"properties": {"code": {"enum": list(codes)}}}]}
    response: Schema = {"description": ", ".join(codes), "content": {CONTENT_TYPE: {"schema": schema}}}
    if any(KINDS[code].retry_after_s is not None for code in codes):
        response["headers"] = {"Retry-After": {"required": False, "schema": {"type": "string"}}}
    return response


def json_response(name: str, description: str = "As it is now") -> Schema:
    return {"description": description, "content": {JSON: {"schema": ref(name)}}}


def any_json() -> Schema:
    return {"description": "As it is now", "content": {JSON: {"schema": {"type": "object"}}}}


def nothing(description: str) -> Schema:
    return {"description": description}


def text_header(*, required: bool = True) -> Schema:
    return {"required": required, "schema": {"type": "string"}}


def path_parameter(name: str, pattern: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


def digest() -> Schema:
    return path_parameter("digest", DIGEST)


def task_id() -> Schema:
    return path_parameter("task_id", TASK_ID)


def query_parameter(name: str, schema: dict[str, Any], description: str | None = None) -> Schema:
    parameter = {"name": name, "in": "query", "required": False, "schema": schema}
    return {**parameter, "description": description} if description else parameter


def prefer() -> Schema:
    description = (
        f"wait=N: answer when the task is final, or after N seconds, 0 to {MAX_WAIT_S}; others are passed over"
    )
    schema = {"type": "string", "examples": ["wait=10"]}
    return {"name": "Prefer", "in": "header", "required": False, "schema": schema, "description": description}


def page_parameters() -> list[Schema]:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50}
    return [
        query_parameter("limit", limit),
        query_parameter("after", {"type": "string"}, "the `next` of the page before"),
    ]
