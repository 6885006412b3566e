"""Control messages: what was sent comes out; anything else is a ProtocolError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.protocol.control import (
    COMPILE,
    JOB,
    LOAD,
    MAX_CONTROL_BYTES,
    SERVE,
    STOP,
    Job,
    Load,
    Serve,
    decode_compile,
    decode_job,
    decode_load,
    decode_serve,
    encode_compile,
    encode_job,
    encode_load,
    encode_serve,
    encode_stop,
)
from runner.protocol.strings import pack_strings, unpack_strings
from tests.runner.protocol_strategies import fields, jobs, serves, u8, u32, u64

HEAD = struct.Struct("<BQBBQQIQ")
EMPTY = pack_strings(())


def small_job(**changed: object) -> Job:
    return Job(1, **{"fuel": 1, "memory_bytes": 1, "wall_ms": 1, "output_bytes": 1, **changed})  # type: ignore[arg-type]


@given(jobs)
def test_a_job_comes_out_as_it_went_in(job: Job) -> None:
    assert fields(job) == fields(decode_job(encode_job(job)))


@given(u64, u32, u8)
def test_a_load_comes_out_as_it_went_in(memory_bytes: int, cpu_s: int, flags: int) -> None:
    load = Load(memory_bytes, cpu_s, flags)
    assert fields(load) == fields(decode_load(encode_load(load)))


@given(u64, u64)
def test_a_compile_comes_out_as_it_went_in(job_id: int, module_bytes: int) -> None:
    assert (job_id, module_bytes) == decode_compile(encode_compile(job_id, module_bytes))


def small_serve(**changed: object) -> Serve:
    fields = {"fuel": 1, "memory_bytes": 1, "wall_ms": 1, "output_bytes": 1, "record": 1, **changed}
    return Serve(0, **fields)  # type: ignore[arg-type]


@given(serves)
def test_a_service_comes_out_as_it_went_in(service: Serve) -> None:
    assert fields(service) == fields(decode_serve(encode_serve(service)))


@given(serves, st.data())
def test_a_service_that_is_cut_short_or_continued_is_refused(service: Serve, data: st.DataObject) -> None:
    message = encode_serve(service)
    cut = data.draw(st.integers(0, len(message) - 1))
    for broken in (message[:cut], message + b"x"):
        with pytest.raises(ProtocolError):
            decode_serve(broken)


def test_a_service_fits_a_message() -> None:
    with pytest.raises(ProtocolError):
        encode_serve(small_serve(args=(b"x" * MAX_CONTROL_BYTES,)))


@pytest.mark.parametrize(("block", "strings"), [(0, ()), (0, (b"a", b"b")), (1, ()), (1, (b"",)), (1, (b"", b"", b""))])
def test_a_service_has_one_export_and_two_signatures(block: int, strings: tuple[bytes, ...]) -> None:
    empty = encode_serve(small_serve())
    blocks = [(b"",), (b"", b""), (), (), ()]
    head = empty[: len(empty) - sum(len(pack_strings(each)) for each in blocks)]
    blocks[block] = strings
    with pytest.raises(ProtocolError):
        decode_serve(head + b"".join(pack_strings(each) for each in blocks))


def test_each_message_begins_with_a_kind_of_its_own() -> None:
    messages = [encode_load(Load(1, 1)), encode_job(small_job()), encode_compile(1, 1), encode_stop()]
    messages.append(encode_serve(small_serve()))
    assert [LOAD, JOB, COMPILE, STOP, SERVE] == [message[0] for message in messages]
    assert len({LOAD, JOB, COMPILE, STOP, SERVE}) == 5


def test_the_biggest_job_of_the_contract_fits_a_message() -> None:
    # CONTRACT: args and env to 256 each, 128 KiB together; 64 parameters; 16 mounts with paths to 256.
    job = small_job(
        args=(b"x" * 256,) * 256,
        env=(b"y" * 256,) * 256,
        params=((0, 0),) * 64,
        preopens=((b"p" * 256, b"g" * 256, True),) * 16,
    )
    assert fields(job) == fields(decode_job(encode_job(job)))


def test_a_job_that_fits_no_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match=f"at most {MAX_CONTROL_BYTES} bytes, this has"):
        encode_job(small_job(args=(b"x" * MAX_CONTROL_BYTES,)))


@pytest.mark.parametrize("preopen", [(b"a\0b", b"c", True), (b"a", b"b\0c", True)])
def test_a_path_with_a_nul_is_refused(preopen: tuple[bytes, bytes, bool]) -> None:
    with pytest.raises(ProtocolError, match="a path holds no NUL"):
        encode_job(small_job(preopens=(preopen,)))


def test_a_job_cut_short_anywhere_is_refused() -> None:
    message = encode_job(
        small_job(args=(b"one", b"two"), env=(b"A=b",), params=((1, 2),), preopens=((b"p", b"g", False),))
    )
    for end in range(len(message)):
        with pytest.raises(ProtocolError):
            decode_job(message[:end])


def job_bytes(*blocks: bytes, tail: bytes = b"") -> bytes:
    return HEAD.pack(JOB, 1, 0, 0, 1, 1, 1, 1) + b"".join(blocks) + tail


ONE = pack_strings((b"_start",))


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (b"", "JOB has at least 39 bytes, this has 0"),
        (job_bytes(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY), "JOB has one export"),
        (job_bytes(pack_strings((b"a", b"b")), EMPTY, EMPTY, EMPTY, EMPTY), "JOB has one export"),
        (job_bytes(ONE, EMPTY, EMPTY, EMPTY, EMPTY, tail=b"x"), "nothing after its preopens"),
        (job_bytes(ONE, pack_strings((b"12345678",)), EMPTY, EMPTY, EMPTY), "a parameter has 9 bytes, this has 8"),
        (job_bytes(ONE, EMPTY, EMPTY, EMPTY, pack_strings((b"2a\0b",))), "a binding is"),
        (job_bytes(ONE, EMPTY, EMPTY, EMPTY, pack_strings((b"1ab",))), "a binding is"),
        (job_bytes(ONE, EMPTY, EMPTY, EMPTY, pack_strings((b"1a\0b\0c",))), "a binding is"),
        (job_bytes(ONE, EMPTY, EMPTY, EMPTY, pack_strings((b"",))), "a binding is"),
        (job_bytes(ONE, EMPTY, EMPTY, EMPTY), "a list of strings is cut short"),
        (job_bytes(struct.pack("<I", 2**32 - 1)), "a list of strings is cut short"),
        (job_bytes(struct.pack("<II", 1, 2**32 - 1)), "a string runs past its message's end"),
    ],
)
def test_a_wrong_job_is_told_for_what_is_wrong_with_it(message: bytes, wrong: str) -> None:
    with pytest.raises(ProtocolError, match=wrong):
        decode_job(message)


@given(st.binary(max_size=300))
def test_decoders_raise_nothing_but_protocol_errors(message: bytes) -> None:
    for decode in (decode_job, decode_load, decode_compile):
        try:
            decode(message)
        except ProtocolError:
            continue


@given(st.lists(st.binary(max_size=30), max_size=20), st.binary(max_size=9))
def test_counted_strings_come_out_as_they_went_in(strings: list[bytes], before: bytes) -> None:
    packed = pack_strings(strings)
    assert (tuple(strings), len(before) + len(packed)) == unpack_strings(before + packed + b"after", len(before))
