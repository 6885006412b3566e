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


def unpack_head(layout: struct.Struct, data: bytes, name: str) -> tuple[int, ...]:
    """The fields that a message begins with.

    Raises:
        ProtocolError: it is shorter than they are.
    """
    if len(data) < layout.size:
        raise ProtocolError(f"{name} has at least {layout.size} bytes, this has {len(data)}")
    return layout.unpack_from(data)


def pack_strings(strings: Iterable[bytes]) -> bytes:
    counted = [(_COUNT.pack(len(s)), s) for s in strings]
    return _COUNT.pack(len(counted)) + b"".join([part for pair in counted for part in pair])


def pack_binding(binding: tuple[bytes, bytes, bool]) -> bytes:
    """Two paths and whether they are read-only, as one string."""
    first, second, read_only = binding
    if b"\0" in first or b"\0" in second:
        raise ProtocolError("a path holds no NUL")
    return b"%d%s\0%s" % (read_only, first, second)


def unpack_binding(line: bytes) -> tuple[bytes, bytes, bool]:
    first, nul, second = line[1:].partition(b"\0")
    if line[:1] not in (b"0", b"1") or not nul or b"\0" in second:
        raise ProtocolError("a binding is 0 or 1, a path, NUL, a path")
    return first, second, line[:1] == b"1"


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
