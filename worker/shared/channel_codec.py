"""**Commands**, between an API worker and the coordinator, SOCK_SEQPACKET, one message each, MessagePack.

message = [VERSION, tag, request id, body]     at most MAX_MESSAGE_BYTES

tag         the dataclass's name: one of Command's towards the coordinator, one of Reply's back
request id  chosen by the asker, given back with the one reply; 0 to 2**64 - 1
body        the dataclass as a map of its fields; a missing field takes its default, an unknown one is passed over

Bytes in, dataclasses out; no socket is touched here.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec

from worker.core.commands import Command, Reply
from worker.errors import ChannelError

VERSION = 1
# The longest command has 128 KiB of arguments and environment.
MAX_MESSAGE_BYTES = 256 * 1024
# SO_SNDBUF of both ends. The kernel doubles it, and grants an ordinary user this much (net.core.wmem_max): 416 KiB, in
# which the longest message fits.
SEND_BUFFER_BYTES = 212_992

_encode = msgspec.msgpack.Encoder().encode
_decode_envelope = msgspec.msgpack.Decoder(tuple[int, str, Annotated[int, msgspec.Meta(ge=0)], msgspec.Raw]).decode
_COMMANDS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind) for kind in get_args(Command)
}
_REPLIES: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind.__name__: msgspec.msgpack.Decoder(kind) for kind in get_args(Reply)
}


def encode(request_id: int, message: Command | Reply) -> bytes:
    """Raises: ChannelError: the message is too long, or holds what MessagePack can't say."""
    try:
        data = _encode((VERSION, type(message).__name__, request_id, message))
    except (OverflowError, UnicodeEncodeError, TypeError) as exc:
        raise ChannelError(f"a {type(message).__name__} can't be encoded: {exc}") from exc
    if len(data) > MAX_MESSAGE_BYTES:
        name = type(message).__name__
        raise ChannelError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, this {name} has {len(data)}")
    return data


def decode_command(data: bytes | bytearray | memoryview) -> tuple[int, Command]:
    """(request id, command). Raises: ChannelError: anything else than a command."""
    request_id, command = _decode(data, _COMMANDS)
    return request_id, command


def decode_reply(data: bytes | bytearray | memoryview) -> tuple[int, Reply]:
    """(request id, reply). Raises: ChannelError: anything else than a reply."""
    request_id, reply = _decode(data, _REPLIES)
    return request_id, reply


def _decode(data: bytes | bytearray | memoryview, decoders: dict[str, msgspec.msgpack.Decoder[Any]]) -> tuple[int, Any]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise ChannelError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, this has {len(data)}")
    try:
        version, tag, request_id, body = _decode_envelope(data)
        if version != VERSION:
            raise ChannelError(f"a message has version {VERSION}, this has {version}")
        decoder = decoders.get(tag)
        if decoder is None:
            raise ChannelError(f"a message is one of {', '.join(decoders)}, this is {tag[:100]!r}")
        return request_id, decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, MemoryError, ValueError) as exc:
        raise ChannelError(f"not a message: {str(exc)[:200]}") from exc
