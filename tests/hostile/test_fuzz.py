"""Bytes made by chance: bounded here, longer by `make fuzz`. Each property holds for whatever bytes there are.

The admission parser gets modules that were changed byte by byte and section by section; the codecs get messages that
were, and what a hostile runner, fetcher or API worker could send.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.module_caps import Caps
from runner.protocol import call, control, spawn, status
from tests.hostile import fuzzing
from tests.hostile.fuzzing import OPERATIONS, mutate
from tests.runner.protocol_strategies import answers, jobs, outcomes, serves, spawns, u8, u32, u64, variables
from tests.shared.test_channel_codec import _COMMANDS, _REPLIES
from worker.api.problems import Problem
from worker.api.wagi import Wagi
from worker.coordinator import fetch_wire
from worker.errors import ChannelError, FetchError
from worker.shared import channel_codec

# A module takes what it takes.
calm = settings(suppress_health_check=list(HealthCheck))
rare = settings(calm, max_examples=max(10, settings().max_examples // 20))

offsets = st.integers(0, 2**20)
changes = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), offsets, st.integers(0, 2**16), st.binary(max_size=12)),
    min_size=1,
    max_size=6,
)
MEMORY_BYTES = 4 << 20


@calm
@given(st.sampled_from(fuzzing.seeds()), changes)
def test_a_changed_module_is_admitted_or_refused_as_wasmtime_would(seed: bytes, changes: list[fuzzing.Change]) -> None:
    fuzzing.check(mutate(seed, changes))


@calm
@given(st.binary(max_size=300))
def test_any_bytes_behind_the_magic_are_admitted_or_refused(data: bytes) -> None:
    fuzzing.check(b"\0asm\1\0\0\0" + data)


@rare
@given(changes)
def test_a_changed_real_program_is_admitted_or_refused(changes: list[fuzzing.Change]) -> None:
    fuzzing.check(mutate(fuzzing.real_program(), changes))


@rare
@given(st.sampled_from(fuzzing.seeds()), changes)
def test_admission_takes_no_memory_to_speak_of(seed: bytes, changes: list[fuzzing.Change]) -> None:
    data = mutate(seed, changes)
    tracemalloc.start()
    try:
        fuzzing.check(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MEMORY_BYTES


@pytest.mark.parametrize("seed", fuzzing.seeds(), ids=str)
def test_the_seeds_themselves_are_admitted(seed: bytes) -> None:
    assert "" == fuzzing.check(seed)


def test_the_real_program_is_admitted() -> None:
    assert "" == fuzzing.check(fuzzing.real_program())


# -- codecs ------------------------------------------------------------------------------------------------------------


def survives(decode: Callable[[bytes], object], data: bytes, *errors: type[Exception]) -> None:
    with contextlib.suppress(*errors):
        decode(data)


conversation = st.lists(
    st.one_of(
        st.sampled_from([status.encode_frame(status.HELLO), status.encode_frame(status.BYE)]),
        st.builds(status.Ready, u32, u64, u32).map(status.encode_ready),
        u64.map(status.encode_started),
        outcomes.map(status.encode_outcome),
    ),
    max_size=8,
).map(b"".join)


def read_status(data: bytes) -> None:
    reader = status.StatusReader()
    decoders = {
        status.READY: status.decode_ready,
        status.STARTED: status.decode_started,
        status.OUTCOME: status.decode_outcome,
    }
    for at in range(0, len(data), 7):
        for frame in reader.feed(data[at : at + 7]):
            decoders.get(frame.kind, bytes)(frame.payload)


@calm
@given(conversation, changes)
def test_changed_frames_are_frames_or_break_the_protocol(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(read_status, mutate(data, changes), ProtocolError)


@calm
@given(jobs.map(control.encode_job), changes)
def test_a_changed_job_is_one_or_breaks_the_protocol(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(control.decode_job, mutate(data, changes), ProtocolError)


@calm
@given(st.builds(control.Load, u64, u32, u8).map(control.encode_load), changes)
def test_a_changed_load_is_one_or_breaks_the_protocol(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(control.decode_load, mutate(data, changes), ProtocolError)


@calm
@given(st.builds(control.encode_compile, u64, u64), changes)
def test_a_changed_compile_is_one_or_breaks_the_protocol(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(control.decode_compile, mutate(data, changes), ProtocolError)


@calm
@given(serves.map(control.encode_serve), changes)
def test_a_changed_service_is_one_or_breaks_the_protocol(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(control.decode_serve, mutate(data, changes), ProtocolError)


def read_call(data: bytes) -> None:
    """As a runner does: the head first, then as much as that says."""
    if len(data) >= call.CALL_HEAD.size and call.call_length(data) == len(data):
        call.decode_call(data)


def read_answer(data: bytes) -> None:
    """As an API worker does."""
    if len(data) >= call.ANSWER_HEAD.size and call.answer_length(data, 1 << 20) == len(data):
        call.decode_answer(data)


calls = st.builds(
    lambda body, block, fuel: call.encode_call(body, block, fuel=fuel, wall_ms=1, sent_us=1),
    st.binary(max_size=100),
    variables,
    u64,
)


@calm
@given(calls, answers.map(call.encode_answer), changes)
def test_a_changed_call_or_answer_is_one_or_breaks_the_protocol(
    asked: bytes, answered: bytes, changes: list[fuzzing.Change]
) -> None:
    for reader, data in ((read_call, asked), (read_answer, answered)):
        changed = mutate(data, changes)
        survives(reader, changed, ProtocolError)
        # And with the length that it has, so that what comes after that is looked at too.
        whole = changed[:4] + len(changed).to_bytes(4, "little") + changed[8:]
        survives(reader, whole, ProtocolError)


@calm
@given(spawns.map(spawn.encode_spawn), changes)
def test_a_changed_spawn_is_one_or_breaks_the_protocol(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(spawn.decode_spawn, mutate(data, changes), ProtocolError)
    survives(spawn.decode_spawned, mutate(data, changes), ProtocolError)


@calm
@given(u64, _COMMANDS | _REPLIES, changes)
def test_a_changed_command_is_one_or_breaks_the_channel(
    number: int, message: object, changes: list[fuzzing.Change]
) -> None:
    data = mutate(channel_codec.encode(number, message), changes)  # type: ignore[arg-type]
    survives(channel_codec.decode_command, data, ChannelError)
    survives(channel_codec.decode_reply, data, ChannelError)


HEADS = (
    b"Content-Type: text/plain\n\nhello",
    b"Status: 302 Found\r\nLocation: /a\r\nConnection: x-own, close\r\nX-Own: 1\r\n\r\n",
    b"Set-Cookie: a=b; Path=/\nSet-Cookie: c=d\nContent-Length: 5\nX-Accel-Redirect: /\n\nbody",
)
# What must not reach a client whatever a guest says; and what no line of a header may have.
KEPT_BACK = frozenset((b"content-length", b"transfer-encoding", b"connection", b"x-accel-redirect"))


def read_page(data: bytes) -> None:
    status_code, fields, _ = Wagi.response(call.Answer("exit", data))
    assert 200 <= status_code <= 599
    assert [] == [name for name, value in fields if name in KEPT_BACK or set(name + value) & {0, 10, 13}]


@calm
@given(st.sampled_from(HEADS), changes)
def test_a_changed_page_of_a_guest_is_one_or_a_bad_answer(data: bytes, changes: list[fuzzing.Change]) -> None:
    survives(read_page, mutate(data, changes), Problem)


ANSWERS = (
    b'{"code":"internal","detail":"x"}\n',
    b'{"digest":"sha256:0","imports":[{"name":"f","kind":"func","module":"m","params":["i32"]}],"exports":[]}\n',
)


@calm
@given(st.sampled_from(ANSWERS), changes)
def test_a_changed_answer_of_a_fetcher_is_one_or_none(data: bytes, changes: list[fuzzing.Change]) -> None:
    request = fetch_wire.FetchRequest("http://a.example/", None, 100, 1.0, Caps())
    survives(lambda data: fetch_wire.decode_answer(data, request), mutate(data, changes), FetchError)
