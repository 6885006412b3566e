"""The table's blobs: a spec, a status and a module's interface as MessagePack, and back.

A field that holds its default is left out where that is nothing (None, False, "", no items): a finished task takes
300 bytes instead of 700. Figures are always written, even where they are the default of today: a later default must
not change what an old task was allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, get_args

import msgspec

from worker.core.module import Extern, Module
from worker.core.task import (
    Entry,
    Handler,
    Limits,
    Reuse,
    RunnerInfo,
    Scale,
    Service,
    Status,
    TaskSpec,
    Usage,
)

_Record = TaskSpec | Status | Entry | Limits | RunnerInfo | Usage | Extern | Service | Handler | Scale | Reuse
# Fields that hold a record of their own.
_NESTED = ("entry", "limits", "usage", "runner", "service", "handler", "scale", "reuse")
_ALWAYS = object()  # equal to no value


def _left_out(default: object) -> object:
    """The value that isn't written: a field's default, if that is nothing."""
    return default if any(default is nothing for nothing in (None, False, "", ())) else _ALWAYS


# For each class: its fields' names, all their values with one call, and what is left out.
_FIELDS: dict[type, tuple[tuple[str, ...], Callable[[object], tuple[object, ...]], tuple[object, ...]]] = {
    kind: (
        tuple(field.name for field in fields(kind)),
        attrgetter(*(field.name for field in fields(kind))),
        tuple(_left_out(field.default) for field in fields(kind)),
    )
    for kind in get_args(_Record)
}

_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(TaskSpec).decode
_decode_status = msgspec.msgpack.Decoder(Status).decode
_decode_interface = msgspec.msgpack.Decoder(tuple[tuple[Extern, ...], tuple[Extern, ...]]).decode


def _compact(record: _Record) -> dict[str, Any]:
    names, values_of, left_out = _FIELDS[type(record)]
    values = values_of(record)
    compact: dict[str, Any] = {
        name: value for name, value, nothing in zip(names, values, left_out, strict=True) if value != nothing
    }
    for name in _NESTED:
        if name in compact:
            compact[name] = _compact(compact[name])
    return compact


def pack_spec(spec: TaskSpec) -> bytes:
    return _encode(_compact(spec))


def unpack_spec(blob: bytes) -> TaskSpec:
    return _decode_spec(blob)


def pack_status(status: Status) -> bytes:
    return _encode(_compact(status))


def unpack_status(blob: bytes) -> Status:
    return _decode_status(blob)


def pack_interface(module: Module) -> bytes:
    imports = [_compact(extern) for extern in module.imports]
    return _encode((imports, [_compact(extern) for extern in module.exports]))


def unpack_interface(blob: bytes) -> tuple[tuple[Extern, ...], tuple[Extern, ...]]:
    """(imports, exports)."""
    return _decode_interface(blob)
