"""A bounded reader of the Wasm binary format: integers, names, types and constant expressions out of hostile bytes.

Every method either moves `position` forward within `end` or raises ModuleRefused; none recurses, none allocates more
than a cap allows. Integers are LEB128, little-endian, 7 bits a byte, at most 5 bytes for 32 bits and 10 for 64
(https://webassembly.github.io/spec/core/binary/, which the section names below are taken from).
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from runner.errors import ModuleRefused
from runner.module_caps import over

# Value types of one byte: 5.3.1 to 5.3.4 of the standard, with the shorthands of the reference types.
VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x74: "nullexnref",
    0x73: "nullfuncref",
    0x72: "nullexternref",
    0x71: "nullref",
    0x70: "funcref",
    0x6F: "externref",
    0x6E: "anyref",
    0x6D: "eqref",
    0x6C: "i31ref",
    0x6B: "structref",
    0x6A: "arrayref",
    0x69: "exnref",
}
PACKED_TYPES = (0x78, 0x77)  # i8 and i16, in structs and arrays only
HEAP_TYPES = {
    0x74: "noexn",
    0x73: "nofunc",
    0x72: "noextern",
    0x71: "none",
    0x70: "func",
    0x6F: "extern",
    0x6E: "any",
    0x6D: "eq",
    0x6C: "i31",
    0x6B: "struct",
    0x6A: "array",
    0x69: "exn",
}
REF, REF_NULL = 0x64, 0x63
ONE_BYTE_TYPES = bytes(VALUE_TYPES)

# Instructions of constant expressions that carry nothing: integer arithmetic (extended constants).
_BARE = frozenset((0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E))
# 0xFB: the GC instructions that are constant, by how many indices follow.
_GC_INDICES = {0: 1, 1: 1, 6: 1, 7: 1, 8: 2, 26: 0, 27: 0, 28: 0}
_END = 0x0B


class Readable(Protocol):
    """bytes or a memoryview of bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> int: ...


class Reader:
    """
    Args:
        data: what is read.
        where: the section's name, for messages.
        position, end: the part of `data` that may be read.
    """

    __slots__ = ("data", "end", "position", "where")

    def __init__(self, data: Readable, where: str, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.where = where
        self.position = position
        self.end = len(data) if end is None else end

    def refuse(self, message: str) -> NoReturn:
        raise ModuleRefused("module_malformed", f"{self.where}, byte {self.position}: {message}")

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def byte(self) -> int:
        position = self.position
        if position >= self.end:
            self.refuse("it ends in the middle of something")
        self.position = position + 1
        return self.data[position]

    def skip(self, count: int) -> None:
        if count > self.end - self.position:
            self.refuse(f"{count} bytes are announced, {self.end - self.position} are there")
        self.position += count

    def u32(self) -> int:
        """An unsigned integer of 32 bits; nearly all of a real module's take one byte."""
        position = self.position
        if position < self.end:
            value = self.data[position]
            if value < 0x80:
                self.position = position + 1
                return value
        return self.unsigned(32)

    def unsigned(self, bits: int) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= bits:
                self.refuse(f"an integer of {bits} bits takes at most {-(-bits // 7)} bytes, this goes on")
        if value >> bits:
            self.refuse(f"an integer of {bits} bits is too large")
        return value

    def skip_signed(self, bits: int) -> None:
        """A signed integer whose value doesn't matter here."""
        for _ in range(-(-bits // 7)):
            if self.byte() < 0x80:
                return
        self.refuse(f"an integer of {bits} bits takes at most {-(-bits // 7)} bytes, this goes on")

    def name(self, max_bytes: int) -> str:
        """A counted name.

        Raises:
            ModuleRefused: module_limit past `max_bytes`, module_malformed where it is cut short or isn't UTF-8.
        """
        size = self.u32()
        start = self.position
        if size > max_bytes:
            over(f"a name in the {self.where} has", size, "bytes", max_bytes)  # before anything of it is read
        self.skip(size)
        raw = bytes(memoryview(self.data)[start : self.position])  # type: ignore[arg-type]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.position = start
            self.refuse("a name isn't valid UTF-8")

    def count(self, smallest_item_bytes: int = 1, what: str = "", allowed: int | None = None) -> int:
        """A vector's length: within what is `allowed` of `what` first, then within the section's rest."""
        count = self.u32()
        if allowed is not None and count > allowed:
            over("the module has", count, what, allowed)
        if count * smallest_item_bytes > self.end - self.position:
            self.refuse(f"{count} entries are announced, {self.end - self.position} bytes are left for them")
        return count

    def value_type(self) -> str:
        """A value type's name in the text format: `i32`, `v128`, `funcref`, `(ref null 3)`."""
        kind = self.byte()
        name = VALUE_TYPES.get(kind)
        if name is not None:
            return name
        if kind not in (REF, REF_NULL):
            self.position -= 1
            self.refuse(f"0x{kind:02x} isn't a value type")
        return f"(ref {'null ' if kind == REF_NULL else ''}{self.heap_type()})"

    def heap_type(self) -> str:
        """A heap type's name, or the index of a type."""
        start = self.position
        kind = self.byte()
        if 0x40 <= kind < 0x80:
            name = HEAP_TYPES.get(kind)
            if name is None:
                self.position = start
                self.refuse(f"0x{kind:02x} isn't a heap type")
            return name
        self.position = start
        # A signed integer of 33 bits that must not be negative: 32 bits, and a last byte whose sign bit (0x40) is off.
        index = self.unsigned(32)
        if self.data[self.position - 1] & 0x40:
            self.position = start
            self.refuse("a heap type is neither one of the standard's nor the index of a type")
        return str(index)

    def reference_type(self) -> str:
        start = self.position
        name = self.value_type()
        if name in ("i32", "i64", "f32", "f64", "v128"):
            self.position = start
            self.refuse(f"{name} isn't a reference type")
        return name

    def mutable(self) -> bool:
        flag = self.byte()
        if flag > 1:
            self.position -= 1
            self.refuse(f"mutability is 0 or 1, not {flag}")
        return flag == 1

    def field_type(self) -> None:
        """A field of a struct or an array: a storage type and its mutability."""
        if self.position < self.end and self.data[self.position] in PACKED_TYPES:
            self.position += 1
        else:
            self.value_type()
        self.mutable()

    def skip_constant(self) -> None:
        """A constant expression, its `end` included. It has no blocks, so there is no depth to it."""
        while (instruction := self.byte()) != _END:
            if instruction in _BARE:
                continue
            if instruction in (0x23, 0xD2):  # global.get, ref.func
                self.u32()
            elif instruction == 0x41:
                self.skip_signed(32)
            elif instruction == 0x42:
                self.skip_signed(64)
            elif instruction in (0x43, 0x44):  # f32.const, f64.const
                self.skip(4 if instruction == 0x43 else 8)
            elif instruction == 0xD0:  # ref.null
                self.heap_type()
            else:
                self._skip_prefixed(instruction)

    def _skip_prefixed(self, instruction: int) -> None:
        start = self.position - 1
        code = self.u32() if instruction in (0xFB, 0xFD) else -1
        if instruction == 0xFD and code == 12:  # v128.const
            self.skip(16)
        elif instruction == 0xFB and code in _GC_INDICES:
            for _ in range(_GC_INDICES[code]):
                self.u32()
        else:
            self.position = start
            self.refuse(f"0x{instruction:02x} isn't an instruction of a constant expression")
