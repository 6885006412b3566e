"""One pass over a core module's sections, in the order of the file.

Code bodies, data and custom sections are stepped over by their sizes; whatever is read one by one has a cap.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sized
from dataclasses import dataclass, field

from runner.module_caps import Caps, over
from runner.wasm_reader import Reader
from runner.wasm_types import (
    Extern,
    ExternType,
    FuncType,
    GlobalType,
    MemoryType,
    TableType,
    TypeSpace,
    read_global_type,
    read_memory_type,
    read_table_type,
)

HEADER_BYTES = 8  # magic and version

CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT, TAG = range(14)
# The order in which sections stand, each at most once; custom sections stand anywhere.
ORDER = (TYPE, IMPORT, FUNCTION, TABLE, MEMORY, TAG, GLOBAL, EXPORT, START, ELEMENT, DATA_COUNT, CODE, DATA)
RANKS = {section: rank for rank, section in enumerate(ORDER)}
NAMES = {
    CUSTOM: "custom section",
    TYPE: "type section",
    IMPORT: "import section",
    FUNCTION: "function section",
    TABLE: "table section",
    MEMORY: "memory section",
    GLOBAL: "global section",
    EXPORT: "export section",
    START: "start section",
    ELEMENT: "element section",
    CODE: "code section",
    DATA: "data section",
    DATA_COUNT: "data count section",
    TAG: "tag section",
}
KINDS = ("func", "table", "memory", "global", "tag")
FUNC_KIND, TABLE_KIND, MEMORY_KIND, GLOBAL_KIND, TAG_KIND = range(5)
# What an import or export takes in a message between processes besides its strings, and each string besides its bytes.
EXTERN_BYTES = 64
STRING_BYTES = 5


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a module has. The counts are of what it defines itself; imports come on top."""

    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]
    types: int
    functions: int
    tables: int
    memories: int
    globals: int
    tags: int
    element_segments: int
    data_segments: int
    custom_sections: int
    locals: int
    has_start: bool


@dataclass(slots=True)
class Parser:
    """One pass over one module. What an index of each kind means grows with the imports, then with the definitions."""

    view: memoryview
    caps: Caps
    types: TypeSpace = field(default_factory=TypeSpace)
    imports: list[Extern] = field(default_factory=list)
    exports: list[Extern] = field(default_factory=list)
    functions: array[int] = field(default_factory=lambda: array("I"))  # each function's type
    tags: array[int] = field(default_factory=lambda: array("I"))  # each tag's type
    tables: list[TableType] = field(default_factory=list)
    memories: list[MemoryType] = field(default_factory=list)
    globals: list[GlobalType] = field(default_factory=list)
    imported: list[int] = field(default_factory=lambda: [0] * len(KINDS))
    element_segments: int = 0
    data_count: int | None = None
    data_segments: int = 0
    bodies: int = 0
    custom_sections: int = 0
    locals: int = 0
    interface_bytes: int = 0
    has_start: bool = False

    def run(self) -> Inspection:
        whole = Reader(self.view, "module", HEADER_BYTES)
        last = -1
        while whole.remaining:
            section = whole.byte()
            size = whole.u32()
            start = whole.position
            whole.skip(size)
            if section == CUSTOM:
                self._custom(Reader(self.view, NAMES[CUSTOM], start, whole.position))
                continue
            rank = RANKS.get(section)
            if rank is None:
                whole.refuse(f"there is no section with the id {section}")
            if rank <= last:
                whole.refuse(f"the {NAMES[section]} must stand before the {NAMES[ORDER[last]]}, and once")
            last = rank
            self._section(section, start, whole.position)
        self._check_totals(whole)
        return self._inspection()

    def _section(self, section: int, start: int, end: int) -> None:
        name = NAMES[section]
        if section in (TYPE, TABLE, GLOBAL) and end - start > self.caps.max_read_bytes:
            over(f"the {name} has", end - start, "bytes", self.caps.max_read_bytes)
        if section == TYPE:
            self.types = TypeSpace.read(bytes(self.view[start:end]), self.caps.max_types)
            return
        reader = Reader(self.view, name, start, end)
        _SECTIONS[section](self, reader)
        if reader.remaining:
            reader.refuse(f"{reader.remaining} bytes follow its last entry")

    # -- sections, by number -----------------------------------------------------------------------------------------

    def _custom(self, reader: Reader) -> None:
        self.custom_sections += 1
        if self.custom_sections > self.caps.max_custom_sections:
            over("the module has", self.custom_sections, "custom sections", self.caps.max_custom_sections)
        reader.name(self.caps.max_name_bytes)

    def _imports(self, reader: Reader) -> None:
        for _ in range(reader.count(4, "imports", self.caps.max_imports)):
            module = reader.name(self.caps.max_name_bytes)
            name = reader.name(self.caps.max_name_bytes)
            kind = reader.byte()
            if kind >= len(KINDS):
                reader.position -= 1
                reader.refuse(f"{kind} isn't a kind of import")
            self.imported[kind] += 1
            self._add_extern(self.imports, name, kind, module, _IMPORTS[kind](self, reader))

    def _functions(self, reader: Reader) -> None:
        for _ in range(reader.count(1, "functions", self.caps.max_functions)):
            index = reader.u32()
            self.types.check_function(index, reader)
            self.functions.append(index)

    def _tables(self, reader: Reader) -> None:
        for _ in range(reader.count(3, "tables", self.caps.max_tables)):
            has_initial = reader.data[reader.position] == 0x40 if reader.remaining else False
            if has_initial:
                reader.skip(1)
                if reader.byte() != 0:
                    reader.refuse("a table with an initial value starts with 40 00")
            self._import_table(reader)
            if has_initial:
                reader.skip_constant()

    def _memories(self, reader: Reader) -> None:
        for _ in range(reader.count(2, "memories", self.caps.max_memories)):
            self._import_memory(reader)

    def _tags(self, reader: Reader) -> None:
        for _ in range(reader.count(2, "tags", self.caps.max_tags)):
            self._import_tag(reader)

    def _globals(self, reader: Reader) -> None:
        for _ in range(reader.count(3, "globals", self.caps.max_globals)):
            self._import_global(reader)
            reader.skip_constant()

    def _exports(self, reader: Reader) -> None:
        seen: set[str] = set()
        for _ in range(reader.count(3, "exports", self.caps.max_exports)):
            name = reader.name(self.caps.max_name_bytes)
            if name in seen:
                reader.refuse(f"two exports are named {name!r}")
            seen.add(name)
            kind = reader.byte()
            if kind >= len(KINDS):
                reader.position -= 1
                reader.refuse(f"{kind} isn't a kind of export")
            self._add_extern(self.exports, name, kind, "", self._type_of(kind, reader.u32(), reader))

    def _start(self, reader: Reader) -> None:
        found = self._type_of(FUNC_KIND, reader.u32(), reader)
        if found != FuncType():
            reader.refuse("the start function must have neither parameters nor results")
        self.has_start = True

    def _elements(self, reader: Reader) -> None:
        self.element_segments = reader.count(2, "element segments", self.caps.max_element_segments)
        reader.position = reader.end

    def _data_count(self, reader: Reader) -> None:
        self.data_count = reader.count(0, "data segments", self.caps.max_data_segments)

    def _code(self, reader: Reader) -> None:
        """Only the heads of the bodies: how large each is and how many locals it declares."""
        self.bodies = reader.count(3, "functions", self.caps.max_functions)
        groups = 0
        for _ in range(self.bodies):
            size = reader.u32()
            end = reader.position + size
            if end > reader.end:
                reader.refuse(f"a function has {size} bytes, {reader.remaining} are left")
            declared = reader.u32()
            groups += declared
            if groups > self.caps.max_local_groups:
                over("the module has", groups, "groups of locals", self.caps.max_local_groups)
            for _ in range(declared):
                self.locals += reader.u32()
                reader.value_type()
            if self.locals > self.caps.max_locals:
                over("the module has", self.locals, "locals", self.caps.max_locals)
            if reader.position >= end:
                reader.refuse("a function's locals run past its end")
            reader.position = end

    def _data(self, reader: Reader) -> None:
        self.data_segments = reader.count(2, "data segments", self.caps.max_data_segments)
        reader.position = reader.end

    # -- what imports and definitions share --------------------------------------------------------------------------

    def _import_function(self, reader: Reader) -> ExternType:
        index = reader.u32()
        found = self.types.function(index, reader)
        self.functions.append(index)
        return found

    def _import_table(self, reader: Reader) -> ExternType:
        found = read_table_type(reader)
        if found.minimum > self.caps.max_table_elements:
            over("a table has", found.minimum, "elements", self.caps.max_table_elements)
        self.tables.append(found)
        return found

    def _import_memory(self, reader: Reader) -> ExternType:
        found = read_memory_type(reader)
        self.memories.append(found)
        return found

    def _import_global(self, reader: Reader) -> ExternType:
        found = read_global_type(reader)
        self.globals.append(found)
        return found

    def _import_tag(self, reader: Reader) -> ExternType:
        if reader.byte() != 0:
            reader.refuse("a tag's attribute must be 0")
        index = reader.u32()
        found = self.types.function(index, reader)
        self.tags.append(index)
        return found

    def _type_of(self, kind: int, index: int, reader: Reader) -> ExternType:
        """The type of what an export or the start section names."""
        space = (self.functions, self.tables, self.memories, self.globals, self.tags)[kind]
        if index >= len(space):
            reader.refuse(f"{KINDS[kind]} {index} is named, there are {len(space)}")
        found = space[index]
        return self.types.function(found, reader) if isinstance(found, int) else found

    def _add_extern(self, to: list[Extern], name: str, kind: int, module: str, type_: ExternType) -> None:
        function = type_ if kind == FUNC_KIND and isinstance(type_, FuncType) else FuncType()
        params, results = function.params, function.results
        strings = (name, module, *params, *results)
        self.interface_bytes += EXTERN_BYTES + sum([STRING_BYTES + len(s.encode()) for s in strings])
        if self.interface_bytes > self.caps.max_interface_bytes:
            over("its imports and exports take", self.interface_bytes, "bytes", self.caps.max_interface_bytes)
        to.append(Extern(name, KINDS[kind], module, params, results, type_))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check_totals(self, whole: Reader) -> None:
        defined = len(self.functions) - self.imported[FUNC_KIND]
        if defined != self.bodies:
            whole.refuse(f"{defined} functions are declared, the code section has {self.bodies}")
        if self.data_count is not None and self.data_count != self.data_segments:
            whole.refuse(f"{self.data_count} data segments are announced, there are {self.data_segments}")
        if len(self.tables) > self.caps.max_tables:
            over("the module has, with its imports,", len(self.tables), "tables", self.caps.max_tables)
        if len(self.memories) > self.caps.max_memories:
            over("the module has, with its imports,", len(self.memories), "memories", self.caps.max_memories)

    def _inspection(self) -> Inspection:
        spaces: tuple[Sized, ...] = (self.functions, self.tables, self.memories, self.globals, self.tags)
        functions, tables, memories, globals_, tags = [
            len(space) - imported for space, imported in zip(spaces, self.imported, strict=True)
        ]
        return Inspection(
            imports=tuple(self.imports),
            exports=tuple(self.exports),
            types=len(self.types),
            functions=functions,
            tables=tables,
            memories=memories,
            globals=globals_,
            tags=tags,
            element_segments=self.element_segments,
            data_segments=self.data_segments,
            custom_sections=self.custom_sections,
            locals=self.locals,
            has_start=self.has_start,
        )


_IMPORTS: tuple[Callable[[Parser, Reader], ExternType], ...] = (
    Parser._import_function,
    Parser._import_table,
    Parser._import_memory,
    Parser._import_global,
    Parser._import_tag,
)
_SECTIONS: dict[int, Callable[[Parser, Reader], None]] = {
    IMPORT: Parser._imports,
    FUNCTION: Parser._functions,
    TABLE: Parser._tables,
    MEMORY: Parser._memories,
    TAG: Parser._tags,
    GLOBAL: Parser._globals,
    EXPORT: Parser._exports,
    START: Parser._start,
    ELEMENT: Parser._elements,
    DATA_COUNT: Parser._data_count,
    CODE: Parser._code,
    DATA: Parser._data,
}
