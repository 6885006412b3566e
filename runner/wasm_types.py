"""The types of a Wasm module: what imports and exports have, and the type section that function types come from."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import NamedTuple

from runner.module_caps import over
from runner.wasm_reader import ONE_BYTE_TYPES, Reader

# wasmparser's own limits (MAX_WASM_FUNCTION_PARAMS, MAX_WASM_SUBTYPING_DEPTH): past them wasmtime refuses too.
MAX_PARAMS = 1_000
MAX_SUBTYPE_DEPTH = 63

FUNC, STRUCT, ARRAY = 0x60, 0x5F, 0x5E
REC, SUB_FINAL, SUB = 0x4E, 0x4F, 0x50


@dataclass(frozen=True, slots=True)
class FuncType:
    """Type names of parameters and results, as the text format writes them. A tag's type too."""

    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableType:
    """`minimum` and `maximum` count elements; `maximum` is None where there is none."""

    element: str
    minimum: int
    maximum: int | None = None
    is_64: bool = False


@dataclass(frozen=True, slots=True)
class MemoryType:
    """`minimum` and `maximum` count pages of `1 << page_bits` bytes, 64 KiB unless said otherwise."""

    minimum: int
    maximum: int | None = None
    is_64: bool = False
    shared: bool = False
    page_bits: int = 16


@dataclass(frozen=True, slots=True)
class GlobalType:
    value: str
    mutable: bool


ExternType = FuncType | TableType | MemoryType | GlobalType


class Extern(NamedTuple):
    """One import or export. `kind`: func, table, memory, global or tag; `module` is "" for an export.

    `params` and `results` are those of a func and empty otherwise; `type` is the full type of any kind.
    """

    name: str
    kind: str
    module: str
    params: tuple[str, ...]
    results: tuple[str, ...]
    type: ExternType


# Flags of limits: there is a maximum; shared; 64-bit; the page's size follows.
_HAS_MAXIMUM, _SHARED, _IS_64, _PAGE_BITS = 1, 2, 4, 8


def read_table_type(reader: Reader) -> TableType:
    """A table's type.

    Raises:
        ModuleRefused: malformed, as from the two readers below.
    """
    element = reader.reference_type()
    flags = _limit_flags(reader, _HAS_MAXIMUM | _IS_64)
    minimum, maximum = _limits(reader, flags)
    return TableType(element, minimum, maximum, bool(flags & _IS_64))


def read_memory_type(reader: Reader) -> MemoryType:
    flags = _limit_flags(reader, _HAS_MAXIMUM | _SHARED | _IS_64 | _PAGE_BITS)
    minimum, maximum = _limits(reader, flags)
    page_bits = reader.u32() if flags & _PAGE_BITS else 16
    return MemoryType(minimum, maximum, bool(flags & _IS_64), bool(flags & _SHARED), page_bits)


def read_global_type(reader: Reader) -> GlobalType:
    return GlobalType(reader.value_type(), reader.mutable())


def _limit_flags(reader: Reader, allowed: int) -> int:
    flags = reader.byte()
    if flags & ~allowed:
        reader.position -= 1
        reader.refuse(f"0x{flags:02x} aren't flags of limits")
    return flags


def _limits(reader: Reader, flags: int) -> tuple[int, int | None]:
    bits = 64 if flags & _IS_64 else 32
    minimum = reader.unsigned(bits)
    maximum = reader.unsigned(bits) if flags & _HAS_MAXIMUM else None
    if maximum is not None and maximum < minimum:
        reader.refuse(f"limits have a maximum of {maximum}, below their minimum of {minimum}")
    return minimum, maximum


class TypeSpace:
    """All types of a module by index, in 6 bytes each; a function type is decoded when somebody asks for it."""

    def __init__(self, section: bytes = b"") -> None:
        self._section = section
        self._kinds = bytearray()
        self._depths = bytearray()
        self._offsets = array("I")
        self._decoded: dict[int, FuncType] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    @classmethod
    def read(cls, section: bytes, max_types: int) -> TypeSpace:
        """Read a type section, whole.

        Raises:
            ModuleRefused: malformed, more than `max_types`, or a chain of subtypes deeper than MAX_SUBTYPE_DEPTH.
        """
        space = cls(section)
        reader = Reader(section, "type section")
        for _ in range(reader.count(1, "types", max_types)):
            if section[reader.position : reader.position + 1] == bytes((REC,)):
                reader.position += 1
                for _ in range(reader.count(1, "types", max_types)):
                    space._read_subtype(reader)
            else:
                space._read_subtype(reader)
            if len(space) > max_types:
                over("the module has", len(space), "types", max_types)
        if reader.remaining:
            reader.refuse(f"{reader.remaining} bytes follow the last type")
        return space

    def function(self, index: int, reader: Reader) -> FuncType:
        """The function type of this index; `reader` is where it is used, for the message."""
        found = self._decoded.get(index)
        if found is None:
            self.check_function(index, reader)
            own = Reader(self._section, "type section", self._offsets[index])
            params = tuple([own.value_type() for _ in range(own.u32())])
            found = FuncType(params, tuple([own.value_type() for _ in range(own.u32())]))
            self._decoded[index] = found
        return found

    def check_function(self, index: int, reader: Reader) -> None:
        if index >= len(self._kinds):
            reader.refuse(f"type {index} is used, there are {len(self._kinds)}")
        if self._kinds[index] != FUNC:
            reader.refuse(f"type {index} is used as a function's and isn't one")

    def _read_subtype(self, reader: Reader) -> None:
        kind = reader.byte()
        depth = 0
        if kind in (SUB, SUB_FINAL):
            for _ in range(reader.count()):
                depth = max(depth, self._depth_below(reader))
            kind = reader.byte()
        self._kinds.append(kind)
        self._depths.append(depth)
        self._offsets.append(reader.position)
        if kind == FUNC:
            _skip_function(reader)
        elif kind == STRUCT:
            for _ in range(reader.count(2)):
                reader.field_type()
        elif kind == ARRAY:
            reader.field_type()
        else:
            reader.position -= 1
            reader.refuse(f"0x{kind:02x} isn't a type's form")

    def _depth_below(self, reader: Reader) -> int:
        """How deep a subtype of the supertype that comes next is; a supertype stands before its subtypes."""
        index = reader.u32()
        if index >= len(self._kinds):
            reader.refuse(f"type {len(self._kinds)} names type {index} as its supertype, which doesn't stand before it")
        depth = self._depths[index] + 1
        if depth > MAX_SUBTYPE_DEPTH:
            over("the module nests types", depth, "deep", MAX_SUBTYPE_DEPTH)
        return depth


def _skip_function(reader: Reader) -> None:
    """Parameters and results, each a vector of value types."""
    for what in ("parameters", "results"):
        count = reader.count()
        if count > MAX_PARAMS:
            over("a function has", count, what, MAX_PARAMS)
        start = reader.position
        data = reader.data
        assert isinstance(data, bytes)
        if data[start : start + count].translate(None, ONE_BYTE_TYPES):
            for _ in range(count):
                reader.value_type()
        else:
            reader.position = start + count
