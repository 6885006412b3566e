"""Wasm modules written byte by byte, right or wrong: what the admission tests feed to the parser."""

from __future__ import annotations

from collections.abc import Iterable

HEADER = b"\0asm\1\0\0\0"
VALUES = {"i32": 0x7F, "i64": 0x7E, "f32": 0x7D, "f64": 0x7C, "v128": 0x7B, "funcref": 0x70, "externref": 0x6F}


def leb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def vector(items: Iterable[bytes]) -> bytes:
    items = list(items)
    return leb(len(items)) + b"".join(items)


def name(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return leb(len(raw)) + raw


def section(number: int, body: bytes) -> bytes:
    return bytes((number,)) + leb(len(body)) + body


def types(names: Iterable[str]) -> bytes:
    return vector(bytes((VALUES[name],)) for name in names)


def func_type(params: Iterable[str] = (), results: Iterable[str] = ()) -> bytes:
    return b"\x60" + types(params) + types(results)


def func_import(module: str, item: str, type_index: int = 0) -> bytes:
    return name(module) + name(item) + b"\0" + leb(type_index)


def export(item: str | bytes, kind: int = 0, index: int = 0) -> bytes:
    return name(item) + bytes((kind,)) + leb(index)


def body(local_groups: bytes = b"\0", code: bytes = b"\x00\x0b") -> bytes:
    """A function body; the default is `unreachable`, which has every type."""
    return name(local_groups + code)


def module(*sections: bytes) -> bytes:
    return HEADER + b"".join(sections)


def functions(count: int, one: bytes | None = None) -> tuple[bytes, bytes, bytes]:
    """Type, function and code sections of `count` functions without parameters, all alike."""
    types_, declared = section(1, vector([func_type()])), section(3, leb(count) + bytes(count))
    return types_, declared, section(10, leb(count) + (body() if one is None else one) * count)
