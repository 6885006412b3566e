"""`POST /tasks`: each field's type and range, what fields and modules exclude, and never a 500."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.api_client import JSON, MODULE, NEEDS_ENV, NEEDS_MEMORY, Answer, Api, wasm
from worker.core.commands import AddTask

Make = Callable[..., Api]
D64 = "sha256:" + "a" * 64
LIMITS = {"fuel": 10**9, "memory_bytes": 64 * 2**20, "wall_ms": 10_000, "output_bytes": 2**20}


def post(api: Api, digest: str, **task: Any) -> Answer:
    return api.post({"kind": "job", "module": {"digest": digest}, **task})


def added(api: Api) -> AddTask:
    command = api.coordinator.asked[-1]
    assert isinstance(command, AddTask)
    return command


def test_a_bare_job_gets_the_defaults(api: Api, digest: str) -> None:
    answer = post(api, digest)
    assert 201 == answer.status
    expected = {
        "kind": "job",
        "name": digest[7:19],
        "module": {"digest": digest, "url": None},
        "entry": None,
        "args": [],
        "env": {},
        "stdin": {"size_bytes": 0},
        "limits": LIMITS,
        "queue_ms": None,
        "callback_url": None,
        "callback": None,
        "mounts": [],
        "isolation": "process",
        "unknown_imports": "deny",
        "labels": {},
        "retry": {"max": 0},
        "priority": 0,
        "function": None,
        "handler": None,
        "scale": None,
        "reuse": None,
    }
    assert expected == {name: answer.json[name] for name in expected}
    assert f"/tasks/{answer.json['id']}" == answer.headers["location"]


def test_everything_that_was_posted_is_given_back_but_secrets(make_api: Make, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    api = make_api(volumes=(f"corpus={tmp_path}/volume",))
    digest = api.upload(wasm(MODULE)).json["digest"]
    task = {
        "kind": "job",
        "name": "nightly-7",
        "module": {"digest": digest},
        "entry": {"export": "mix", "params": ["9223372036854775807", "NaN", 1.5]},
        "args": ["--fast", ""],
        "env": {"LANG": "hunter2"},
        "stdin": "text",
        "limits": {"fuel": 1, "memory_bytes": 65536, "wall_ms": 1, "output_bytes": 0},
        "queue_ms": 0,
        "mounts": [{"volume": "corpus", "path": "in", "guest": "/data", "mode": "rw"}],
        "isolation": "process",
        "unknown_imports": "stub",
        "labels": {"team": "a"},
        "retry": {"max": 10},
        "priority": 9,
    }
    answer = api.post(task)
    assert 201 == answer.status, answer.body
    expected = task | {
        "env": {"LANG": None},
        "stdin": {"size_bytes": 4},
        "module": {"digest": digest, "url": None},
    }
    assert expected == {name: answer.json[name] for name in task}
    assert b"hunter2" not in answer.body
    assert (("LANG", "hunter2"),) == added(api).spec.env
    assert b"text" == api.blobs.stdin_path(answer.json["id"]).read_bytes()


GOOD = [
    {"name": "a"},
    {"name": "a" * 63},
    {"name": "a.b_c-d"},
    {"args": ["x"] * 256},
    {"args": ["x" * 131_072]},
    {"env": {f"N{number}": "" for number in range(256)}},
    {"stdin": "x" * 2**20},
    {"stdin": {"base64": base64.b64encode(bytes(2**20)).decode()}},
    {"stdin": {"base64": ""}},
    {"limits": {"fuel": 2**63 - 1}},
    {"limits": {"memory_bytes": 512 * 2**20}},
    {"limits": {"wall_ms": 30_000}},
    {"limits": {"output_bytes": 64 * 2**20}},
    {"queue_ms": 86_400_000},
    {"isolation": "instance"},
    {"labels": {f"k{number}": "" for number in range(32)}},
    {"labels": {"k" * 128: "v" * 256}},
    {"entry": {"export": "nothing"}},
    {"entry": {"export": "add", "params": [-(2**31), 2**31 - 1]}},
    {"entry": {"export": "mix", "params": [2**53 + 1, "-Infinity", 0]}, "args": ["x"], "stdin": "x"},
]


@pytest.mark.parametrize("task", GOOD, ids=lambda task: json.dumps(task)[:40])
def test_the_last_value_within_a_range_is_taken(shared_api: Api, shared_digest: str, task: dict[str, Any]) -> None:
    answer = post(shared_api, shared_digest, **task)
    assert 201 == answer.status, answer.body[:500]


BAD = [
    ({"kind": "cron"}, "field_range", "kind"),
    ({"kind": "service"}, "field_missing", "function"),
    ({"kind": None}, "field_type", "kind"),
    ({"kind": 1}, "field_type", "kind"),
    ({"module": {}}, "field_missing", "module"),
    ({"module": {"digest": "sha256:" + "A" * 64}}, "field_range", "module.digest"),
    ({"module": {"digest": D64 + "\n"}}, "field_range", "module.digest"),
    ({"module": {"digest": D64, "sha": 1}}, "field_unknown", "module.sha"),
    ({"module": {"url": "x" * 2049}}, "field_range", "module.url"),
    ({"module": {"url": ""}}, "field_range", "module.url"),
    ({"module": {"url": "oci://registry/name:tag"}}, "url_refused", "module.url"),
    ({"module": {"url": "file:///etc/passwd"}}, "url_refused", "module.url"),
    ({"module": {"url": "http://10.0.0.1/"}}, "url_refused", "module.url"),
    ({"name": ""}, "field_range", "name"),
    ({"name": "A"}, "field_range", "name"),
    ({"name": "a" * 64}, "field_range", "name"),
    ({"name": "a-"}, "field_range", "name"),
    ({"name": "a\n"}, "field_range", "name"),
    ({"entry": {}}, "field_missing", "entry.export"),
    ({"entry": {"export": ""}}, "field_range", "entry.export"),
    ({"entry": {"export": "x" * 257}}, "field_range", "entry.export"),
    ({"entry": {"export": "add", "params": [0] * 65}}, "field_range", "entry.params"),
    ({"entry": {"export": "add", "params": {}}}, "field_type", "entry.params"),
    ({"entry": {"export": "add", "params": [1, "9" * 511]}}, "field_range", "entry.params[1]"),
    ({"entry": {"export": "add", "params": [1]}}, "entry_invalid", "entry.params"),
    ({"entry": {"export": "add", "params": [1, None]}}, "entry_invalid", "entry.params[1]"),
    ({"entry": {"export": "add", "params": [1, 2**31]}}, "entry_invalid", "entry.params[1]"),
    ({"entry": {"export": "add", "params": [1.5, 2]}}, "entry_invalid", "entry.params[0]"),
    ({"entry": {"export": "gone"}}, "entry_invalid", "entry.export"),
    ({"entry": {"export": "memory"}}, "entry_invalid", "entry.export"),
    ({"entry": {"export": "vector", "params": [0]}}, "entry_invalid", "entry.export"),
    ({"args": ["x"] * 257}, "field_range", "args"),
    ({"args": ["a", 1]}, "field_type", "args[1]"),
    ({"args": ["a", "\0"]}, "field_range", "args[1]"),
    ({"args": ["x" * 131_072, "x"]}, "field_range", "args"),
    ({"args": ["\u20ac" * 43_691]}, "field_range", "args"),
    ({"env": {f"N{number}": "" for number in range(257)}}, "field_range", "env"),
    ({"env": {"1A": ""}}, "field_range", "env.1A"),
    ({"env": {"A=B": ""}}, "field_range", "env.A=B"),
    ({"env": {"A": "\0"}}, "field_range", "env.A"),
    ({"env": {"B": "", "A": 1}}, "field_type", "env.A"),
    ({"env": {"A": "x" * 131_072}}, "field_range", "env"),
    ({"env": []}, "field_type", "env"),
    ({"stdin": "x" * (2**20 + 1)}, "field_range", "stdin"),
    ({"stdin": 1}, "field_type", "stdin"),
    ({"stdin": {}}, "field_missing", "stdin.base64"),
    ({"stdin": {"base64": "!"}}, "field_range", "stdin.base64"),
    ({"stdin": {"base64": "QQ"}}, "field_range", "stdin.base64"),
    ({"stdin": {"base64": base64.b64encode(bytes(2**20 + 1)).decode()}}, "field_range", "stdin.base64"),
    ({"limits": None}, "field_type", "limits"),
    ({"limits": {"cpu": 1}}, "field_unknown", "limits.cpu"),
    ({"limits": {"fuel": 0}}, "field_range", "limits.fuel"),
    ({"limits": {"fuel": 2**63}}, "field_range", "limits.fuel"),
    ({"limits": {"fuel": 2**200}}, "field_range", "limits.fuel"),
    ({"limits": {"fuel": 1.5}}, "field_type", "limits.fuel"),
    ({"limits": {"fuel": True}}, "field_type", "limits.fuel"),
    ({"limits": {"fuel": "1"}}, "field_type", "limits.fuel"),
    ({"limits": {"memory_bytes": 65_535}}, "field_range", "limits.memory_bytes"),
    ({"limits": {"memory_bytes": 512 * 2**20 + 1}}, "limit_above_ceiling", "limits.memory_bytes"),
    ({"limits": {"wall_ms": 0}}, "field_range", "limits.wall_ms"),
    ({"limits": {"wall_ms": 30_001}}, "limit_above_ceiling", "limits.wall_ms"),
    ({"limits": {"output_bytes": -1}}, "field_range", "limits.output_bytes"),
    ({"limits": {"output_bytes": 64 * 2**20 + 1}}, "limit_above_ceiling", "limits.output_bytes"),
    ({"queue_ms": -1}, "field_range", "queue_ms"),
    ({"queue_ms": 86_400_001}, "field_range", "queue_ms"),
    ({"callback_url": "https://example.com/"}, "url_refused", "callback_url"),
    ({"mounts": [{"volume": "corpus"}]}, "field_missing", "mounts[0].guest"),
    ({"mounts": [{"volume": "Corpus", "guest": "/d"}]}, "field_range", "mounts[0].volume"),
    ({"mounts": [{"volume": "corpus", "guest": ""}]}, "field_range", "mounts[0].guest"),
    ({"mounts": [{"volume": "corpus", "guest": "x" * 257}]}, "field_range", "mounts[0].guest"),
    ({"mounts": [{"volume": "corpus", "guest": "\0"}]}, "field_range", "mounts[0].guest"),
    ({"mounts": [{"volume": "corpus", "guest": "d", "path": "/x"}]}, "field_range", "mounts[0].path"),
    ({"mounts": [{"volume": "corpus", "guest": "d", "path": "a/../b"}]}, "field_range", "mounts[0].path"),
    ({"mounts": [{"volume": "corpus", "guest": "d", "path": ".."}]}, "field_range", "mounts[0].path"),
    ({"mounts": [{"volume": "corpus", "guest": "d", "mode": "w"}]}, "field_range", "mounts[0].mode"),
    ({"mounts": [{"volume": "corpus", "guest": "d"}] * 17}, "field_range", "mounts"),
    ({"mounts": [{"volume": "corpus", "guest": "d"}] * 2}, "field_range", "mounts[1].guest"),
    ({"mounts": [{"volume": "other", "guest": "d"}]}, "mount_refused", "mounts[0].volume"),
    ({"mounts": [{"volume": "corpus", "guest": "d"}], "isolation": "instance"}, "field_conflict", "isolation"),
    ({"isolation": "thread"}, "field_range", "isolation"),
    ({"unknown_imports": "allow"}, "field_range", "unknown_imports"),
    ({"labels": {f"k{number}": "" for number in range(33)}}, "field_range", "labels"),
    ({"labels": {"": ""}}, "field_range", "labels."),
    ({"labels": {"a=b": ""}}, "field_range", "labels.a=b"),
    ({"labels": {"k" * 129: ""}}, "field_range", "labels." + "k" * 129),
    ({"labels": {"k": "v" * 257}}, "field_range", "labels.k"),
    ({"labels": {"k": "\n"}}, "field_range", "labels.k"),
    ({"labels": {"k": None}}, "field_type", "labels.k"),
    ({"retry": {"max": 11}}, "field_range", "retry.max"),
    ({"retry": {"max": -1}}, "field_range", "retry.max"),
    ({"priority": 10}, "field_range", "priority"),
    ({"priority": -1}, "field_range", "priority"),
    ({"function": {"name": "f", "revision": "v1"}}, "field_conflict", "function"),
    ({"handler": {"abi": "wagi"}}, "field_conflict", "handler"),
    ({"scale": {}}, "field_conflict", "scale"),
    ({"reuse": {}}, "field_conflict", "reuse"),
    ({"id": "x"}, "field_unknown", "id"),
]


@pytest.mark.parametrize(("task", "code", "field"), BAD, ids=lambda value: json.dumps(value)[:50])
def test_the_first_value_outside_is_refused_by_name(
    shared_api: Api, shared_digest: str, task: dict[str, Any], code: str, field: str
) -> None:
    asked = len(shared_api.coordinator.asked)
    answer = post(shared_api, shared_digest, **task)
    assert (422, code, field) == answer.refusal
    assert asked == len(shared_api.coordinator.asked)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b'{"kind": "job", "kind": "job"}',
        b'{"kind":"job","module":{"digest":"%s","digest":"%s"}}' % (D64.encode(), D64.encode()),
        b'{"kind":"job","module":{},"labels":{"a":"1","a":"2"}}',
        b'{"kind":"job","module":{},"entry":{"export":"x","params":[NaN]}}',
        b'{"kind":"job","module":{},"entry":{"export":"x","params":[' + b"[" * 100_000,
        b'{"kind":"job","module":{},"name":"\\ud800"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_not_one_json_document_is_bad_json(shared_api: Api, body: bytes) -> None:
    assert (400, "bad_json") == shared_api.request("POST", "/tasks", JSON, body=body).refusal[:2]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_a_document_that_is_no_object_has_the_wrong_type(shared_api: Api, body: bytes) -> None:
    assert (422, "field_type", None) == shared_api.request("POST", "/tasks", JSON, body=body).refusal


def test_an_unknown_module_is_unknown(api: Api) -> None:
    assert (404, "module_unknown", "module.digest") == post(api, D64).refusal


def test_imports_that_the_worker_lacks_need_stubs(api: Api) -> None:
    digest = api.upload(wasm(NEEDS_ENV)).json["digest"]
    refused = post(api, digest)
    assert (422, "import_unknown", "unknown_imports") == refused.refusal
    assert "env.log (func i32 -> i32)" in refused.json["detail"]
    assert 201 == post(api, digest, unknown_imports="stub").status


@pytest.mark.parametrize(
    "module",
    [
        NEEDS_MEMORY,
        '(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (func (export "_start")))',
        '(module (type $t (func)) (import "env" "f" (func (result (ref $t)))) (func (export "_start")))',
    ],
)
def test_what_cannot_be_stubbed_is_refused_with_stubs_too(api: Api, module: str) -> None:
    digest = api.upload(wasm(module)).json["digest"]
    assert (422, "import_unknown", "unknown_imports") == post(api, digest, unknown_imports="stub").refusal


def test_a_command_needs_a_start(api: Api) -> None:
    digest = api.upload(wasm("(module)")).json["digest"]
    assert (422, "entry_invalid", "entry") == post(api, digest).refusal


def test_a_module_by_url_is_checked_when_it_is_there(make_api: Make) -> None:
    api = make_api(fetch_allow=("127.0.0.1",))
    url = "http://127.0.0.1:1/x.wasm"
    entry = {"export": "f", "params": [1, "2"]}
    answer = api.post({"kind": "job", "module": {"url": url}, "entry": entry})
    assert (201, None, {"digest": None, "url": url}) == (answer.status, answer.json["name"], answer.json["module"])
    kept = added(api).spec.entry
    assert kept is not None
    assert (None, b'[1,"2"]') == (kept.params, kept.params_json.replace(b" ", b""))
    entry["params"] = [1, True]
    refused = api.post({"kind": "job", "module": {"url": url}, "entry": entry})
    assert (422, "entry_invalid", "entry.params[1]") == refused.refusal


def test_a_url_with_the_digest_of_a_module_that_is_here_is_checked_now(make_api: Make) -> None:
    api = make_api(fetch_allow=("127.0.0.1",))
    digest = api.upload(wasm("(module)")).json["digest"]
    module = {"url": "http://127.0.0.1:1/x.wasm", "digest": digest}
    assert (422, "entry_invalid", "entry") == api.post({"kind": "job", "module": module}).refusal


def test_a_deleted_module_is_unknown_again(api: Api, digest: str) -> None:
    assert 201 == post(api, digest).status
    assert 204 == api.delete(f"/modules/{digest}").status
    assert (404, "module_unknown", "module.digest") == post(api, digest).refusal


def test_an_operators_ceiling_holds_and_its_default_too(make_api: Make) -> None:
    api = make_api(max_fuel=100, default_fuel=50)
    digest = api.upload(wasm(MODULE)).json["digest"]
    assert (422, "limit_above_ceiling", "limits.fuel") == post(api, digest, limits={"fuel": 101}).refusal
    assert 50 == post(api, digest).json["limits"]["fuel"]


def test_no_blob_is_left_of_a_task_that_was_refused(api: Api, digest: str) -> None:
    from worker.core.commands import Refused

    api.coordinator.script.append(Refused("queue_full", "full"))
    assert (429, "queue_full", None) == post(api, digest, stdin="x").refusal
    assert [] == list(Path(api.config.data_dir, "blobs/tmp").iterdir())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *("kind", "name", "module", "entry", "args", "env", "stdin", "limits", "queue_ms", "mounts", "isolation"),
    *("unknown_imports", "labels", "retry", "priority", "function", "export", "params", "digest", "url", "base64"),
    *("handler", "scale", "reuse", "revision", "default", "abi", "min", "max", "queue", "max_calls"),
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=5), st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_task_makes_the_worker_fail(
    shared_api: Api, shared_digest: str, task: dict[str, Any], sensible: bool
) -> None:
    if sensible:
        task = {"kind": "job", "module": {"digest": shared_digest}, **task}
    answer = shared_api.post(task)
    assert answer.status in (201, 400, 404, 422)


@given(st.binary(max_size=200))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_the_worker_fail(shared_api: Api, body: bytes) -> None:
    assert shared_api.request("POST", "/tasks", JSON, body=body).status in (400, 422)
