"""`POST /tasks` of a service: what it has, what it may not have, and how the module must fit its handler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.api_client import MODULE, NEEDS_ENV, Api, wasm
from worker.api import posted_service
from worker.api.posted_service import longest_queue
from worker.core.commands import AddTask
from worker.core.task import Handler, Kind, Reuse, Scale, Service

Make = Callable[..., Api]
FUNCTION = {"name": "f", "revision": "v1"}
WAGI = {"abi": "wagi"}
QUEUE = longest_queue()


def service_of(api: Api) -> Service:
    command = api.coordinator.asked[-1]
    assert isinstance(command, AddTask)
    assert Kind.SERVICE == command.spec.kind
    assert command.spec.service is not None
    return command.spec.service


def test_a_bare_service_gets_the_defaults(api: Api, digest: str) -> None:
    answer = api.deploy(digest)
    assert 201 == answer.status, answer.body
    expected = {
        "kind": "service",
        "name": digest[7:19],
        "state": "pending",
        "entry": None,
        "stdin": {"size_bytes": 0},
        "isolation": "process",
        "retry": {"max": 0},
        "queue_ms": 5000,
        "function": {**FUNCTION, "default": False},
        "handler": {
            "abi": "wagi",
            "export": None,
            "auth": "none",
            "expose_usage": False,
            "retryable": False,
            "on_disconnect": "finish",
        },
        "scale": {"min": 0, "max": 4, "idle_ms": 60_000, "queue": min(256, QUEUE)},
        "reuse": {"max_calls": 1, "max_memory_bytes": 64 * 2**20},
    }
    assert expected == {name: answer.json[name] for name in expected}
    assert Service("f", "v1", Handler("wagi"), False, Scale(), Reuse(1, 64 * 2**20)) == service_of(api)


def test_everything_that_was_posted_is_given_back(make_api: Make, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    api = make_api(volumes=(f"corpus={tmp_path}/volume",))
    digest = api.upload(wasm(MODULE)).json["digest"]
    handler = {"abi": "export", "export": "mix", "auth": "token", "expose_usage": True, "retryable": True}
    task = {
        "kind": "service",
        "name": "adder",
        "module": {"digest": digest, "url": None},
        "function": {"name": "add.er_1", "revision": "2026-01-31", "default": True},
        "handler": {**handler, "on_disconnect": "cancel"},
        "scale": {"min": 2, "max": 64, "idle_ms": 0, "queue": QUEUE},
        "reuse": {"max_calls": 1_000_000, "max_memory_bytes": 65536},
        "args": ["a"],
        "limits": {"fuel": 1, "memory_bytes": 65536, "wall_ms": 1, "output_bytes": 0},
        "queue_ms": 0,
        "mounts": [{"volume": "corpus", "path": "in", "guest": "/data", "mode": "ro"}],
        "labels": {"team": "a"},
        "priority": 9,
    }
    answer = api.post({**task, "module": {"digest": digest}})
    assert 201 == answer.status, answer.body
    assert task == {name: answer.json[name] for name in task}
    expected = Handler("export", "mix", ("i64", "f32", "f64"), ("i64",), "token", True, True, "cancel")
    assert expected == service_of(api).handler


GOOD = [
    {"function": {"name": "a" * 63, "revision": "defaults", "default": True}},
    {"handler": {"abi": "export", "export": "nothing"}},
    {"handler": {"abi": "wagi", "auth": "none", "on_disconnect": "finish"}},
    {"scale": {}},
    {"scale": {"min": 4}},
    {"scale": {"min": 1, "max": 1, "idle_ms": 86_400_000, "queue": 1}},
    {"reuse": {}},
    {"reuse": {"max_memory_bytes": 2**20}, "limits": {"memory_bytes": 2**20}},
    {"queue_ms": 86_400_000},
]


@pytest.mark.parametrize("task", GOOD, ids=lambda task: json.dumps(task)[:50])
def test_the_last_value_within_a_range_is_taken(api: Api, digest: str, task: dict[str, Any]) -> None:
    answer = api.deploy(digest, **task)
    assert 201 == answer.status, answer.body[:500]


BAD = [
    ({"function": {"name": "f"}}, "field_missing", "function.revision"),
    ({"function": {"revision": "v1"}}, "field_missing", "function.name"),
    ({"function": {"name": "F", "revision": "v1"}}, "field_range", "function.name"),
    ({"function": {"name": "f", "revision": "v1\n"}}, "field_range", "function.revision"),
    ({"function": {"name": "f", "revision": "a" * 64}}, "field_range", "function.revision"),
    ({"function": {"name": "default", "revision": "v1"}}, "field_range", "function.name"),
    ({"function": {"name": "f", "revision": "default"}}, "field_range", "function.revision"),
    ({"function": {**FUNCTION, "default": 1}}, "field_type", "function.default"),
    ({"function": {**FUNCTION, "alias": "x"}}, "field_unknown", "function.alias"),
    ({"function": None}, "field_type", "function"),
    ({"handler": {}}, "field_missing", "handler.abi"),
    ({"handler": {"abi": "cgi"}}, "field_range", "handler.abi"),
    ({"handler": {"abi": "export"}}, "field_missing", "handler.export"),
    ({"handler": {"abi": "export", "export": ""}}, "field_range", "handler.export"),
    ({"handler": {"abi": "export", "export": "x" * 257}}, "field_range", "handler.export"),
    ({"handler": {"abi": "wagi", "export": "add"}}, "field_conflict", "handler.export"),
    ({"handler": {"abi": "export", "export": "gone"}}, "entry_invalid", "handler.export"),
    ({"handler": {"abi": "export", "export": "memory"}}, "entry_invalid", "handler.export"),
    ({"handler": {"abi": "export", "export": "vector"}}, "entry_invalid", "handler.export"),
    ({"handler": {"abi": "wagi", "auth": "basic"}}, "field_range", "handler.auth"),
    ({"handler": {"abi": "wagi", "expose_usage": "yes"}}, "field_type", "handler.expose_usage"),
    ({"handler": {"abi": "wagi", "retryable": 1}}, "field_type", "handler.retryable"),
    ({"handler": {"abi": "wagi", "on_disconnect": "stop"}}, "field_range", "handler.on_disconnect"),
    ({"handler": {"abi": "wagi", "env": {}}}, "field_unknown", "handler.env"),
    ({"scale": {"min": -1}}, "field_range", "scale.min"),
    ({"scale": {"min": 65, "max": 64}}, "field_range", "scale.min"),
    ({"scale": {"min": 5}}, "field_range", "scale.min"),
    ({"scale": {"max": 0}}, "field_range", "scale.max"),
    ({"scale": {"max": 65}}, "field_range", "scale.max"),
    ({"scale": {"idle_ms": -1}}, "field_range", "scale.idle_ms"),
    ({"scale": {"idle_ms": 86_400_001}}, "field_range", "scale.idle_ms"),
    ({"scale": {"queue": 0}}, "field_range", "scale.queue"),
    ({"scale": {"queue": QUEUE + 1}}, "field_range", "scale.queue"),
    ({"scale": {"queue": 1.0}}, "field_type", "scale.queue"),
    ({"scale": {"step": 1}}, "field_unknown", "scale.step"),
    ({"scale": None}, "field_type", "scale"),
    ({"reuse": {"max_calls": 0}}, "field_range", "reuse.max_calls"),
    ({"reuse": {"max_calls": 1_000_001}}, "field_range", "reuse.max_calls"),
    ({"reuse": {"max_memory_bytes": 65_535}}, "field_range", "reuse.max_memory_bytes"),
    ({"reuse": {"max_memory_bytes": 64 * 2**20 + 1}}, "field_range", "reuse.max_memory_bytes"),
    ({"reuse": {"calls": 1}}, "field_unknown", "reuse.calls"),
    ({"entry": {"export": "add"}}, "field_conflict", "entry"),
    ({"stdin": ""}, "field_conflict", "stdin"),
    ({"retry": {"max": 0}}, "field_conflict", "retry"),
    ({"isolation": "process"}, "field_conflict", "isolation"),
    ({"queue_ms": 86_400_001}, "field_range", "queue_ms"),
    ({"limits": {"wall_ms": 30_001}}, "limit_above_ceiling", "limits.wall_ms"),
    ({"callback_url": "https://example.com/"}, "url_refused", "callback_url"),
]


@pytest.mark.parametrize(("task", "code", "field"), BAD, ids=lambda value: json.dumps(value)[:60])
def test_the_first_value_outside_is_refused_by_name(
    shared_api: Api, shared_digest: str, task: dict[str, Any], code: str, field: str
) -> None:
    asked = len(shared_api.coordinator.asked)
    assert (422, code, field) == shared_api.deploy(shared_digest, **task).refusal
    assert asked == len(shared_api.coordinator.asked)


@pytest.mark.parametrize("field", ["function", "handler"])
def test_a_service_has_a_function_and_a_handler(shared_api: Api, shared_digest: str, field: str) -> None:
    task = {"kind": "service", "module": {"digest": shared_digest}, "function": FUNCTION, "handler": WAGI}
    del task[field]
    assert (422, "field_missing", field) == shared_api.post(task).refusal


@pytest.mark.parametrize("module", ["(module)", '(module (func (export "_start") (param i32)))'])
def test_a_wagi_handler_is_a_command(api: Api, module: str) -> None:
    digest = api.upload(wasm(module)).json["digest"]
    assert (422, "entry_invalid", "handler.abi") == api.deploy(digest).refusal


def test_imports_that_the_worker_lacks_need_stubs(api: Api) -> None:
    digest = api.upload(wasm(NEEDS_ENV)).json["digest"]
    assert (422, "import_unknown", "unknown_imports") == api.deploy(digest).refusal
    assert 201 == api.deploy(digest, unknown_imports="stub").status


def test_a_module_by_url_is_checked_when_it_is_there(make_api: Make) -> None:
    api = make_api(fetch_allow=("127.0.0.1",))
    module = {"url": "http://127.0.0.1:1/x.wasm"}
    answer = api.deploy("", module=module, handler={"abi": "export", "export": "f"})
    assert (201, None) == (answer.status, answer.json["name"])
    assert Handler("export", "f") == service_of(api).handler


def test_a_queue_is_no_longer_than_the_kernel_lets_it_be(
    make_api: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    somaxconn = tmp_path / "somaxconn"
    somaxconn.write_text("100\n")
    monkeypatch.setattr(posted_service, "_SOMAXCONN", somaxconn)
    api = make_api()
    digest = api.upload(wasm(MODULE)).json["digest"]
    assert 100 == api.deploy(digest).json["scale"]["queue"]
    assert (422, "field_range", "scale.queue") == api.deploy(digest, scale={"queue": 101}).refusal
    somaxconn.unlink()
    assert 128 == longest_queue()


def test_a_revision_exists_once(api: Api, digest: str) -> None:
    assert 201 == api.deploy(digest).status
    assert (409, "revision_exists", "function.revision") == api.deploy(digest).refusal
    assert 201 == api.deploy(digest, "f", "v2").status
    assert 201 == api.deploy(digest, "g").status


def test_a_deployment_is_repeated_by_its_key(api: Api, digest: str) -> None:
    task = {"kind": "service", "module": {"digest": digest}, "function": FUNCTION, "handler": WAGI}
    first, second = (api.post(task, ("idempotency-key", "k")) for _ in range(2))
    assert (201, 200, first.json) == (first.status, second.status, second.json)


def test_services_are_listed_by_their_function(api: Api, digest: str) -> None:
    task_id = api.deploy(digest, name="other").json["id"]
    api.deploy(digest, "g")
    assert [task_id] == [task["id"] for task in api.get("/tasks?function=f").json["tasks"]]
    assert 2 == len(api.get("/tasks?kind=service").json["tasks"])
