"""The status stream: what was sent comes out, in order; anything else is a ProtocolError, in bounded memory."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.protocol import MAX_DETAIL_BYTES, VERSION
from runner.protocol.status import (
    BYE,
    FOLLOWS,
    FRAME_HEAD,
    FRAME_NAMES,
    HELLO,
    MAGIC,
    MAX_FRAME_PAYLOAD,
    NO_TRAP,
    OUTCOME,
    READY,
    REASON_CODES,
    REASONS,
    STARTED,
    TRAP_CODES,
    Frame,
    Outcome,
    Ready,
    StatusReader,
    decode_outcome,
    decode_ready,
    decode_started,
    encode_frame,
    encode_outcome,
    encode_ready,
    encode_started,
)
from tests.runner.protocol_strategies import fields, outcomes, u32, u64

START = 0
# The shortest way to each place in the conversation.
WAYS: dict[int, list[int]] = {
    START: [],
    HELLO: [HELLO],
    READY: [HELLO, READY],
    STARTED: [HELLO, READY, STARTED],
    OUTCOME: [HELLO, READY, STARTED, OUTCOME],
    BYE: [HELLO, READY, BYE],
}
KINDS = sorted(FRAME_NAMES)
ILLEGAL = [(last, kind) for last in FOLLOWS for kind in [*KINDS, 0, 6, 255] if kind not in FOLLOWS[last]]
LEGAL = [(last, kind) for last in FOLLOWS for kind in FOLLOWS[last]]
CONVERSATION = [HELLO, READY, STARTED, OUTCOME, STARTED, OUTCOME, BYE]


def payload_of(frame: bytes) -> bytes:
    return frame[FRAME_HEAD.size :]


def read(reader: StatusReader, data: bytes) -> list[tuple[int, bytes]]:
    return [(frame.kind, frame.payload) for frame in reader.feed(data)]


def stream(kinds: Iterable[int]) -> bytes:
    return b"".join(encode_frame(kind) for kind in kinds)


# -- round trips -----------------------------------------------------------------------------------------------------


@given(outcomes)
def test_an_outcome_comes_out_as_it_went_in(outcome: Outcome) -> None:
    assert fields(outcome) == fields(decode_outcome(payload_of(encode_outcome(outcome))))


@given(u32, u64, u32)
def test_a_ready_comes_out_as_it_went_in(layers: int, load_us: int, uid: int) -> None:
    ready = Ready(layers, load_us, uid)
    assert fields(ready) == fields(decode_ready(payload_of(encode_ready(ready))))


@given(u64)
def test_a_started_comes_out_as_it_went_in(job_id: int) -> None:
    assert job_id == decode_started(payload_of(encode_started(job_id)))


def test_the_biggest_outcome_fits_a_frame() -> None:
    outcome = Outcome(2**64 - 1, "exit", results=((3, 2**64 - 1),) * 1_000, detail="x" * MAX_DETAIL_BYTES)
    assert fields(outcome) == fields(decode_outcome(payload_of(encode_outcome(outcome))))


def test_a_detail_is_cut_to_its_bytes_even_within_a_character() -> None:
    outcome = decode_outcome(payload_of(encode_outcome(Outcome(1, "trap", detail="x" + "é" * MAX_DETAIL_BYTES))))
    assert "x" + "é" * (MAX_DETAIL_BYTES // 2 - 1) + "\N{REPLACEMENT CHARACTER}" == outcome.detail


def test_what_is_no_text_becomes_text() -> None:
    assert "?" == decode_outcome(payload_of(encode_outcome(Outcome(1, "trap", detail="\udc80")))).detail


def test_an_outcome_that_fits_no_frame_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=f"at most {MAX_FRAME_PAYLOAD} bytes, this has"):
        encode_outcome(Outcome(1, "exit", results=((0, 0),) * 2_000))


# -- the stream ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, len(stream(CONVERSATION))), max_size=20))
def test_a_stream_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    data = encode_frame(HELLO) + encode_ready(Ready(7, 8, 9)) + encode_started(1)
    data += encode_outcome(Outcome(1, "trap", detail="unreachable")) + encode_frame(BYE)
    reader = StatusReader()
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    frames = [frame for a, b in pairwise(places) for frame in read(reader, data[a:b])]
    assert [HELLO, READY, STARTED, OUTCOME, BYE] == [kind for kind, _ in frames]
    assert "unreachable" == decode_outcome(frames[3][1]).detail
    assert reader.finished


@pytest.mark.parametrize(("last", "kind"), ILLEGAL)
def test_a_frame_out_of_its_order_is_refused(last: int, kind: int) -> None:
    reader = StatusReader()
    read(reader, stream(WAYS[last]))
    with pytest.raises(ProtocolError, match=f"{FRAME_NAMES.get(kind, kind)} can't follow"):
        read(reader, encode_frame(kind))


@pytest.mark.parametrize(("last", "kind"), LEGAL)
def test_a_frame_in_its_order_is_read(last: int, kind: int) -> None:
    reader = StatusReader()
    read(reader, stream(WAYS[last]))
    assert [(kind, b"")] == read(reader, encode_frame(kind))
    assert (kind == BYE) == reader.finished


def test_a_whole_conversation_is_read_at_once() -> None:
    reader = StatusReader()
    assert [(kind, b"") for kind in CONVERSATION] == read(reader, stream(CONVERSATION))


def test_the_frames_before_a_bad_one_are_still_told() -> None:
    told: list[Frame] = []
    with pytest.raises(ProtocolError):
        told.extend(StatusReader().feed(stream([HELLO, READY]) + b"garbage!"))
    reader = StatusReader()
    frames = reader.feed(stream([HELLO, READY]) + b"garbage!")
    assert [HELLO, READY] == [next(frames).kind, next(frames).kind]
    with pytest.raises(ProtocolError):
        next(frames)


@pytest.mark.parametrize("kind", [HELLO, BYE])
def test_a_frame_that_has_no_payload_may_not_announce_one(kind: int) -> None:
    reader = StatusReader()
    read(reader, stream([] if kind == HELLO else [HELLO, READY]))
    with pytest.raises(ProtocolError, match=f"{FRAME_NAMES[kind]} has no payload, this announces 1 bytes"):
        read(reader, FRAME_HEAD.pack(MAGIC, VERSION, kind, 1))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (FRAME_HEAD.pack(b"gr", VERSION, HELLO, 0), "starts with b'gR' and version 1, not b'gr' and 1"),
        (FRAME_HEAD.pack(MAGIC, VERSION + 1, HELLO, 0), "starts with b'gR' and version 1, not b'gR' and 2"),
        (FRAME_HEAD.pack(MAGIC, VERSION, HELLO, MAX_FRAME_PAYLOAD + 1), "this announces 16385"),
        (FRAME_HEAD.pack(MAGIC, VERSION, HELLO, 2**32 - 1), "this announces 4294967295"),
    ],
)
def test_a_bad_head_is_refused_before_its_payload_came(head: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        read(StatusReader(), head)


def test_a_frame_may_be_as_long_as_the_longest() -> None:
    reader = StatusReader()
    read(reader, encode_frame(HELLO))
    payload = b"x" * MAX_FRAME_PAYLOAD
    assert [(READY, payload)] == read(reader, encode_frame(READY, payload))


@given(st.binary(max_size=200), st.sampled_from(sorted(WAYS)))
def test_garbage_is_a_protocol_error_or_not_a_frame_yet(garbage: bytes, last: int) -> None:
    reader = StatusReader()
    read(reader, stream(WAYS[last]))
    try:
        assert all(kind in FRAME_NAMES for kind, _ in read(reader, garbage))
    except ProtocolError:
        return


def test_a_reader_holds_at_most_one_frame_and_what_it_was_fed() -> None:
    reader = StatusReader()
    read(reader, encode_frame(HELLO) + encode_ready(Ready(0, 0, 0)))
    pair = encode_started(1) + encode_outcome(Outcome(1, "exit"))
    most = FRAME_HEAD.size + MAX_FRAME_PAYLOAD
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2_000):
            read(reader, pair)
            read(reader, pair[:5])
            read(reader, pair[5:])
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sys.getsizeof(reader._buffer) < most
    assert after - before < most
    assert peak - before < 4 * most


# -- OUTCOME, field by field -----------------------------------------------------------------------------------------

HEAD = struct.Struct("<QBBBxiQQQQQHH")


def outcome_bytes(reason: int = 0, trap: int = NO_TRAP, results: int = 0, detail: int = 0, tail: bytes = b"") -> bytes:
    return HEAD.pack(1, reason, trap, 0, 0, 0, 0, 0, 0, 0, results, detail) + tail


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "at least 60 bytes, this has 0"),
        (outcome_bytes()[:-1], "at least 60 bytes, this has 59"),
        (outcome_bytes(tail=b"x"), "announces 60 bytes and has 61"),
        (outcome_bytes(results=1), "announces 69 bytes and has 60"),
        (outcome_bytes(detail=2, tail=b"x"), "announces 62 bytes and has 61"),
        (outcome_bytes(results=2**16 - 1, detail=2**16 - 1), "and has 60"),
        (outcome_bytes(reason=len(REASONS)), f"reason is below {len(REASONS)}, this is {len(REASONS)}"),
        (
            outcome_bytes(trap=len(TRAP_CODES)),
            f"trap code is below {len(TRAP_CODES)} or 255, this is {len(TRAP_CODES)}",
        ),
        (outcome_bytes(trap=254), "or 255, this is 254"),
        (outcome_bytes(results=1, tail=struct.pack("<BQ", 4, 0)), "neither i32, i64, f32 nor f64"),
    ],
)
def test_a_wrong_outcome_is_told_for_what_is_wrong_with_it(payload: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_outcome(payload)


def test_a_detail_that_is_not_utf_8_is_replaced() -> None:
    assert "\N{REPLACEMENT CHARACTER}" == decode_outcome(outcome_bytes(detail=1, tail=b"\xff")).detail


@pytest.mark.parametrize("decode", [decode_ready, decode_started])
@pytest.mark.parametrize("payload", [b"", b"x" * 7, b"x" * 13])
def test_a_payload_of_the_wrong_length_is_refused(decode: object, payload: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"has (8|16) bytes, this has {len(payload)}"):
        decode(payload)  # type: ignore[operator]


@given(st.binary(max_size=120))
def test_decoders_raise_nothing_but_protocol_errors(payload: bytes) -> None:
    for decode in (decode_ready, decode_started, decode_outcome):
        try:
            decode(payload)
        except ProtocolError:
            continue


def test_names_and_codes_are_one_to_one() -> None:
    assert list(REASONS) == [reason for reason, _ in sorted(REASON_CODES.items(), key=lambda item: item[1])]
    assert (len(set(REASONS)), len(set(TRAP_CODES))) == (len(REASONS), len(TRAP_CODES))
    assert len(TRAP_CODES) < NO_TRAP
