"""Function calls in the document. What a guest answers is its own: any status from 200 to 599 but 425, any content."""

from __future__ import annotations

from worker.api.openapi_parts import EVERYWHERE, path_parameter, problem_response
from worker.api.openapi_types import NAME, Schema, choice, string
from worker.api.problems import KINDS, RETRY_STATUS
from worker.api.resource import JSON

# By which a function may be called; TRACE and CONNECT are refused.
METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
WITH_BODY = ("post", "put", "patch")
# An `export` handler's body is `{"params": [...]}`, or nothing; a `wagi` handler takes any.
_BODY = ("body_truncated", "request_timeout", "body_too_large", "bad_json", "field_unknown", "field_missing")
_BODY_OR_HEADERS = ("field_type", "limit_above_ceiling")
_BEFORE = (
    *("function_unknown", "revision_unknown", "no_default_revision", "unauthorized", "forbidden"),
    *("function_queue_full", "draining", "no_runner", "runner_backoff", "coordinator_unavailable"),
)
_ENDED = (
    *("guest_trap", "guest_oom", "guest_output_limit", "guest_bad_response", "guest_exit", "init_failed"),
    *("runner_died", "fuel", "deadline", "killed_deadline"),
)
CODES = (*_BODY, *_BODY_OR_HEADERS, *_BEFORE, *_ENDED, *EVERYWHERE)
# What a load balancer may send elsewhere is told as 425 where it asks for that.
REPEATABLE = tuple(code for code in CODES if KINDS[code].status in (429, 503))

_RETRY_STATUS = str(RETRY_STATUS)

_DEFAULT, _REVISION = "/functions/{function}", "/functions/{function}/{revision}"
PATHS = {
    _DEFAULT: ("call", "the function's default revision"),
    _REVISION: ("callRevision", "a revision; `default` is the default one"),
    f"{_REVISION}/{{path}}": ("callPath", "a revision, with a path that may have any number of segments"),
}


def call_paths() -> dict[str, Schema]:
    """The paths and their operations."""
    return {path: {method: _call(path, method) for method in METHODS} for path in PATHS}


def _call(path: str, method: str) -> Schema:
    name, what = PATHS[path]
    operation: Schema = {
        "operationId": f"{name}{method.capitalize()}",
        "summary": f"Call {what}",
        "parameters": [*_path_parameters(path), *_headers()],
        "responses": {status: {"$ref": f"#/components/responses/{_name(status)}"} for status in _statuses()},
        "x-scope": "call",
    }
    if method in WITH_BODY:
        content: Schema = {JSON: {"schema": {}}, "application/octet-stream": {"schema": {}}}
        operation["requestBody"] = {"required": False, "content": content}
    return operation


def call_responses() -> dict[str, Schema]:
    """The answers that all calls share, by their names in the document.

    A guest may answer with any status, so that beside our own document there is anything in each.
    """
    named: dict[str, Schema] = {}
    for status, codes in _statuses().items():
        problem = problem_response(tuple(codes)) if codes else None
        if status == _RETRY_STATUS and problem is not None:
            asked = f"Where the request says `X-Galago-Retry: {_RETRY_STATUS}`"
            problem["description"] = f"{asked}: {problem['description']}"
            named[_name(status)] = {**problem, "headers": {**problem["headers"], **_executed("no")}}
        else:
            named[_name(status)] = _guests(problem)
    return named


def _name(status: str) -> str:
    return f"Call{status.capitalize()}"


def _statuses() -> dict[str, list[str]]:
    """Each status that a call may have, with the worker's own codes for it."""
    statuses: dict[str, list[str]] = {"200": []}
    for code in sorted(set(CODES), key=lambda code: (KINDS[code].status, CODES.index(code))):
        statuses.setdefault(str(KINDS[code].status), []).append(code)
    return {**statuses, _RETRY_STATUS: list(REPEATABLE), "default": []}


def _guests(problem: Schema | None = None) -> Schema:
    """What the guest answered, or the worker's problem in its place."""
    if problem is None:
        return {"description": "What the guest answered: anything, also nothing", "headers": _executed()}
    headers = {**problem.get("headers", {}), **_executed()}
    return {**problem, "content": {**problem["content"], "*/*": {}}, "headers": headers}


def _executed(*values: str) -> dict[str, Schema]:
    schema = choice(*(values or ("no", "maybe", "yes")))
    return {"X-Galago-Executed": {"required": True, "schema": schema, "description": "Whether the guest ran."}}


def _path_parameters(path: str) -> list[Schema]:
    found = [path_parameter("function", NAME)]
    if "{revision}" in path:
        found.append(path_parameter("revision", NAME))
    if "{path}" in path:
        found.append({"name": "path", "in": "path", "required": True, "schema": string(minLength=1)})
    return found


def _headers() -> list[Schema]:
    limit = string("^[0-9]*[1-9][0-9]*$", maxLength=19)
    texts = {
        "X-Galago-Limit-Fuel": (limit, "a lower limit than the function's; where there are tokens, with one"),
        "X-Galago-Limit-Wall-Ms": (limit, "likewise"),
        "X-Galago-Retry": (
            string(examples=[_RETRY_STATUS]),
            f"{_RETRY_STATUS}: tell by this status what was not executed and may be sent again",
        ),
    }
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": description}
        for name, (schema, description) in texts.items()
    ]
