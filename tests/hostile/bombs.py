"""Modules that pass static admission, or just don't, and cost as much as they can afterwards: byte by byte."""

from __future__ import annotations

from tests.runner import wasm_bytes as w

BLOCK, LOOP, IF, END, BR_TABLE = b"\x02\x40", b"\x03\x40", b"\x41\0\x04\x40", b"\x0b", b"\x0e"
ZERO, DROP = b"\x41\0", b"\x1a"  # i32.const 0, drop
ONE_PAGE = w.section(5, b"\1\0\1")
ENTRY = w.section(7, w.vector([w.export("_start")]))
# What CPython's module of 26 MB has, and how large its functions and data segments are on the average, roughly.
CPYTHON_FUNCTIONS, CPYTHON_SEGMENTS = 11_448, 24_171


def command(*code: bytes, before: bytes = b"", between: bytes = b"", after: bytes = b"", local: bytes = b"\0") -> bytes:
    """A module whose `_start` is `code`; sections `before` the exports, `between` them and the code, and `after` it."""
    types, declared, bodies = w.functions(1, w.body(local, b"".join(code) + END))
    return w.module(types, declared, before, ENTRY, between, bodies, after)


def many(count: int, one: bytes | None = None, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A command of `count` functions, all alike; without `one` they are empty. `_start` is the first."""
    types, declared, bodies = w.functions(count, w.body(code=END) if one is None else one)
    return w.module(types, declared, before, ENTRY, bodies, after)


def locals_of(count: int) -> bytes:
    """An empty body with so many locals."""
    return w.body(b"\1" + w.leb(count) + b"\x7f", END)


def nested(opening: bytes, depth: int) -> bytes:
    return command(opening * depth, END * depth)


def branches(targets: int) -> bytes:
    """One br_table, with so many targets, all of them its one block's end."""
    return command(BLOCK, ZERO, BR_TABLE, w.leb(targets), bytes(targets), b"\0", END)


def branches_outwards(depth: int, tables: int) -> bytes:
    """Blocks within blocks, and in the innermost br_tables that name every one of them."""
    table = BLOCK + ZERO + BR_TABLE + w.leb(depth) + b"".join(w.leb(one) for one in range(depth)) + b"\0" + END
    return command(BLOCK * depth, table * tables, END * depth)


def straight(statements: int) -> bytes:
    """So many times `i32.const 0, drop`."""
    return command((ZERO + DROP) * statements)


def segments(count: int, size: int = 0, address: bytes = ZERO) -> bytes:
    """The data section with so many segments of `size` bytes at an address."""
    one = b"\0" + address + END + w.leb(size) + b"x" * size
    return w.section(11, w.leb(count) + one * count)


def elements(count: int, table: int) -> bytes:
    """A command with a table, and one element segment that puts its one function there so often."""
    filled = w.section(9, b"\1\0" + ZERO + END + w.leb(count) + bytes(count))
    return command(before=w.section(4, b"\1\x70\0" + w.leb(table)), between=filled)


def recursive_types(count: int) -> bytes:
    """A command after one group of struct types, each of which refers to the next one and the last to the first."""
    structs = [b"\x5f\1\x63" + signed((index + 1) % count) + b"\1" for index in range(count)]
    types = w.section(1, b"\2\x4e" + w.vector(structs) + w.func_type())
    declared = w.section(3, b"\1" + w.leb(count))
    return w.module(types, declared, ENTRY, w.section(10, w.vector([w.body(code=END)])))


def signed(value: int) -> bytes:
    """A number that isn't negative, as signed LEB128."""
    raw = bytearray(w.leb(value))
    if raw[-1] & 0x40:
        raw[-1] |= 0x80
        raw.append(0)
    return bytes(raw)


def custom(title: str, content: bytes) -> bytes:
    return w.section(0, w.name(title) + content)


def function_name(size: int) -> bytes:
    """A name section that gives function 0 a name of so many bytes."""
    return custom("name", w.section(1, b"\1\0" + w.name("n" * size)))


def like_cpython() -> bytes:
    """As many functions and data segments as CPython has, and 20 MB of data."""
    body = w.body(b"\1\4\x7f", (ZERO + b"\x21\0" + b"\x20\0\x21\1") * 8 + END)
    data = segments(CPYTHON_SEGMENTS, 850)
    return many(CPYTHON_FUNCTIONS, body, before=ONE_PAGE, after=data)
