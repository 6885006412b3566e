"""The binding against the package's own declarations, the settings against what wasmtime then takes and refuses."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wasmtime._bindings as theirs

from runner import capi, engine, settings
from runner.errors import EngineError, EngineVersionError
from tests.runner.guest_host import CEILING_BYTES, Host, wat

ADD = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'


def fields(structure: type[ctypes.Structure]) -> list[tuple[int, int]]:
    """(offset, size) of each field."""
    return [(getattr(structure, name).offset, getattr(structure, name).size) for name, *_ in structure._fields_]


@pytest.mark.parametrize(
    ("ours", "package"),
    [
        (capi.ByteVec, theirs.wasm_byte_vec_t),
        (capi.ByteVec, theirs.wasm_valtype_vec_t),
        (capi.ByteVec, theirs.wasm_importtype_vec_t),
        (capi.ByteVec, theirs.wasm_exporttype_vec_t),
        (capi.ByteVec, theirs.wasm_frame_vec_t),
        (capi.Instance, theirs.wasmtime_instance),
        (capi.Extern, theirs.wasmtime_extern),
        (capi.HeapType, theirs.wasmtime_heaptype),
        (capi.RefType, theirs.wasmtime_reftype),
        (capi.ValType, theirs.wasmtime_valtype),
    ],
)
def test_a_structure_lies_as_the_package_declares_it(ours: type[ctypes.Structure], package: Any) -> None:
    assert fields(package) == fields(ours)
    assert ctypes.sizeof(package) == ctypes.sizeof(ours)
    assert ctypes.alignment(package) == ctypes.alignment(ours)


def test_functions_and_memories_are_passed_by_the_address_of_an_externs_item() -> None:
    assert theirs.wasmtime_extern.of.offset == capi.EXTERN_ITEM
    assert ctypes.sizeof(theirs.wasmtime_func) <= ctypes.sizeof(capi.Extern) - capi.EXTERN_ITEM
    assert ctypes.sizeof(theirs.wasmtime_memory) <= ctypes.sizeof(capi.Extern) - capi.EXTERN_ITEM


def test_a_raw_value_takes_sixteen_bytes() -> None:
    from runner.stubs import RAW_BYTES

    assert ctypes.sizeof(theirs.wasmtime_val_raw) == RAW_BYTES


def kind(type_: Any) -> object:
    """What of a C type matters to a call: its width and sign, or that it is an address."""
    if type_ is None:
        return None
    if hasattr(type_, "contents") or type_ in (ctypes.c_char_p, ctypes.c_void_p) or issubclass(type_, ctypes._CFuncPtr):
        return "address"
    return type_._type_, ctypes.sizeof(type_)


@pytest.mark.parametrize("name", sorted(capi.PROTOTYPES))
def test_a_function_is_typed_as_the_package_types_it(name: str) -> None:
    package = getattr(theirs, f"_{name}")
    result, *arguments = capi.PROTOTYPES[name]
    assert [kind(package.restype), *map(kind, package.argtypes)] == [kind(result), *map(kind, arguments)]


def test_every_setter_of_the_c_api_is_either_a_setting_or_left_alone_for_a_reason() -> None:
    left_alone = {
        "target": "code is for this machine",
        "cranelift_flag": "no flag of Cranelift's own",
        "macos_use_mach_ports": "Linux",
        "host_memory_creator": "excludes the pool",
        "host_stack_creator": "no async",
        "max_memory_size": "set by the engine from the operator's ceiling",
        **dict.fromkeys(
            (
                *("max_component_instance_size", "max_core_instances_per_component"),
                *("max_memories_per_component", "max_tables_per_component"),
                *("wasm_component_model_map", "wasm_component_model_implements"),
                *("wasm_component_model_canonical_names", "wasm_component_model_accessors"),
            ),
            "components are off",
        ),
    }
    pattern = re.compile(r"wasmtime_(?:config|pooling_allocation_config)_(\w+)_set")
    offered = {found.group(1) for name in dir(theirs) if (found := pattern.fullmatch(name))}
    named = {name for name, _value, _why in settings.PROPOSALS + settings.ENGINE + settings.POOL}
    assert offered == named | set(left_alone)
    assert all(why for _name, _value, why in settings.PROPOSALS + settings.ENGINE + settings.POOL)


def test_the_trap_codes_are_numbered_as_in_the_package() -> None:
    from runner.protocol.status import TRAP_CODES

    known = {
        code.name.removeprefix("WASMTIME_TRAP_CODE_").lower(): code.value for code in theirs.wasmtime_trap_code_enum
    }
    assert {name: known[name] for name in TRAP_CODES} == {name: index for index, name in enumerate(TRAP_CODES)}


PROPOSAL_MODULES = {
    "wasm_multi_value": "(module (func (result i32 i32) i32.const 1 i32.const 2))",
    "wasm_bulk_memory": "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1))))",
    "wasm_reference_types": "(module (table 1 externref) (table 1 funcref))",
    "wasm_simd": "(module (func (result v128) (v128.const i32x4 1 2 3 4)))",
    "wasm_relaxed_simd": (
        "(module (func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1))))"
    ),
    "wasm_tail_call": "(module (func $f return_call $f))",
    "wasm_function_references": "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))",
    "wasm_gc": "(module (type $s (struct (field i32))) (func (result (ref $s)) (struct.new $s (i32.const 1))))",
    "wasm_exceptions": "(module (tag $e) (func (throw $e)))",
    "wasm_multi_memory": "(module (memory 1) (memory 1))",
    "wasm_memory64": "(module (memory i64 1))",
    "wasm_threads": "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
    "shared_memory": "(module (memory 1 1 shared))",
    "wasm_stack_switching": "(module (type $f (func)) (type $c (cont $f)))",
    "wasm_wide_arithmetic": (
        "(module (func (param i64 i64 i64 i64) (result i64 i64)"
        " (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3))))"
    ),
    "wasm_custom_page_sizes": "(module (memory 1 (pagesize 1)))",
}


@pytest.mark.parametrize("name", sorted(PROPOSAL_MODULES))
def test_a_proposal_is_taken_or_refused_as_the_settings_say(name: str) -> None:
    on = {setting: value for setting, value, _why in settings.PROPOSALS}[name]
    wasm = wat(PROPOSAL_MODULES[name])
    with Host() as host:
        if on:
            assert host.artifact(wasm)
        else:
            with pytest.raises(EngineError) as caught:
                host.artifact(wasm)
            assert "compile" == caught.value.step


def test_the_library_is_found_without_importing_the_package() -> None:
    code = "import sys; from runner.engine import find_library as f; print(f().decode(), 'wasmtime' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [os.fsdecode(engine.find_library()), "False"] == printed


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capi, "_library", [])


@pytest.mark.usefixtures("unopened")
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "WASMTIME_VERSION", "49.0.0")
    with pytest.raises(EngineVersionError, match=r"has to be that of wasmtime 49\.0\.0"):
        engine.open_library(engine.find_library())


@pytest.mark.usefixtures("unopened")
def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "wasmtime" / "linux" / "lib.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no ELF")
    (tmp_path / f"wasmtime-{settings.WASMTIME_VERSION}.dist-info").mkdir()
    with pytest.raises(EngineVersionError, match="is needed"):
        engine.open_library(os.fsencode(library))


@pytest.mark.usefixtures("unopened")
def test_a_library_without_a_function_that_is_called_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capi.PROTOTYPES, "wasmtime_from_the_future", (None,))
    with pytest.raises(EngineVersionError, match="wasmtime_from_the_future"):
        engine.open_library(engine.find_library())


@pytest.mark.parametrize("max_memory_bytes", [0, 65535, settings.MEMORY_RESERVATION_BYTES + 1])
def test_a_ceiling_that_would_abort_the_process_is_an_error(max_memory_bytes: int) -> None:
    engine.open_library(engine.find_library())
    with pytest.raises(EngineError, match="max_memory_bytes is from 65536"):
        engine.Engine(max_memory_bytes)


def test_an_artifact_loads_from_bytes_a_view_and_an_address() -> None:
    with Host() as host:
        artifact = host.artifact(ADD)
        buffer = ctypes.create_string_buffer(artifact, len(artifact))
        for load in (
            lambda: host.engine.load(artifact),
            lambda: host.engine.load(memoryview(artifact)),
            lambda: host.engine.load_mapped(ctypes.addressof(buffer), len(artifact)),
        ):
            load().close()


@pytest.mark.parametrize("spoil", [lambda a: b"", lambda a: a[:100], lambda a: a[: len(a) // 2], lambda a: b"x" * 999])
def test_bytes_that_are_no_artifact_are_an_error_of_loading(spoil: Any) -> None:
    with Host() as host, pytest.raises(EngineError) as caught:
        host.engine.load(spoil(host.artifact(ADD)))
    assert caught.value.step == "load"


def test_an_artifact_of_other_settings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Host() as host:
        artifact = host.artifact(ADD)
    before = settings.fingerprint()
    without_fuel = tuple(
        (name, False if name == "consume_fuel" else value, why) for name, value, why in settings.ENGINE
    )
    monkeypatch.setattr(settings, "ENGINE", without_fuel)
    assert before != settings.fingerprint()
    other = engine.Engine(CEILING_BYTES)
    with pytest.raises(EngineError, match="fuel"):
        other.load(artifact)
    other.close()


def test_the_fingerprint_is_the_same_twice_and_knows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings.fingerprint()
    assert first == settings.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    monkeypatch.setattr(settings, "_processor_features", lambda: "another one's")
    assert first != settings.fingerprint()


def test_imports_are_listed_with_kinds_and_types() -> None:
    text = """(module
        (import "a" "f" (func (param i32 i64 f32 f64 v128 externref) (result f64)))
        (import "a" "g" (global i32))
        (import "b" "m" (memory 1))
        (import "b" "t" (table 1 funcref))
        (import "c" "r" (func (result (ref func)))))"""
    seen = []
    with Host() as host:
        module = host.engine.load(host.artifact(text))
        module.each_import(lambda one: seen.append((one.module, one.name, one.kind, one.params, one.results)))
        module.close()
    assert [
        (b"a", b"f", capi.EXTERN_FUNC, (0, 1, 2, 3, capi.V128, capi.REF), (3,)),
        (b"a", b"g", capi.EXTERN_GLOBAL, (), ()),
        (b"b", b"m", capi.EXTERN_MEMORY, (), ()),
        (b"b", b"t", capi.EXTERN_TABLE, (), ()),
        (b"c", b"r", capi.EXTERN_FUNC, (), (capi.NON_NULL_REF,)),
    ] == seen


def test_memories_that_are_exported_are_listed_whatever_else_is_exported() -> None:
    text = """(module (memory 7) (memory (export "one") 1) (memory (export "none") 0) (func (export "f"))
        (type $s (struct (field (mut i8)))) (tag (export "tag") (param i32)) (table (export "t") 1 (ref null $s))
        (func (export "gc") (param (ref $s) v128) (result (ref null any)) (ref.null none))
        (global (export "v") v128 (v128.const i64x2 1 2)) (global (export "r") externref (ref.null extern)))"""
    with Host() as host:
        module = host.engine.load(host.artifact(text))
        memories = module.memories()
        module.close()
    assert [(b"one", 1), (b"none", 0)] == memories


PROTECTED = """
import sys
from tests.runner.guest_host import Host
def writable_code():
    with open("/proc/self/maps") as maps:
        return sum(line.split()[1].startswith("rwx") for line in maps)
host = Host()
plain = host.prepare(sys.argv[1])
stubbed = host.prepare(sys.argv[2], stub=True)
host.invoker.protect_callbacks()
left = writable_code()
stubbed.with_files()
print(left, host.run(plain).outcome.exit_code, host.run(stubbed).reason, flush=True)
"""


def test_no_page_is_writable_and_executable_once_the_callbacks_are_protected() -> None:
    plain = """(module (import "wasi_snapshot_preview1" "sched_yield" (func $y (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func (export "_start") (call $y) (call $exit (i32.const 7)) (drop)))"""
    stubbed = '(module (import "env" "f" (func $f)) (func (export "_start") (call $f)))'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])}
    command = [sys.executable, "-c", PROTECTED, plain, stubbed]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert ("0 7 exit\n", 0) == (done.stdout, done.returncode), done.stderr


def test_the_reservation_is_what_the_compiler_and_the_pool_agree_on() -> None:
    by_name = {name: value for name, value, _why in settings.ENGINE + settings.POOL}
    assert settings.MEMORY_RESERVATION_BYTES == by_name["memory_reservation"]
    assert by_name["max_wasm_stack"] <= by_name["async_stack_size"]
    assert by_name["total_memories"] >= by_name["max_memories_per_module"] + by_name["total_gc_heaps"]
    assert by_name["total_tables"] >= by_name["max_tables_per_module"]
    assert struct.calcsize("P") == 8, "wasmtime has no 32-bit library"
