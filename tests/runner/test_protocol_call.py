"""Calls: what was sent comes out; anything else is a ProtocolError, and nothing else is ever raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.protocol import MAX_DETAIL_BYTES
from runner.protocol.call import (
    ANSWER_HEAD,
    CALL_HEAD,
    EXIT,
    MAGIC,
    MARK,
    RETIRE_BYTES,
    VERSION,
    Answer,
    answer_length,
    call_length,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
)
from runner.protocol.status import REASONS
from tests.runner.protocol_strategies import answers, fields, u32, u64, variables

CALL = encode_call(b"body", [b"A=1", b"B="], flags=1, fuel=2, wall_ms=3, sent_us=4)
ANSWER = encode_answer(Answer("trap", b"body", trap_code="bad_signature", exit_code=-1, detail="why"))


@given(st.binary(max_size=200), variables, u32, u64, u32, u64)
def test_a_call_comes_out_as_it_went_in(
    body: bytes, given_variables: list[bytes], flags: int, fuel: int, wall_ms: int, sent_us: int
) -> None:
    message = encode_call(body, given_variables, flags=flags, fuel=fuel, wall_ms=wall_ms, sent_us=sent_us)
    assert len(message) == call_length(message) == call_length(message[: CALL_HEAD.size])
    call = decode_call(message)
    assert call is not None
    assert (body, tuple(given_variables)) == (call.body, call.variables)
    assert (flags, fuel, wall_ms, sent_us) == (call.flags, call.fuel, call.wall_ms, call.sent_us)


def test_a_retirement_is_a_head_and_no_call() -> None:
    assert len(RETIRE_BYTES) == CALL_HEAD.size == call_length(RETIRE_BYTES)
    assert decode_call(RETIRE_BYTES) is None


@given(answers)
def test_an_answer_comes_out_as_it_went_in(answer: Answer) -> None:
    message = encode_answer(answer)
    assert len(message) == answer_length(message[: ANSWER_HEAD.size], len(answer.body))
    assert fields(answer) == fields(decode_answer(message))


def test_the_mark_begins_no_answer() -> None:
    assert not MAGIC.startswith(MARK)


def test_a_longer_detail_is_cut() -> None:
    assert MAX_DETAIL_BYTES == len(decode_answer(encode_answer(Answer("trap", b"", detail="x" * 9999))).detail)


@pytest.mark.parametrize(
    "changed",
    [
        {"magic": b"gX"},
        {"version": VERSION + 1},
        {"kind": 3},
        {"kind": 0},
        {"whole": CALL_HEAD.size - 1},
    ],
)
def test_what_is_no_calls_head_is_refused(changed: dict[str, int]) -> None:
    names = ("magic", "version", "kind", "whole", "flags", "fuel", "wall_ms", "sent_us", "count", "block")
    values = dict(zip(names, CALL_HEAD.unpack_from(CALL), strict=True)) | changed
    with pytest.raises(ProtocolError):
        call_length(CALL_HEAD.pack(*values.values()))


@pytest.mark.parametrize(
    "changed", [{"whole": 9999}, {"count": 3}, {"count": 1}, {"block": 9999}, {"block": 6}, {"count": 1, "block": 6}]
)
def test_a_call_has_the_parts_that_it_announces(changed: dict[str, int]) -> None:
    names = ("magic", "version", "kind", "whole", "flags", "fuel", "wall_ms", "sent_us", "count", "block")
    values = dict(zip(names, CALL_HEAD.unpack_from(CALL), strict=True)) | changed
    with pytest.raises(ProtocolError):
        decode_call(CALL_HEAD.pack(*values.values()) + CALL[CALL_HEAD.size :])


def answer_with(**changed: int | bytes) -> bytes:
    names = ("magic", "version", "reason", "whole", "trap", "flags", "detail", "exit", "fuel", "queue", "init", "run")
    values = dict(zip((*names, "memory"), ANSWER_HEAD.unpack_from(ANSWER), strict=True)) | changed
    return ANSWER_HEAD.pack(*values.values()) + ANSWER[ANSWER_HEAD.size :]


@pytest.mark.parametrize(
    "changed",
    [
        {"magic": b"gC"[::-1]},
        {"version": 0},
        {"whole": 0},
        {"whole": ANSWER_HEAD.size + 2},
        {"whole": ANSWER_HEAD.size + 3 + 101},
        {"whole": 2**32 - 1},
    ],
)
def test_an_answers_length_is_checked_before_it_is_waited_for(changed: dict[str, int]) -> None:
    assert len(ANSWER) == answer_length(ANSWER, 4)
    with pytest.raises(ProtocolError):
        answer_length(answer_with(**changed), 100)


@pytest.mark.parametrize(
    "changed",
    [
        {"whole": len(ANSWER) + 1},
        {"reason": len(REASONS)},
        {"trap": 254},
        {"flags": 2},
        {"flags": 255},
        {"detail": MAX_DETAIL_BYTES + 1},
    ],
)
def test_an_answer_with_a_field_that_there_is_not_is_refused(changed: dict[str, int]) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(answer_with(**changed))


@given(st.binary(max_size=200))
def test_noise_is_a_protocol_error(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(noise)


@given(st.binary(min_size=ANSWER_HEAD.size - 4, max_size=300))
def test_noise_after_a_right_beginning_is_an_answer_or_a_protocol_error(noise: bytes) -> None:
    message = ANSWER[:4] + noise
    try:
        length = answer_length(message, 1000)
        decode_answer(message)
    except ProtocolError:
        return
    assert len(message) == length


@given(st.binary(min_size=CALL_HEAD.size - 4, max_size=300))
def test_noise_after_a_calls_beginning_is_a_call_or_a_protocol_error(noise: bytes) -> None:
    message = CALL[:4] + noise
    try:
        call_length(message)
        decode_call(message)
    except ProtocolError:
        return
    assert len(message) == call_length(message)


@pytest.mark.parametrize("size", range(ANSWER_HEAD.size))
def test_an_answer_that_is_cut_short_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(ANSWER[:size])


def test_the_exit_that_is_packed_by_hand_is_exit() -> None:
    assert "exit" == REASONS[EXIT]
