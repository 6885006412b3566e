"""The document: valid, complete, and the same as what is answered."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jsonschema
import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.api.api_client import Api
from tests.api.test_auth import line
from tests.api.test_codes import OF_CALLS, PRODUCE
from tests.api.test_functions import FIGURES
from worker.api.app import routes
from worker.api.auth import Tokens
from worker.api.openapi_calls import METHODS, PATHS, REPEATABLE
from worker.api.problems import KINDS, RETRY_STATUS
from worker.coordinator.audit import CoreView, SystemView, checked
from worker.coordinator.stats import Load, Stats

Make = Callable[..., Api]
# Refused before a route is known, or by methods that aren't in the document.
NOT_AN_OPERATIONS = {"route_unknown", "method_not_allowed"}


@pytest.fixture(scope="module")
def document(shared_api: Api) -> dict[str, Any]:
    answer = shared_api.get("/openapi.json")
    assert (200, "application/json") == (answer.status, answer.headers["content-type"])
    found: dict[str, Any] = answer.json
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_it_has_every_route_and_every_method(shared_api: Api, document: dict[str, Any]) -> None:
    there = {
        path: {method.lower() for method in resource.allowed} - {"head", "options"}
        for path, resource in routes(shared_api.services).items()
    }
    # Calls leave before there are routes.
    there |= {path: set(METHODS) for path in PATHS}
    assert there == {path: set(operations) for path, operations in document["paths"].items()}


def test_it_has_every_code_that_can_be_produced(make_api: Make) -> None:
    with_tokens = make_api(tokens=Tokens.parse(line("a", "read"), "a test")).get("/openapi.json").json
    listed = set()
    for path, operations in with_tokens["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if path in PATHS:
                    response = with_tokens["components"]["responses"][response["$ref"].rpartition("/")[2]]
                if status != "default" and int(status) >= 400:
                    codes = set(response["description"].rpartition(": ")[2].split(", "))
                    statuses = {KINDS[code].status for code in codes}
                    assert ({429, 503} if int(status) == RETRY_STATUS else {int(status)}) == statuses
                    listed |= codes
    assert (set(PRODUCE) | OF_CALLS) - NOT_AN_OPERATIONS == listed - {"signature_refused"}


def test_what_a_load_balancer_may_repeat_was_not_executed() -> None:
    assert {"function_queue_full", "draining", "no_runner", "runner_backoff", "coordinator_unavailable"} == set(
        REPEATABLE
    )


def test_scopes_are_in_it_where_tokens_are_asked_for(make_api: Make, document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    guarded = make_api(tokens=Tokens.parse(line("a", "read"), "a test")).get("/openapi.json").json
    assert [{"token": ["run"]}] == guarded["paths"]["/tasks"]["post"]["security"]
    assert "401" in guarded["paths"]["/tasks"]["post"]["responses"]
    assert "security" not in guarded["paths"]["/livez"]["get"]
    assert [{"token": ["admin"]}] == guarded["paths"]["/revisions/{function}/{revision}/default/on"]["put"]["security"]
    assert [{}, {"token": ["call"]}] == guarded["paths"]["/functions/{function}"]["get"]["security"]
    OpenAPIV31SpecValidator(guarded).validate()


def test_answers_are_what_it_says(api: Api, digest: str, document: dict[str, Any]) -> None:
    def check(name: str, answer: Any) -> None:
        validator(document, {"$ref": f"#/components/schemas/{name}"}).validate(answer)

    task = {
        "kind": "job",
        "module": {"digest": digest},
        "entry": {"export": "mix", "params": ["1", "NaN", 2.5]},
        "env": {"A": "b"},
        "labels": {"team": "a"},
    }
    check("Post", task)
    posted = api.post(task)
    assert 201 == posted.status
    check("Task", posted.json)
    check("TaskPage", api.get("/tasks").json)
    check("Module", api.get(f"/modules/{digest}").json)
    check("ModulePage", api.get("/modules").json)
    check("Ready", api.get("/readyz").json)
    check("Problem", api.get("/nowhere").json)
    service = {
        "kind": "service",
        "module": {"digest": digest},
        "function": {"name": "f", "revision": "v1"},
        "handler": {"abi": "export", "export": "add"},
        "scale": {"min": 1},
        "reuse": {"max_calls": 2},
    }
    check("Post", service)
    deployed = api.post(service)
    check("Task", deployed.json)
    check("Function", api.get("/revisions/f").json)
    api.coordinator.start(deployed.json["id"])
    api.coordinator.figures = {"f": {"v1": {"task_id": deployed.json["id"], **FIGURES}}}
    check("FunctionPage", api.get("/functions").json)
    check("DefaultPage", api.get("/revisions/default").json)
    check("Switched", api.request("PUT", "/revisions/f/v1/default/on").json)
    calls = {"calls": 1, "errors": 0, "waiting": 0, "cold_starts": 1}
    functions = {"f": {"revisions": 1, "runners": 0, "queued": 0, "calls": 1, "errors": 0}}
    stats = Stats("n", api.config.data_dir, dict)
    check("Audit", {"differences": [], "checked": checked(CoreView(), SystemView())})
    check("Stats", orjson.loads(stats.document(Load({}, 0, 1, 1), {"calls": calls, "functions": functions})))
    assert [] != list(validator(document, {"$ref": "#/components/schemas/Task"}).iter_errors({"id": "x"}))


def test_a_post_is_of_one_kind(document: dict[str, Any], shared_digest: str) -> None:
    post = validator(document, {"$ref": "#/components/schemas/Post"})
    common = {"module": {"digest": shared_digest}}
    service = {"kind": "service", **common, "function": {"name": "f", "revision": "v"}, "handler": {"abi": "wagi"}}
    assert post.is_valid(service)
    assert post.is_valid({"kind": "job", **common, "stdin": ""})
    for wrong in (
        {**service, "kind": "job"},
        {**service, "stdin": ""},
        {**service, "function": {"name": "default", "revision": "v"}},
        {**service, "handler": {"abi": "wagi", "export": "add"}},
        {**service, "handler": {"abi": "export"}},
    ):
        assert not post.is_valid(wrong), wrong


def test_patterns_are_of_the_dialect_that_others_read(document: dict[str, Any]) -> None:
    """ECMA-262 has neither `\\Z` nor `(?P<`."""

    def patterns(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["pattern"]] if isinstance(node.get("pattern"), str) else []
            return own + [found for value in node.values() for found in patterns(value)]
        return [found for value in node for found in patterns(value)] if isinstance(node, list) else []

    found = set(patterns(document))
    assert len(found) > 8
    for pattern in found:
        assert re.compile(pattern)
        assert pattern.startswith("^")
        assert "\\Z" not in pattern
