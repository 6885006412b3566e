"""`/openapi.json`: the contract as an OpenAPI 3.1 document, written by hand, held to the running worker by tests."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import orjson
from falcon.asgi import Request, Response

from worker.api.openapi_schemas import DIGEST, NAME, TASK_ID, Schema, ref, schemas
from worker.api.prefer import MAX_WAIT_S
from worker.api.problems import CONTENT_TYPE, KINDS
from worker.api.resource import JSON, Resource, answer
from worker.api.tasks import MAX_PAGE
from worker.config import Config
from worker.core.task import State

# What stands before every route, and before every route but health.
_EVERYWHERE = ("bad_path", "bad_header", "headers_too_large", "internal")
_CONTROL = ("origin_refused", "forbidden", "host_refused", "coordinator_unavailable", "field_unknown", "field_conflict")
_QUERY = ("field_range", "field_type")
_BODY = ("body_truncated", "request_timeout", "media_type", "storage_full")


class OpenApi(Resource):
    """GET gives the document. Anybody may have it."""

    def __init__(self, config: Config, *, with_tokens: bool) -> None:
        self._document = orjson.dumps(document(config, with_tokens=with_tokens))

    async def on_get(self, _req: Request, resp: Response) -> None:
        answer(resp, self._document)


def document(config: Config, *, with_tokens: bool) -> Schema:
    """The document of a worker with this configuration; with tokens, what they are needed for is in it."""
    whole: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "galago-worker",
            "version": _version(),
            "description": "Runs tasks as sealed Wasm processes. Errors are RFC 9457 problems with a stable `code`.",
        },
        "paths": _paths(),
        "components": {"schemas": schemas(config)},
    }
    if with_tokens:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        _ask_for_tokens(whole["paths"])
    return whole


def _ask_for_tokens(paths: dict[str, Schema]) -> None:
    for operations in paths.values():
        for operation in operations.values():
            if (scope := operation.get("x-scope")) is not None:
                operation["security"] = [{"token": [scope]}]
                operation["responses"]["401"] = _problem_response(("unauthorized",))


def _paths() -> dict[str, Schema]:
    return {
        "/modules": {"get": _list_modules(), "post": _add_module()},
        "/modules/{digest}": {"get": _get_module(), "delete": _delete_module()},
        "/tasks": {"get": _list_tasks(), "post": _add_task()},
        "/tasks/{task_id}": {"get": _get_task(), "delete": _stop_task()},
        "/tasks/{task_id}/stdout": {"get": _output("stdout")},
        "/tasks/{task_id}/stderr": {"get": _output("stderr")},
        "/stats": {"get": _operation("getStats", "Statistics of the node", "read", {"200": _json("Stats")}, ())},
        "/livez": {"get": _health("getLivez", "Whether this process lives")},
        "/healthz": {"get": _health("getHealthz", "The same as /livez")},
        "/readyz": {"get": _readyz()},
        "/openapi.json": {"get": _operation("getOpenapi", "This document", None, {"200": _any_json()}, ())},
    }


def _version() -> str:
    try:
        return metadata.version("galago-worker")
    except metadata.PackageNotFoundError:  # it runs from a source tree
        return "0"


# -- modules -----------------------------------------------------------------------------------------------------------


def _list_modules() -> Schema:
    parameters = _page_parameters()
    return _operation("listModules", "Modules, newest first", "read", {"200": _json("ModulePage")}, _QUERY, parameters)


def _add_module() -> Schema:
    links = {
        name: {"operationId": name, "parameters": {"digest": "$response.body#/digest"}}
        for name in ("getModule", "deleteModule")
    }
    good = {"201": {**_json("Module", "It is new"), "links": links}, "200": _json("Module", "It was here already")}
    refused = tuple(code for code in KINDS if code.startswith("module_") and KINDS[code].status in (413, 415, 422))
    codes = (*_BODY, *refused)
    operation = _operation("addModule", "Upload a module", "run", good, codes)
    binary = {"schema": {"type": "string", "contentMediaType": "application/wasm"}}
    operation["requestBody"] = {"required": True, "content": {"application/wasm": binary}}
    return operation


def _get_module() -> Schema:
    good = {"200": _json("Module")}
    return _operation("getModule", "One module", "read", good, ("module_unknown",), [_digest()])


def _delete_module() -> Schema:
    codes = ("module_unknown", "module_in_use", "storage_full")
    return _operation("deleteModule", "Remove a module", "run", {"204": _nothing("It is gone")}, codes, [_digest()])


# -- tasks -------------------------------------------------------------------------------------------------------------


def _list_tasks() -> Schema:
    parameters = [
        _query("state", {"type": "string", "enum": list(State)}),
        _query("kind", {"type": "string", "enum": ["job", "service"]}),
        _query("function", {"type": "string", "pattern": NAME}),
        _query("label", {"type": "string", "pattern": "^[^=]+=.*$"}, "key=value"),
        *_page_parameters(),
    ]
    return _operation("listTasks", "Tasks, newest first", "read", {"200": _json("TaskPage")}, _QUERY, parameters)


def _add_task() -> Schema:
    link = {"parameters": {"task_id": "$response.body#/id"}}
    links = {name: {"operationId": name, **link} for name in ("getTask", "stopTask", "getStdout", "getStderr")}
    good = {
        "201": {**_json("Task", "It is recorded"), "links": links},
        "200": _json("Task", "An Idempotency-Key replays it"),
    }
    for response in good.values():
        response["headers"] = {"Location": _text_header(), "Preference-Applied": _text_header(required=False)}
    codes = tuple(code for code, kind in KINDS.items() if kind.status == 422 and not code.startswith("module_"))
    codes += (*_BODY, "bad_json", "body_too_large", "module_unknown", "idempotency_in_progress")
    codes += ("queue_full", "draining")
    key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
    parameters = [_prefer(), {"name": "Idempotency-Key", "in": "header", "required": False, "schema": key}]
    operation = _operation("addTask", "Add a task", "run", good, codes, parameters)
    operation["requestBody"] = {"required": True, "content": {JSON: {"schema": ref("Post")}}}
    return operation


def _get_task() -> Schema:
    good = {"200": _json("Task")}
    return _operation("getTask", "All that is known", "read", good, ("task_unknown",), [_task_id(), _prefer()])


def _stop_task() -> Schema:
    flag = {"type": "string", "enum": ["0", "1", "false", "true"]}
    parameters = [_task_id(), _query("force", flag, "skip the graces")]
    good = {"204": _nothing("The order is recorded, or it was final")}
    return _operation("stopTask", "Stop a task", "run", good, ("task_unknown", "field_range"), parameters)


def _output(stream: str) -> Schema:
    content = {"text/plain; charset=utf-8": {"schema": {"type": "string"}}, "application/octet-stream": {}}
    good = {"200": {"description": "What the guest wrote so far", "content": content}}
    name = f"get{stream.capitalize()}"
    return _operation(name, f"A task's {stream}", "read", good, ("task_unknown",), [_task_id()])


# -- health ------------------------------------------------------------------------------------------------------------


def _health(name: str, summary: str) -> Schema:
    return _operation(name, summary, None, {"200": _any_json()}, (), everywhere=_EVERYWHERE)


def _readyz() -> Schema:
    codes = ("draining", "coordinator_unavailable")
    summary = "Whether the worker takes work, and how full it is"
    return _operation("getReadyz", summary, None, {"200": _json("Ready")}, codes, everywhere=_EVERYWHERE)


# -- parts -------------------------------------------------------------------------------------------------------------


def _operation(
    name: str,
    summary: str,
    scope: str | None,
    good: dict[str, Schema],
    codes: tuple[str, ...],
    parameters: list[Schema] | None = None,
    everywhere: tuple[str, ...] = _EVERYWHERE + _CONTROL,
) -> Schema:
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys((*codes, *everywhere)):
        by_status.setdefault(str(KINDS[code].status), []).append(code)
    problems = {status: _problem_response(tuple(found)) for status, found in sorted(by_status.items())}
    operation: Schema = {"operationId": name, "summary": summary, "responses": {**good, **problems}}
    if parameters:
        operation["parameters"] = parameters
    if scope is not None:
        operation["x-scope"] = scope
    return operation


def _problem_response(codes: tuple[str, ...]) -> Schema:
    schema = {"allOf": [ref("Problem"), {"properties": {"code": {"enum": list(codes)}}}]}
    response: Schema = {"description": ", ".join(codes), "content": {CONTENT_TYPE: {"schema": schema}}}
    if any(KINDS[code].retry_after_s is not None for code in codes):
        response["headers"] = {"Retry-After": {"required": False, "schema": {"type": "string"}}}
    return response


def _json(name: str, description: str = "As it is now") -> Schema:
    return {"description": description, "content": {JSON: {"schema": ref(name)}}}


def _any_json() -> Schema:
    return {"description": "As it is now", "content": {JSON: {"schema": {"type": "object"}}}}


def _nothing(description: str) -> Schema:
    return {"description": description}


def _text_header(*, required: bool = True) -> Schema:
    return {"required": required, "schema": {"type": "string"}}


def _path(name: str, pattern: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


def _digest() -> Schema:
    return _path("digest", DIGEST)


def _task_id() -> Schema:
    return _path("task_id", TASK_ID)


def _query(name: str, schema: dict[str, Any], description: str | None = None) -> Schema:
    parameter = {"name": name, "in": "query", "required": False, "schema": schema}
    return {**parameter, "description": description} if description else parameter


def _prefer() -> Schema:
    description = (
        f"wait=N: answer when the task is final, or after N seconds, 0 to {MAX_WAIT_S}; others are passed over"
    )
    schema = {"type": "string", "examples": ["wait=10"]}
    return {"name": "Prefer", "in": "header", "required": False, "schema": schema, "description": description}


def _page_parameters() -> list[Schema]:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50}
    return [_query("limit", limit), _query("after", {"type": "string"}, "the `next` of the page before")]
