"""JSON in, JSON out, for a function of numbers."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.protocol.call import Answer
from worker.api.export import Export
from worker.api.problems import Problem
from worker.core.task import Handler

ADD = Export(Handler("export", "add", ("i32", "i32"), ("i32",)))
NOTHING = Export(Handler("export", "nothing"))
MIX = Export(Handler("export", "mix", ("i32", "i64", "f32", "f64"), ("i32", "i64", "f32", "f64")))


def test_parameters_become_their_raw_bits() -> None:
    assert struct.pack("<2Q", 19, 2**32 - 1) == ADD.request(b'{"params": [19, -1]}')
    assert struct.pack("<QqQd", 1, -(2**63), struct.unpack("<I", struct.pack("<f", 0.5))[0], -0.0) == MIX.request(
        b'{"params": [1, "-9223372036854775808", 0.5, -0.0]}'
    )


def test_an_empty_body_has_no_parameters() -> None:
    assert b"" == NOTHING.request(b"") == NOTHING.request(b'{"params": []}')


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{", "bad_json", None),
        (b"\xff", "bad_json", None),
        (b'{"params": [1, 2]} x', "bad_json", None),
        (b'{"params": [NaN, 2]}', "bad_json", None),
        (b'{"params": [1, 2], "params": [3, 4]}', "bad_json", None),
        (b'{"params": [1, 2], "p\\u0061rams": [3, 4]}', "bad_json", None),
        (b"[" * 100_000, "bad_json", None),
        (b"[1, 2]", "field_type", None),
        (b"null", "field_type", None),
        (b"{}", "field_missing", "params"),
        (b'{"params": [1, 2], "x": 1}', "field_unknown", "x"),
        (b'{"params": {}}', "field_type", "params"),
        (b'{"params": null}', "field_type", "params"),
        (b'{"params": [1]}', "field_type", "params"),
        (b'{"params": [1, 2, 3]}', "field_type", "params"),
        (b'{"params": [1, "2"]}', "field_type", "params[1]"),
        (b'{"params": [1, null]}', "field_type", "params[1]"),
        (b'{"params": [true, 2]}', "field_type", "params[0]"),
        (b'{"params": [1.5, 2]}', "field_type", "params[0]"),
        (b'{"params": [2147483648, 2]}', "field_type", "params[0]"),
        (b'{"params": [1, 99999999999999999999999]}', "field_type", "params[1]"),
        (b"", "field_type", "params"),
    ],
)
def test_what_does_not_fit_is_told_by_name(body: bytes, code: str, field: str | None) -> None:
    with pytest.raises(Problem) as refused:
        ADD.request(body)
    assert (code, field, "no") == (refused.value.code, refused.value.field, refused.value.executed)


def test_the_answer_is_exactly_the_result() -> None:
    status, fields, body = ADD.response(Answer("exit", struct.pack("<Q", 2**32 - 1)))
    assert (200, [(b"content-type", b"application/json")], b'{"result":[-1]}') == (status, fields, body)
    assert b'{"result":[]}' == NOTHING.response(Answer("exit", b""))[2]


def test_values_that_json_has_no_number_for_are_strings() -> None:
    nan, infinity = struct.pack("<f4xd", math.nan, -math.inf)[:8], struct.pack("<d", -math.inf)
    body = MIX.response(Answer("exit", struct.pack("<Qq", 0, 2**62) + nan + infinity))[2]
    assert {"result": [0, str(2**62), "NaN", "-Infinity"]} == json.loads(body)


@pytest.mark.parametrize("body", [b"", b"\0" * 7, b"\0" * 9, b"\0" * 16])
def test_a_runner_that_gives_another_number_of_results_broke_the_format(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        ADD.response(Answer("exit", body))


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32, allow_nan=False),
    st.floats(allow_nan=False),
)
def test_values_come_back_as_they_went(i32: int, i64: int, f32: float, f64: float) -> None:
    def text(value: float) -> float | str:
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")

    params = [i32, str(i64), text(f32), text(f64)]
    raw = MIX.request(json.dumps({"params": params}).encode())
    result = json.loads(MIX.response(Answer("exit", raw))[2])["result"]
    assert [i32, i64, text(f32), text(f64)] == [result[0], int(result[1]), *result[2:]]


@given(st.binary(max_size=60))
def test_any_body_is_parameters_or_a_problem(body: bytes) -> None:
    try:
        raw = ADD.request(body)
    except Problem:
        return
    assert 16 == len(raw)
