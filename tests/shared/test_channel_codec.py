"""The codec: what is encoded is decoded again, and no bytes raise anything but ChannelError."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.commands import (
    AddModule,
    AddTask,
    DeleteModule,
    Done,
    Idempotency,
    ReadStats,
    Refused,
    StopTask,
    WatchTask,
)
from worker.core.module import Extern, Module
from worker.core.task import Entry, Kind, Mount, TaskSpec
from worker.errors import ChannelError
from worker.shared.channel_codec import MAX_MESSAGE_BYTES, VERSION, decode_command, decode_reply, encode

_TEXT = st.text(max_size=20)
_U63 = st.integers(0, 2**63 - 1)
_U64 = st.integers(0, 2**64 - 1)

_SPEC = TaskSpec(
    Kind.JOB,
    "n",
    None,
    entry=Entry("add", (("i64", 2**64 - 1),), b"[-1]"),
    env=(("A", "b"),),
    mounts=(Mount("v", "/g"),),
)
_COMMANDS = st.one_of(
    st.builds(
        AddTask,
        task_id=_TEXT,
        token=_TEXT,
        spec=st.just(_SPEC),
        stdin_name=_TEXT,
        idempotency=st.none() | st.builds(Idempotency, key=_TEXT, body_sha256=_TEXT),
        expires_at_us=_U63,
    ),
    st.builds(StopTask, task_id=_TEXT, force=st.booleans(), expires_at_us=_U63),
    st.builds(
        AddModule,
        module=st.just(Module("d", 1, (Extern("f", "func", "m", ("i32",)),), (), 2)),
        blob_name=_TEXT,
        token=_TEXT,
        expires_at_us=_U63,
    ),
    st.builds(DeleteModule, digest=_TEXT, expires_at_us=_U63),
    st.builds(WatchTask, task_id=_TEXT, until_us=_U63, expires_at_us=_U63),
    st.builds(ReadStats, expires_at_us=_U63),
)
_REPLIES = st.one_of(
    st.builds(Done, created=st.booleans(), task_id=_TEXT, body=st.binary(max_size=50)),
    st.builds(Refused, code=_TEXT, detail=_TEXT, field=st.none() | _TEXT),
)


@given(_U64, _COMMANDS)
def test_a_command_survives(request_id: int, command) -> None:
    assert (request_id, command) == decode_command(encode(request_id, command))


@given(_U64, _REPLIES)
def test_a_reply_survives(request_id: int, reply) -> None:
    assert (request_id, reply) == decode_reply(encode(request_id, reply))


@given(st.binary(max_size=200))
def test_garbage_raises_channel_error_alone(data: bytes) -> None:
    for decode in (decode_command, decode_reply):
        with pytest.raises(ChannelError):
            decode(data)


_JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _TEXT | st.binary(max_size=9) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.sampled_from(["AddTask", "StopTask", "AddModule", "DeleteModule", "WatchTask", "ReadStats", "Done", "Nobody"]),
    _U64,
    _JSONISH,
)
def test_a_well_formed_body_of_the_wrong_shape_raises_channel_error_alone(tag, request_id, body) -> None:
    message = msgspec.msgpack.encode((VERSION, tag, request_id, body))
    try:
        decode_command(message)
    except ChannelError:
        return


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x94\x01\xa8StopTask\x01" + b"\x91" * 100_000, id="nested without end"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="four billion items"),
        pytest.param(
            b"\x94\x01\xa7AddTask\x01\x81\xa4spec\x81\xa4args\xdd\xff\xff\xff\xff", id="four billion arguments"
        ),
        pytest.param(msgspec.msgpack.encode((VERSION + 1, "ReadStats", 1, {})), id="another version"),
        pytest.param(msgspec.msgpack.encode((VERSION, "Done", 1, {})), id="a reply for a command"),
        pytest.param(msgspec.msgpack.encode((VERSION, "ReadStats", -1, {})), id="a negative request id"),
        pytest.param(msgspec.msgpack.encode((VERSION, "ReadStats", 1)), id="no body"),
        pytest.param(msgspec.msgpack.encode((VERSION, "ReadStats", 1, {}, 5)), id="one more part"),
        pytest.param(encode(1, ReadStats()) + b"\0", id="one more byte"),
        pytest.param(b"\0" * (MAX_MESSAGE_BYTES + 1), id="too long"),
    ],
)
def test_what_is_no_command_is_refused(message: bytes) -> None:
    with pytest.raises(ChannelError):
        decode_command(message)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Done(body=b"x" * MAX_MESSAGE_BYTES), id="too long"),
        pytest.param(StopTask("\ud800"), id="text that is no text"),
        pytest.param(StopTask("t", expires_at_us=2**64), id="a number too large"),
    ],
)
def test_what_cant_be_said_is_refused_before_it_is_sent(message) -> None:
    with pytest.raises(ChannelError):
        encode(1, message)


def test_the_longest_message_passes() -> None:
    room = MAX_MESSAGE_BYTES - len(encode(1, Done(body=b"x" * 70_000))) + 70_000
    data = encode(1, Done(body=b"x" * room))
    assert MAX_MESSAGE_BYTES == len(data)
    assert (1, Done(body=b"x" * room)) == decode_reply(data)


def test_an_older_peers_missing_field_takes_its_default_and_a_newer_ones_is_passed_over() -> None:
    message = msgspec.msgpack.encode((VERSION, "StopTask", 1, {"task_id": "t", "newer": 5}))
    assert (1, StopTask("t")) == decode_command(message)
