"""Counted strings and checked structs, shared by the three conversations."""

from __future__ import annotations

import struct

from runner.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Iterable

_COUNT = struct.Struct("<I")


def unpack(layout: struct.Struct, data: bytes, name: str) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise ProtocolError(f"{name} has {layout.size} bytes, this has {len(data)}")
    return layout.unpack(data)


def pack_strings(strings: Iterable[bytes]) -> bytes:
    counted = [(_COUNT.pack(len(s)), s) for s in strings]
    return _COUNT.pack(len(counted)) + b"".join([part for pair in counted for part in pair])


def unpack_strings(data: bytes, position: int) -> tuple[tuple[bytes, ...], int]:
    try:
        (count,) = _COUNT.unpack_from(data, position)
        position += _COUNT.size
        strings = []
        for _ in range(count):
            (length,) = _COUNT.unpack_from(data, position)
            position += _COUNT.size
            if position + length > len(data):
                raise ProtocolError("a string runs past its message's end")
            strings.append(data[position : position + length])
            position += length
    except struct.error as exc:
        raise ProtocolError("a list of strings is cut short") from exc
    return tuple(strings), position
