"""The OpenAPI document against the running worker: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import positive_data_acceptance

from tests.e2e.harness import EXPORTS, HELLO, Worker, wasm
from worker.api.openapi import document
from worker.config import Config

EXAMPLES = 30
# What a request that the document allows may still be refused for: what only the module, the operator or an earlier
# request can say; and 1.0, which JSON Schema takes for an integer.
BEYOND_A_SCHEMA = {
    *("entry_invalid", "import_unknown", "url_refused", "module_malformed", "idempotency_mismatch"),
    *("field_range", "field_type"),
}

DOCUMENT = document(Config(), with_tokens=False)
MODULE = jsonschema.Draft202012Validator(DOCUMENT["components"]["schemas"]["Post"]["properties"]["module"])
schema = schemathesis.openapi.from_dict(DOCUMENT)
schemathesis.openapi.media_type("application/wasm", st.just(wasm(EXPORTS)) | st.binary(max_size=64))
# What is in the worker, by the path parameter that names it; the task is known once it has run.
here = {"digest": f"sha256:{hashlib.sha256(wasm(HELLO)).hexdigest()}", "task_id": ""}


@schemathesis.serializer("application/wasm")
def as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schema.hook
def map_body(_context: Any, body: Any) -> Any:
    """In place of any module that the document allows, one that is here: no URL is fetched."""
    if isinstance(body, dict) and MODULE.is_valid(body.get("module")):
        return {**body, "module": {"digest": here["digest"]}}
    return body


@schema.hook
def map_path_parameters(context: Any, parameters: Any) -> Any:
    """What is asked for is there; what is deleted isn't."""
    if not parameters or context.operation.method.upper() != "GET":
        return parameters
    return {name: here[name] if len(str(value)) == len(here[name]) else value for name, value in parameters.items()}


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    started = Worker(place / "data")
    started.start()
    assert here["digest"] == started.upload(wasm(HELLO))
    here["task_id"] = started.run(here["digest"])["id"]
    yield started
    assert 0 == started.stop()


def test_the_worker_gives_the_document(worker: Worker) -> None:
    assert DOCUMENT == worker.http.get("/openapi.json").json()


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_has(case: Any, worker: Worker) -> None:
    answer = case.call_and_validate(base_url=worker.url, excluded_checks=[positive_data_acceptance])
    if answer.status_code == 422 and case.meta is not None and case.meta.generation.mode.is_positive:
        assert answer.json()["code"] in BEYOND_A_SCHEMA
