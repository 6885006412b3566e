"""Spawn messages: what was sent comes out; anything else is a ProtocolError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.protocol import (
    MAX_DETAIL_BYTES,
    PROFILE_COMPILER,
    PROFILE_FILES,
    PROFILE_FILES_SERVER,
    PROFILE_NAMES,
    PROFILE_RUNNER,
    PROFILE_SERVER,
)
from runner.protocol.spawn import (
    BEAT,
    SPAWN,
    SPAWNED,
    Spawn,
    Spawned,
    decode_spawn,
    decode_spawned,
    encode_spawn,
    encode_spawned,
)
from runner.protocol.strings import pack_strings
from tests.runner.protocol_strategies import details, fields, i32, spawns, u8, u64

HEAD = struct.Struct("<BQBIIH")


@given(spawns)
def test_a_spawn_comes_out_as_it_went_in(spawn: Spawn) -> None:
    message = encode_spawn(spawn)
    assert SPAWN == message[0]
    assert fields(spawn) == fields(decode_spawn(message))


@given(u64, i32, i32, details)
def test_a_spawned_comes_out_as_it_went_in(request_id: int, pid: int, errno: int, step: str) -> None:
    message = encode_spawned(Spawned(request_id, pid, errno, step))
    assert SPAWNED == message[0]
    assert fields(Spawned(request_id, pid, errno, step)) == fields(decode_spawned(message))


def test_a_steps_name_is_cut() -> None:
    spawned = decode_spawned(encode_spawned(Spawned(1, 0, 11, "x" * 2 * MAX_DETAIL_BYTES)))
    assert "x" * MAX_DETAIL_BYTES == spawned.step


def test_the_kinds_and_the_profiles_are_told_apart() -> None:
    assert len({SPAWN, SPAWNED, BEAT}) == 3
    profiles = {PROFILE_RUNNER, PROFILE_FILES, PROFILE_COMPILER, PROFILE_SERVER, PROFILE_FILES_SERVER}
    assert profiles == set(PROFILE_NAMES)


def test_a_spawn_cut_short_anywhere_is_refused() -> None:
    message = encode_spawn(Spawn(1, PROFILE_FILES, 60_000, 60_000, ((b"corpus", b"in", True), (b"out", b".", False))))
    for end in range(len(message)):
        with pytest.raises(ProtocolError):
            decode_spawn(message[:end])


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (b"", "SPAWN has at least 20 bytes, this has 0"),
        (HEAD.pack(SPAWN, 1, 0, 0, 0, 1) + pack_strings(()), "announces 1 mounts and has 0"),
        (HEAD.pack(SPAWN, 1, 0, 0, 0, 0) + pack_strings(()) + b"x", "nothing after them"),
        (HEAD.pack(SPAWN, 1, 0, 0, 0, 1) + pack_strings((b"ro",)), "a binding is"),
    ],
)
def test_a_wrong_spawn_is_told_for_what_is_wrong_with_it(message: bytes, wrong: str) -> None:
    with pytest.raises(ProtocolError, match=wrong):
        decode_spawn(message)


def test_a_spawned_cut_short_is_refused() -> None:
    with pytest.raises(ProtocolError, match="SPAWNED has at least 17 bytes, this has 16"):
        decode_spawned(encode_spawned(Spawned(1, 2))[:16])


@given(st.binary(max_size=200))
def test_decoders_raise_nothing_but_protocol_errors(message: bytes) -> None:
    for decode in (decode_spawn, decode_spawned):
        try:
            decode(message)
        except ProtocolError:
            continue


@given(spawns, st.data())
def test_a_damaged_spawn_is_a_protocol_error_or_another_spawn(spawn: Spawn, data: st.DataObject) -> None:
    message = bytearray(encode_spawn(spawn))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(u8)
    try:
        decode_spawn(bytes(message))
    except ProtocolError:
        return
