"""Modules that admission lets through: what they do to the compiler, the linker and at their start, over REST.

One that takes more time to compile than it may: see `tests/e2e/test_modules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guests
from tests.e2e.harness import Worker, fields, running, wasm
from tests.hostile import bombs
from tests.runner import wasm_bytes as w

pytestmark = pytest.mark.usefixtures("an_ordinary_job_follows")

MIB = 1 << 20
COMPILE_WALL_S = 20
COMPILE_MEMORY_BYTES = 512 * MIB
FUEL = 10**15
OPTIONS = (
    f"--compile-wall-s={COMPILE_WALL_S}",
    f"--compile-memory-bytes={COMPILE_MEMORY_BYTES}",
    "--max-compilers=2",
)
START = '(func (export "_start"))'


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data", *OPTIONS) as started:
        yield started


# -- compiled and started ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`end`: state, reason, trap code; `said`: what the detail names; `task`: what is asked for besides the module."""

    module: Callable[[], bytes]
    end: tuple[str, str, str | None]
    said: tuple[str, ...] = ()
    task: dict[str, Any] = field(default_factory=dict)


def text(source: str) -> Callable[[], bytes]:
    return lambda: wasm(f"(module {source} {START})")


def trapped(code: str) -> tuple[str, str, str]:
    return ("failed", "trap", code)


DONE = ("completed", "exit", None)
NOT_COMPILED = ("failed", "compile_failed", None)
NOT_STARTED = ("failed", "init_failed", None)
NO_MEMORY_LEFT = ("most likely for want of memory", f"{COMPILE_MEMORY_BYTES // MIB} MiB are allowed")
ODD_PAGE, SHARED_PAGE = w.section(5, b"\1\x08\1\0"), w.section(5, b"\1\3\1\1")
PARAMS = ["i64"] * 1_000
MANY_PARAMS = w.module(
    w.section(1, w.vector([w.func_type(), w.func_type(PARAMS, PARAMS)])),
    w.section(3, b"\2\0\1"),
    bombs.ENTRY,
    w.section(10, w.vector([w.body(code=bombs.END), w.body()])),
)

RUN = {
    # As much as admission lets through, and it runs.
    "blocks a hundred thousand deep": Case(lambda: bombs.nested(bombs.BLOCK, 100_000), DONE),
    "a thousand br_tables of a thousand targets": Case(lambda: bombs.branches_outwards(1_000, 500), DONE),
    "a br_table of 65,000 targets": Case(lambda: bombs.branches(65_000), DONE),
    "a function of 3 MB": Case(lambda: bombs.straight(1_000_000), DONE),
    "fifty thousand data segments": Case(
        lambda: bombs.command(before=bombs.ONE_PAGE, after=bombs.segments(50_000)), DONE
    ),
    "data of 25 MB": Case(lambda: bombs.command(before=bombs.ONE_PAGE, after=bombs.segments(50_000, 500)), DONE),
    "fifty thousand globals": Case(
        lambda: bombs.command(before=w.section(6, w.leb(50_000) + b"\x7f\0\x41\0\x0b" * 50_000)), DONE
    ),
    "ten million locals": Case(lambda: bombs.many(199, bombs.locals_of(50_000 - 1)), DONE),
    "half a million groups of no locals": Case(lambda: bombs.command(local=w.leb(500_000) + b"\0\x7f" * 500_000), DONE),
    "eight tables as large as may be": Case(text("(table 200000 funcref)" * 8), DONE),
    "a table as large as may be, full": Case(lambda: bombs.elements(200_000, 200_000), DONE),
    "a function of a thousand parameters and results": Case(lambda: MANY_PARAMS, DONE),
    "thousands of types that recur": Case(lambda: bombs.recursive_types(49_000), DONE),
    "a custom section of 30 MB": Case(lambda: bombs.command(after=bombs.custom("x", bytes(30 * MIB))), DONE),
    "a name section that is garbage": Case(lambda: bombs.command(after=bombs.custom("name", b"\xff" * 999)), DONE),
    "a memory of 64-bit addresses": Case(text("(memory i64 1)"), DONE),
    "as many functions and data segments as CPython has": Case(bombs.like_cpython, DONE),
    # Too much for the compiler.
    "a million blocks": Case(lambda: bombs.nested(bombs.BLOCK, 1_000_000), NOT_COMPILED, NO_MEMORY_LEFT),
    "200,000 elements that don't fit": Case(lambda: bombs.elements(200_000, 1), NOT_COMPILED, NO_MEMORY_LEFT),
    "a br_table of a million targets": Case(
        lambda: bombs.branches(1_000_000), NOT_COMPILED, ("1000000 targets", "limit of 65520")
    ),
    "a function of 7.8 MB": Case(lambda: bombs.straight(2_600_000), NOT_COMPILED, ("exceeds limit of 7654321",)),
    "fifty thousand locals and one": Case(
        lambda: bombs.many(1, bombs.locals_of(50_001)), NOT_COMPILED, ("too many locals",)
    ),
    # Not valid, or by a proposal that is off.
    "a body of the wrong type": Case(lambda: wasm(guests.INVALID), NOT_COMPILED, ("type mismatch",)),
    "an instruction that isn't": Case(lambda: bombs.command(b"\xff"), NOT_COMPILED, ("illegal opcode: 0xff",)),
    "legacy exceptions": Case(lambda: bombs.command(b"\x06\x40\x19\x0b"), NOT_COMPILED, ("legacy_exceptions",)),
    "atomics": Case(lambda: bombs.command(b"\xfe\x03\0"), NOT_COMPILED, ("threads support is not enabled",)),
    "shared memory": Case(lambda: bombs.command(before=SHARED_PAGE), NOT_COMPILED, ("threads must be enabled",)),
    "pages of one byte": Case(lambda: bombs.command(before=ODD_PAGE), NOT_COMPILED, ("custom page sizes",)),
    # Memory.
    "a memory of 4 GiB": Case(text("(memory 65536)"), NOT_COMPILED, ("4294967296", "exceeds the limit of 0x20000000")),
    "a memory of 2 to the 52 bytes": Case(
        text("(memory i64 0x1000000000)"), NOT_COMPILED, ("4503599627370496", "exceeds the limit of 0x20000000")
    ),
    "a memory above the worker's ceiling": Case(text("(memory 8208)"), NOT_COMPILED, ("0x20000000",)),
    "a memory above the task's limit": Case(
        text("(memory 17)"), NOT_STARTED, ("17 pages exceeds memory limits",), {"limits": {"memory_bytes": MIB}}
    ),
    "a memory at the task's limit": Case(text("(memory 16)"), DONE, (), {"limits": {"memory_bytes": MIB}}),
    "an array of 800 MB in a global": Case(
        text("(type $a (array (mut i64))) (global (ref $a) (array.new_default $a (i32.const 100000000)))"),
        ("failed", "oom_guest", None),
        ("GC heap out of memory",),
    ),
    # The start.
    "data behind the end of its memory": Case(
        lambda: bombs.command(before=bombs.ONE_PAGE, after=bombs.segments(1, 10, b"\x41\xff\xff\x03")),
        trapped("memory_out_of_bounds"),
    ),
    "elements behind the end of their table": Case(lambda: bombs.elements(10, 1), trapped("table_out_of_bounds")),
    "a start function that loops": Case(
        lambda: wasm(guests.with_start("(loop $l (br $l))")),
        ("failed", "fuel", None),
        task={"limits": {"fuel": 10**6}},
    ),
    "a start function that loops with fuel to burn": Case(
        lambda: wasm(guests.with_start("(loop $l (br $l))")),
        ("failed", "deadline", None),
        task={"limits": {"fuel": FUEL, "wall_ms": 200}},
    ),
    "a start function that never comes back from the host": Case(
        lambda: wasm(guests.with_start("(call $sleep (i64.const 3600000))")),
        ("failed", "killed_deadline", None),
        task={"limits": {"wall_ms": 200}},
    ),
    "a start function that traps": Case(
        lambda: wasm(guests.with_start("unreachable")), trapped("unreachable_code_reached")
    ),
    "a start function that is refused a growth and traps": Case(
        lambda: wasm(
            guests.with_start("(if (i32.eq (memory.grow (i32.const 65535)) (i32.const -1)) (then unreachable))")
        ),
        trapped("unreachable_code_reached"),
    ),
    "a trap in a function whose name has 8 MB": Case(
        lambda: bombs.command(b"\0", after=bombs.function_name(8 * MIB)),
        trapped("unreachable_code_reached"),
        ("at nnnn", "(function 0, offset 0x"),
    ),
}


@pytest.mark.parametrize("case", RUN)
def test_a_module_that_was_admitted_ends_as_it_must(worker: Worker, case: str) -> None:
    expected = RUN[case]
    ended = worker.await_end(worker.start_task(worker.upload(expected.module()), **expected.task))
    assert expected.end == fields(ended, "state", "reason", "trap_code"), ended["detail"]
    detail = ended["detail"] or ""
    assert [] == [named for named in expected.said if named not in detail], detail
    assert len(detail) <= 4096


# -- linked ---------------------------------------------------------------------------------------------------------

IMPORTS = {
    "a function that nobody has": (
        '(import "env" "gone" (func (param i32) (result i64)))',
        "env.gone (func i32 -> i64)",
    ),
    "a function of WASI's with another type": (
        '(import "wasi_snapshot_preview1" "fd_write" (func (param i64)))',
        "wasi_snapshot_preview1.fd_write (func i64 -> -)",
    ),
    "a function of WASI's as a global": (
        '(import "wasi_snapshot_preview1" "fd_write" (global i32))',
        "wasi_snapshot_preview1.fd_write (global)",
    ),
    "WASI of another version": (
        '(import "wasi_unstable" "fd_close" (func (param i32) (result i32)))',
        "wasi_unstable.fd_close",
    ),
    "a memory": ('(import "env" "memory" (memory 1))', "env.memory (memory)"),
    "a table": ('(import "env" "table" (table 1 funcref))', "env.table (table)"),
    "a tag": ('(import "env" "tag" (tag))', "env.tag (tag)"),
    "a function that returns what is never null": (
        '(import "env" "make" (func (result (ref func))))',
        "env.make (func - -> (ref func))",
    ),
    "a name that would draw on a terminal": ('(import "\\1b[31m" "a\\00b" (func))', "\\u001b[31m.a\\u0000b"),
    "a thousand of them": ("".join(f'(import "e" "{number}" (func))' for number in range(1000)), "and 995 more"),
}
NEVER_STUBBED = {
    "a function of WASI's with another type",
    "a function of WASI's as a global",
    "a memory",
    "a table",
    "a tag",
    "a function that returns what is never null",
}


@pytest.mark.parametrize("case", IMPORTS)
def test_an_import_that_the_worker_lacks_is_named_when_the_task_is_posted(worker: Worker, case: str) -> None:
    source, named = IMPORTS[case]
    module = {"digest": worker.upload(wasm(f"(module {source} {START})"))}
    answer = worker.post(module=module)
    assert ((422, "import_unknown"), "unknown_imports") == (worker.refused(answer), answer.json()["field"])
    assert named in answer.json()["detail"]
    assert len(answer.json()["detail"]) <= 4096
    if case in NEVER_STUBBED:
        assert (422, "import_unknown") == worker.refused(worker.post(module=module, unknown_imports="stub"))
    else:
        assert DONE == fields(worker.run(module["digest"], unknown_imports="stub"), "state", "reason", "trap_code")


def test_a_stub_gives_zero_of_every_type(worker: Worker) -> None:
    module = wasm(
        """(module (import "env" "all" (func $all (param i64 v128) (result i32 i64 f32 f64)))
         (import "env" "null" (func $null (result externref)))
         (func (export "go") (result i32 i64 f32 f64)
          (if (i32.eqz (ref.is_null (call $null))) (then unreachable))
          (call $all (i64.const 7) (v128.const i64x2 1 2))))"""
    )
    ended = worker.run(worker.upload(module), entry={"export": "go"}, unknown_imports="stub")
    assert ("exit", [0, 0, 0, 0]) == fields(ended, "reason", "result")


ENTRIES = {
    "nothing to enter": ("(memory 1)", {}),
    "an entry that is a memory": ('(memory (export "_start") 1)', {}),
    "an entry that takes something": ('(func (export "_start") (param i32))', {}),
    "a parameter that can't be passed": ('(func (export "go") (param externref))', {"entry": {"export": "go"}}),
    "a result that can't be passed": ('(func (export "go") (result v128) unreachable)', {"entry": {"export": "go"}}),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_what_can_not_be_entered_is_refused_when_the_task_is_posted(worker: Worker, case: str) -> None:
    source, task = ENTRIES[case]
    answer = worker.post(module={"digest": worker.upload(wasm(f"(module {source})"))}, **task)
    assert (422, "entry_invalid") == worker.refused(answer)
