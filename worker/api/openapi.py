"""`/openapi.json`: the contract as an OpenAPI 3.1 document, written by hand, held to the running worker by tests."""

from __future__ import annotations

import orjson
from falcon.asgi import Request, Response

from worker.api.metrics import CONTENT_TYPE as METRICS
from worker.api.openapi_calls import call_paths, call_responses
from worker.api.openapi_functions import function_paths
from worker.api.openapi_parts import (
    BODY,
    EVERYWHERE,
    QUERY,
    any_json,
    digest,
    json_response,
    nothing,
    operation,
    page_parameters,
    prefer,
    problem_response,
    query_parameter,
    task_id,
    text_header,
)
from worker.api.openapi_schemas import schemas
from worker.api.openapi_types import NAME, Schema, ref
from worker.api.problems import KINDS
from worker.api.resource import JSON, Resource, answer
from worker.config import Config
from worker.core.task import State
from worker.version import version_of


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
            "version": version_of(),
            "description": "Runs tasks as sealed Wasm processes. Errors are RFC 9457 problems with a stable `code`.",
        },
        "paths": _paths(),
        "components": {"schemas": schemas(config), "responses": call_responses()},
    }
    if with_tokens:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        _ask_for_tokens(whole["paths"])
    return whole


def _ask_for_tokens(paths: dict[str, Schema]) -> None:
    for operations in paths.values():
        for found in operations.values():
            scope = found.get("x-scope")
            if scope is None:
                continue
            needed: Schema = {"token": [scope]}
            if scope == "call":  # a function needs one where its handler says so, and a call that lowers its limits
                found["security"] = [{}, needed]
            else:
                found["security"] = [needed]
                found["responses"]["401"] = problem_response(("unauthorized",))


def _paths() -> dict[str, Schema]:
    return {
        "/modules": {"get": _list_modules(), "post": _add_module()},
        "/modules/{digest}": {"get": _get_module(), "delete": _delete_module()},
        "/tasks": {"get": _list_tasks(), "post": _add_task()},
        "/tasks/{task_id}": {"get": _get_task(), "delete": _stop_task()},
        "/tasks/{task_id}/stdout": {"get": _output("stdout")},
        "/tasks/{task_id}/stderr": {"get": _output("stderr")},
        **function_paths(),
        **call_paths(),
        "/stats": {"get": operation("getStats", "Statistics of the node", "read", {"200": json_response("Stats")}, ())},
        "/metrics": {"get": _metrics()},
        "/debug/audit": {
            "get": operation(
                "getAudit", "What is known against what is there", "admin", {"200": json_response("Audit")}, ()
            )
        },
        "/livez": {"get": _health("getLivez", "Whether this process lives")},
        "/healthz": {"get": _health("getHealthz", "The same as /livez")},
        "/readyz": {"get": _readyz()},
        "/openapi.json": {"get": operation("getOpenapi", "This document", None, {"200": any_json()}, ())},
    }


# -- modules -----------------------------------------------------------------------------------------------------------


def _list_modules() -> Schema:
    parameters = page_parameters()
    return operation(
        "listModules", "Modules, newest first", "read", {"200": json_response("ModulePage")}, QUERY, parameters
    )


def _add_module() -> Schema:
    links = {
        name: {"operationId": name, "parameters": {"digest": "$response.body#/digest"}}
        for name in ("getModule", "deleteModule")
    }
    good = {
        "201": {**json_response("Module", "It is new"), "links": links},
        "200": json_response("Module", "It was here already"),
    }
    refused = tuple(code for code in KINDS if code.startswith("module_") and KINDS[code].status in (413, 415, 422))
    codes = (*BODY, *refused)
    whole = operation("addModule", "Upload a module", "run", good, codes)
    binary = {"schema": {"type": "string", "contentMediaType": "application/wasm"}}
    whole["requestBody"] = {"required": True, "content": {"application/wasm": binary}}
    return whole


def _get_module() -> Schema:
    good = {"200": json_response("Module")}
    return operation("getModule", "One module", "read", good, ("module_unknown",), [digest()])


def _delete_module() -> Schema:
    codes = ("module_unknown", "module_in_use", "storage_full")
    return operation("deleteModule", "Remove a module", "run", {"204": nothing("It is gone")}, codes, [digest()])


# -- tasks -------------------------------------------------------------------------------------------------------------


def _list_tasks() -> Schema:
    parameters = [
        query_parameter("state", {"type": "string", "enum": list(State)}),
        query_parameter("kind", {"type": "string", "enum": ["job", "service"]}),
        query_parameter("function", {"type": "string", "pattern": NAME}),
        query_parameter("label", {"type": "string", "pattern": "^[^=]+=.*$"}, "key=value"),
        *page_parameters(),
    ]
    return operation("listTasks", "Tasks, newest first", "read", {"200": json_response("TaskPage")}, QUERY, parameters)


def _add_task() -> Schema:
    link = {"parameters": {"task_id": "$response.body#/id"}}
    links = {name: {"operationId": name, **link} for name in ("getTask", "stopTask", "getStdout", "getStderr")}
    good = {
        "201": {**json_response("Task", "It is recorded"), "links": links},
        "200": json_response("Task", "An Idempotency-Key replays it"),
    }
    for response in good.values():
        response["headers"] = {"Location": text_header(), "Preference-Applied": text_header(required=False)}
    codes = tuple(code for code, kind in KINDS.items() if kind.status == 422 and not code.startswith("module_"))
    codes += (*BODY, "bad_json", "body_too_large", "module_unknown", "idempotency_in_progress")
    codes += ("queue_full", "draining", "revision_exists")
    key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
    parameters = [prefer(), {"name": "Idempotency-Key", "in": "header", "required": False, "schema": key}]
    whole = operation("addTask", "Add a task", "run", good, codes, parameters)
    whole["requestBody"] = {"required": True, "content": {JSON: {"schema": ref("Post")}}}
    return whole


def _get_task() -> Schema:
    good = {"200": json_response("Task")}
    return operation("getTask", "All that is known", "read", good, ("task_unknown",), [task_id(), prefer()])


def _stop_task() -> Schema:
    flag = {"type": "string", "enum": ["0", "1", "false", "true"]}
    parameters = [task_id(), query_parameter("force", flag, "skip the graces")]
    good = {"204": nothing("The order is recorded, or it was final")}
    return operation("stopTask", "Stop a task", "run", good, ("task_unknown", "field_range"), parameters)


def _output(stream: str) -> Schema:
    content = {"text/plain; charset=utf-8": {"schema": {"type": "string"}}, "application/octet-stream": {}}
    good = {"200": {"description": "What the guest wrote so far", "content": content}}
    name = f"get{stream.capitalize()}"
    return operation(name, f"A task's {stream}", "read", good, ("task_unknown",), [task_id()])


def _metrics() -> Schema:
    content = {METRICS: {"schema": {"type": "string"}}}
    good = {"200": {"description": "Prometheus's text format", "content": content}}
    return operation("getMetrics", "Figures for a monitoring system", "read", good, ())


# -- health ------------------------------------------------------------------------------------------------------------


def _health(name: str, summary: str) -> Schema:
    return operation(name, summary, None, {"200": any_json()}, (), everywhere=EVERYWHERE)


def _readyz() -> Schema:
    codes = ("draining", "coordinator_unavailable")
    summary = "Whether the worker takes work, and how full it is"
    return operation("getReadyz", summary, None, {"200": json_response("Ready")}, codes, everywhere=EVERYWHERE)
