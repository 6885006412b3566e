"""The OpenAPI document against the running worker: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error, positive_data_acceptance

from tests.e2e.functions import deploy
from tests.e2e.harness import EXPORTS, HELLO, Worker, wasm
from worker.api.openapi import document
from worker.api.openapi_calls import METHODS, PATHS
from worker.api.openapi_types import NAME
from worker.config import Config

EXAMPLES = 30
# What a request that the document allows may still be refused for: what only the module, the operator or an earlier
# request can say; and 1.0, which JSON Schema takes for an integer.
BEYOND_A_SCHEMA = {
    *("entry_invalid", "import_unknown", "url_refused", "module_malformed", "idempotency_mismatch"),
    *("field_range", "field_type", "limit_above_ceiling"),
}
# A function is called by any method alike: the document says so, and these two show it.
SHOWN = ("get", "post")
# Its answer to a call: a header, and what follows the empty line.
WAGI_HELLO = HELLO.replace("hello world\\n", "x: y\\n\\nhello\\n")

DOCUMENT = document(Config(), with_tokens=False)
MODULE = jsonschema.Draft202012Validator(DOCUMENT["components"]["schemas"]["PostedJob"]["properties"]["module"])
CALLS = re.compile("|".join(re.escape(path) + "$" for path in PATHS))
HIDDEN = [method.upper() for method in METHODS if method not in SHOWN]
POST = jsonschema.Draft202012Validator(
    {"$ref": "#/components/schemas/Post", "components": DOCUMENT["components"]},
)
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path_regex=CALLS.pattern, method=HIDDEN)
schemathesis.openapi.media_type("application/wasm", st.just(wasm(EXPORTS)) | st.binary(max_size=64))
# What is in the worker, by the path parameter that names it; the task is known once it has run.
here = {"digest": f"sha256:{hashlib.sha256(wasm(HELLO)).hexdigest()}", "task_id": ""}
SERVED = {"function": "hello", "revision": "v1"}


@schemathesis.serializer("application/wasm")
def as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schema.hook
def map_body(_context: Any, body: Any) -> Any:
    """In place of any module that the document allows, one that is here: no URL is fetched.

    And no service keeps runners that it has no calls for: the worker has few.
    """
    if not isinstance(body, dict) or not MODULE.is_valid(body.get("module")):
        return body
    least = {"scale": {**body["scale"], "min": 0}} if POST.is_valid(body) and "scale" in body else {}
    return {**body, **least, "module": {"digest": here["digest"]}}


@schema.hook
def map_path_parameters(context: Any, parameters: Any) -> Any:
    """What is asked for is there; what is deleted isn't."""
    if not parameters:
        return parameters
    reads = context.operation.method.upper() == "GET"

    def known(name: str, value: Any) -> Any:
        if name in SERVED:
            return SERVED[name] if re.match(NAME, str(value)) else value
        return here[name] if reads and name in here and len(str(value)) == len(here[name]) else value

    return {name: known(name, value) for name, value in parameters.items()}


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    started = Worker(place / "data")
    started.start()
    assert here["digest"] == started.upload(wasm(HELLO))
    here["task_id"] = started.run(here["digest"])["id"]
    deploy(started, SERVED["function"], SERVED["revision"], wasm(WAGI_HELLO))
    yield started
    assert 0 == started.stop()


def test_the_worker_gives_the_document(worker: Worker) -> None:
    assert DOCUMENT == worker.http.get("/openapi.json").json()


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_has(case: Any, worker: Worker) -> None:
    excluded = [positive_data_acceptance]
    if CALLS.match(case.operation.path):  # a guest may fail: by a limit that the call itself lowered
        excluded.append(not_a_server_error)
    answer = case.call_and_validate(base_url=worker.url, excluded_checks=excluded)
    if answer.status_code == 422 and case.meta is not None and case.meta.generation.mode.is_positive:
        assert answer.json()["code"] in BEYOND_A_SCHEMA
