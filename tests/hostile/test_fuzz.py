"""Bytes made by chance: bounded here, longer by `make fuzz`. Each property holds for whatever bytes there are.

The admission parser gets modules that were changed byte by byte and section by section; the codecs get messages that
were, and what a hostile runner, fetcher or API worker could send.
"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.protocol import call, control, spawn, status
from tests.hostile import fuzzing
from tests.hostile.fuzzed_codecs import DECODERS
from tests.hostile.fuzzing import OPERATIONS, mutate
from tests.runner.protocol_strategies import answers, jobs, outcomes, serves, spawns, u8, u32, u64, variables
from tests.shared.test_channel_codec import _COMMANDS, _REPLIES
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


conversation = st.lists(
    st.one_of(
        st.sampled_from([status.encode_frame(status.HELLO), status.encode_frame(status.BYE)]),
        st.builds(status.Ready, u32, u64, u32).map(status.encode_ready),
        u64.map(status.encode_started),
        outcomes.map(status.encode_outcome),
    ),
    max_size=8,
).map(b"".join)


calls = st.builds(
    lambda body, block, fuel: call.encode_call(body, block, fuel=fuel, wall_ms=1, sent_us=1),
    st.binary(max_size=100),
    variables,
    u64,
)
called = calls | answers.map(call.encode_answer)
spoken = st.tuples(u64, _COMMANDS | _REPLIES).map(lambda spoken: channel_codec.encode(*spoken))
asked = spawns.map(spawn.encode_spawn)
PAGES = (
    b"Content-Type: text/plain\n\nhello",
    b"Status: 302 Found\r\nLocation: /a\r\nConnection: x-own, close\r\nX-Own: 1\r\n\r\n",
    b"Set-Cookie: a=b; Path=/\nSet-Cookie: c=d\nContent-Length: 5\nX-Accel-Redirect: /\n\nbody",
)
FETCHED = (
    b'{"code":"internal","detail":"x"}\n',
    b'{"digest":"sha256:0","imports":[{"name":"f","kind":"func","module":"m","params":["i32"]}],"exports":[]}\n',
)
# By the decoder's name: whole messages, to be changed.
MESSAGES = {
    "status": conversation,
    "load": st.builds(control.Load, u64, u32, u8).map(control.encode_load),
    "job": jobs.map(control.encode_job),
    "serve": serves.map(control.encode_serve),
    "compile": st.builds(control.encode_compile, u64, u64),
    **dict.fromkeys(("call", "whole call", "answer", "whole answer"), called),
    **dict.fromkeys(("spawn", "spawned"), asked),
    **dict.fromkeys(("command", "reply"), spoken),
    "page": st.sampled_from(PAGES),
    "fetched": st.sampled_from(FETCHED),
}


@pytest.mark.parametrize("name", DECODERS)
@calm
@given(st.data(), changes)
def test_a_changed_message_is_one_or_is_refused_as_none(
    name: str, data: st.DataObject, changes: list[fuzzing.Change]
) -> None:
    DECODERS[name](mutate(data.draw(MESSAGES[name]), changes))


@pytest.mark.parametrize("name", DECODERS)
@calm
@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_are_refused_as_none(name: str, data: bytes) -> None:
    DECODERS[name](data)
