"""How a refusal is written."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.problems import KINDS, MAX_DETAIL_BYTES, Problem, printable

# CONTRACT, Codes
STATUSES = {
    400: "bad_json bad_path bad_header body_truncated",
    401: "unauthorized",
    403: "forbidden origin_refused",
    421: "host_refused",
    404: "route_unknown task_unknown module_unknown function_unknown revision_unknown no_default_revision",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "module_in_use revision_exists revision_not_running idempotency_in_progress",
    412: "generation_mismatch",
    413: "body_too_large module_too_large",
    431: "headers_too_large",
    415: "media_type module_text module_component module_precompiled",
    422: "field_unknown field_missing field_type field_range field_conflict limit_above_ceiling module_malformed "
    "module_limit import_unknown entry_invalid mount_refused url_refused signature_refused idempotency_mismatch",
    429: "queue_full function_queue_full streams_full",
    500: "internal",
    507: "storage_full",
    502: "guest_trap guest_oom guest_output_limit guest_bad_response guest_exit init_failed runner_died",
    503: "draining no_runner runner_backoff coordinator_unavailable",
    504: "fuel deadline killed_deadline",
}


def test_the_table_is_the_contracts() -> None:
    expected = {code: status for status, codes in STATUSES.items() for code in codes.split()}
    assert expected == {code: kind.status for code, kind in KINDS.items()}


@pytest.mark.parametrize(
    ("code", "executed"),
    [("queue_full", "no"), ("no_runner", "no"), ("guest_trap", "yes"), ("fuel", "yes"), ("runner_died", "maybe")],
)
def test_whether_it_was_executed_goes_with_the_code(code: str, executed: str) -> None:
    assert executed == orjson.loads(Problem(code, "x").render())["executed"]


def test_control_characters_are_escaped() -> None:
    document = orjson.loads(Problem("bad_json", "a\x1b[31m\r\n\x7f\x85\u2028\u202e", "f\0").render())
    assert ("a\\u001b[31m\\u000d\\u000a\\u007f\\u0085\\u2028\\u202e", "f\\u0000") == (
        document["detail"],
        document["field"],
    )


@given(st.text(st.characters(), max_size=6000))
def test_a_detail_is_short_and_printable_whatever_it_is_made_of(text: str) -> None:
    shown = printable(text, MAX_DETAIL_BYTES)
    assert len(shown.encode()) <= MAX_DETAIL_BYTES
    assert not any(character < " " for character in shown)
    assert shown == orjson.loads(Problem("bad_json", text).render())["detail"]


def test_a_lone_surrogate_does_no_harm() -> None:
    assert "\\udc80" == orjson.loads(Problem("bad_json", "\udc80").render())["detail"]
