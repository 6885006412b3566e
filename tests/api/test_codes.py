"""Every code of the contract that jobs, modules and what stands around them can produce, each by a request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.api_client import JSON, MODULE, NEEDS_ENV, WASM, Answer, Api, wasm
from worker.api.auth import Tokens
from worker.api.problems import KINDS
from worker.core.commands import Refused
from worker.errors import NoAnswer, NotSent, TableError

Make = Callable[..., Api]
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"
UNKNOWN_DIGEST = "sha256:" + "0" * 64

# Codes of what isn't built yet: streams, signatures.
LATER = {"signature_refused", "streams_full"}
# Codes of calls alone: they have tests of their own.
OF_CALLS = {
    *("no_default_revision", "function_queue_full", "no_runner", "runner_backoff"),
    *("guest_trap", "guest_oom", "guest_output_limit", "guest_bad_response", "guest_exit", "init_failed"),
    *("runner_died", "fuel", "deadline", "killed_deadline"),
}


def tokens(*lines: tuple[str, str]) -> Tokens:
    text = "\n".join(f"sha256:{hashlib.sha256(token.encode()).hexdigest()} {scopes}" for token, scopes in lines)
    return Tokens.parse(text, "a test")


def uploaded(api: Api) -> str:
    return str(api.upload(wasm(MODULE)).json["digest"])


def post(api: Api, **task: Any) -> Answer:
    return api.post({"kind": "job", "module": {"digest": uploaded(api)}, **task})


def scripted(reply: Any) -> Callable[[Make], Answer]:
    """A task is posted, and the coordinator says this."""

    def produce(make: Make) -> Answer:
        api = make()
        body = {"kind": "job", "module": {"digest": uploaded(api)}}
        api.coordinator.script.append(reply)
        return api.post(body)

    return produce


def forbidden(make: Make) -> Answer:
    api = make(tokens=tokens(("a", "run")))
    api.bearer = "a"
    return api.get("/tasks")


def module_in_use(make: Make) -> Answer:
    api = make()
    digest = uploaded(api)
    api.coordinator.in_use.add(digest)
    return api.delete(f"/modules/{digest}")


def idempotency_mismatch(make: Make) -> Answer:
    api = make()
    task = {"kind": "job", "module": {"digest": uploaded(api)}}
    assert api.post(task, ("idempotency-key", "k")).status == 201
    return api.post({**task, "name": "other"}, ("idempotency-key", "k"))


def internal(make: Make) -> Answer:
    api = make()
    api.services.lists.close()
    return api.get("/tasks")


def storage_full(make: Make) -> Answer:
    return make(max_stored_bytes_per_token=10).upload(wasm(MODULE))


def draining(make: Make) -> Answer:
    api = make()
    task = {"kind": "job", "module": {"digest": uploaded(api)}}
    api.page.draining = True
    return api.post(task)


def import_unknown(make: Make) -> Answer:
    api = make()
    return api.post({"kind": "job", "module": {"digest": api.upload(wasm(NEEDS_ENV)).json["digest"]}})


def revision_exists(make: Make) -> Answer:
    api = make()
    digest = uploaded(api)
    assert 201 == api.deploy(digest).status
    return api.deploy(digest)


def switched(revision: str, *headers: tuple[str, str], running: bool = True) -> Callable[[Make], Answer]:
    """The default is switched to this revision, where there is v1."""

    def produce(make: Make) -> Answer:
        api = make()
        (api.deploy_running if running else api.deploy)(uploaded(api))
        return api.request("PUT", f"/revisions/f/{revision}/default/on", *headers)

    return produce


PRODUCE: dict[str, Callable[[Make], Answer]] = {
    "bad_json": lambda make: make().request("POST", "/tasks", JSON, body=b"{"),
    "bad_path": lambda make: make().get("/tasks/%2e%2e/modules"),
    "bad_header": lambda make: make().get(f"/tasks/{UNKNOWN_ID}", ("prefer", "wait=61")),
    "body_truncated": lambda make: make().request("POST", "/tasks", JSON, body=[b"{", None]),
    "unauthorized": lambda make: make(tokens=tokens(("a", "read"))).get("/tasks"),
    "forbidden": forbidden,
    "origin_refused": lambda make: make().get("/tasks", ("origin", "https://evil.example")),
    "host_refused": lambda make: make().get("/tasks", ("host", "evil.example")),
    "route_unknown": lambda make: make().get("/nowhere"),
    "task_unknown": lambda make: make().get(f"/tasks/{UNKNOWN_ID}"),
    "module_unknown": lambda make: make().get(f"/modules/{UNKNOWN_DIGEST}"),
    "function_unknown": lambda make: make().get("/revisions/f"),
    "revision_unknown": switched("v2"),
    "method_not_allowed": lambda make: make().request("PUT", "/tasks"),
    "request_timeout": lambda make: make(body_timeout_s=0.05).request("POST", "/tasks", JSON, body=[b"{", 10.0, b"}"]),
    "module_in_use": module_in_use,
    "revision_exists": revision_exists,
    "revision_not_running": switched("v1", running=False),
    "generation_mismatch": switched("v1", ("if-match", '"7"')),
    "idempotency_in_progress": scripted(Refused("idempotency_in_progress", "ask again")),
    "body_too_large": lambda make: make(max_body_bytes=1024).request("POST", "/tasks", JSON, body=b"x" * 1025),
    "module_too_large": lambda make: make(max_module_bytes=1024).upload(b"x" * 1025),
    "headers_too_large": lambda make: make(max_header_bytes=1024).get("/tasks", ("x-long", "x" * 1024)),
    "media_type": lambda make: make().request("POST", "/tasks", ("content-type", "text/json"), body=b"{}"),
    "module_text": lambda make: make().upload(b"(module)"),
    "module_component": lambda make: make().upload(b"\0asm\x0d\0\1\0"),
    "module_precompiled": lambda make: make().upload(b"\x7fELF" + bytes(60)),
    "field_unknown": lambda make: post(make(), colour="red"),
    "field_missing": lambda make: make().post({"kind": "job"}),
    "field_type": lambda make: post(make(), name=None),
    "field_range": lambda make: post(make(), priority=10),
    "field_conflict": lambda make: post(make(), scale={"max": 1}),
    "limit_above_ceiling": lambda make: post(make(), limits={"wall_ms": 30_001}),
    "module_malformed": lambda make: make().upload(b""),
    "module_limit": lambda make: make(max_exports=1).upload(wasm(MODULE)),
    "import_unknown": import_unknown,
    "entry_invalid": lambda make: post(make(), entry={"export": "vector", "params": [0]}),
    "mount_refused": lambda make: post(make(), mounts=[{"volume": "corpus", "guest": "/data"}]),
    "url_refused": lambda make: make().post({"kind": "job", "module": {"url": "http://127.0.0.1/x.wasm"}}),
    "idempotency_mismatch": idempotency_mismatch,
    "queue_full": scripted(Refused("queue_full", "10000 tasks wait")),
    "internal": internal,
    "storage_full": storage_full,
    "draining": draining,
    "coordinator_unavailable": scripted(NotSent("no coordinator answers")),
}


@pytest.mark.parametrize("code", PRODUCE)
def test_each_code_is_told_with_its_status(make_api: Make, code: str) -> None:
    answer = PRODUCE[code](make_api)
    document = answer.json
    assert (KINDS[code].status, code) == (answer.status, answer.code)
    assert {"type", "title", "status", "code", "detail", "executed"} <= document.keys() <= {*document, "field"}
    assert f"urn:galago:problem:{code}" == document["type"]
    assert (KINDS[code].retry_after_s is not None) == ("retry-after" in answer.headers)


def test_every_code_is_produced_here_or_by_calls_or_belongs_to_what_is_not_built() -> None:
    assert set(KINDS) == set(PRODUCE) | OF_CALLS | LATER
    assert len(KINDS) == len(PRODUCE) + len(OF_CALLS) + len(LATER)


@pytest.mark.parametrize(
    ("failure", "executed", "location"), [(NotSent("not sent"), "no", False), (NoAnswer("no answer"), "maybe", True)]
)
def test_a_coordinator_that_does_not_answer_leaves_no_doubt_about_the_doubt(
    make_api: Make, failure: Exception, executed: str, location: bool
) -> None:
    answer = scripted(failure)(make_api)
    assert ("coordinator_unavailable", executed) == (answer.code, answer.json["executed"])
    assert location == answer.headers.get("location", "").startswith("/tasks/")


def test_a_failure_of_our_own_carries_an_id_and_nothing_else(make_api: Make, caplog: pytest.LogCaptureFixture) -> None:
    answer = internal(make_api)
    assert "RuntimeError" not in answer.body.decode()
    error_id = answer.json["detail"].split()[1].rstrip(";")
    assert error_id in caplog.text
    assert "cannot schedule new futures" in caplog.text


@pytest.mark.parametrize("code", ["internal", "no_such_code"])
def test_a_refusal_that_the_contract_does_not_know_is_a_failure_of_our_own(make_api: Make, code: str) -> None:
    answer = scripted(Refused(code, "secret"))(make_api)
    assert (500, "internal", "no") == (answer.status, answer.code, answer.json["executed"])
    assert "secret" not in answer.body.decode()


@pytest.mark.parametrize(("ready", "expected"), [(False, (503, "coordinator_unavailable")), (True, (500, "internal"))])
def test_a_table_that_cannot_be_read_is_expected_only_while_starting(
    api: Api, monkeypatch: pytest.MonkeyPatch, ready: bool, expected: tuple[int, str]
) -> None:
    def fail(_: str) -> None:
        raise TableError("no table")

    monkeypatch.setattr(api.reader, "task", fail)
    api.page.ready = ready
    answer = api.get(f"/tasks/{UNKNOWN_ID}")
    assert expected == (answer.status, answer.code)


def test_a_quota_refusal_names_figures(make_api: Make) -> None:
    detail = storage_full(make_api).json["detail"]
    assert "may have 10" in detail


def test_a_body_announced_too_long_is_refused_before_it_is_read(api: Api) -> None:
    length = ("content-length", str(9 * 1024 * 1024))
    answer = api.request("POST", "/tasks", JSON, length, body=[60.0])
    assert (413, "body_too_large", None) == answer.refusal


def test_json_documents_are_what_they_say(api: Api) -> None:
    answer = api.request("POST", "/modules", WASM, ("content-encoding", "gzip"), body=b"")
    assert (415, "media_type", "content-encoding") == answer.refusal
    assert answer.body == json.dumps(answer.json, separators=(",", ":")).encode()
