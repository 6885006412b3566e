"""Guests made to hurt while they run, over REST: each ends as it must, and the next job is none the wiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner import wasi_abi as abi
from tests.e2e import guests
from tests.e2e.harness import Worker, fields, running, wasm
from tests.runner.test_invoke import TRAPS
from tests.runner.wasi_oracle import probe_module

pytestmark = pytest.mark.usefixtures("an_ordinary_job_follows")

MIB = 1 << 20
FUEL = 10**15  # more than any of these burns before its time is over
LOOP = {"limits": {"fuel": FUEL, "wall_ms": 200}}
SMALL = {"limits": {"fuel": FUEL, "memory_bytes": 8 * MIB}}


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data") as started:
        yield started


# -- traps ---------------------------------------------------------------------------------------------------------

# What a trap's snippet can name: types, a memory, a table of two with $start at 1; passive segments.
TRAPPING = """(module (type $s (struct (field i32))) (type $a (array (mut i32))) (type $f (func))
 (memory (export "memory") 1) (table $t 2 funcref) (elem (i32.const 1) $start) (tag $e)
 (data $d "four") (elem $el func $start)
 (func $start (export "_start") {}))"""
MORE_TRAPS = {
    "a float too large for an integer": ("integer_overflow", "(drop (i64.trunc_f64_u (f64.const 1e300)))"),
    "a remainder by zero": ("integer_division_by_zero", "(drop (i64.rem_s (i64.const 1) (i64.const 0)))"),
    "an address that wraps": ("memory_out_of_bounds", "(drop (i64.load offset=0xffffffff (i32.const -1)))"),
    "a fill of all and more": (
        "memory_out_of_bounds",
        "(memory.fill (i32.const 1) (i32.const 0) (i32.const 65536))",
    ),
    "a copy from behind the end": (
        "memory_out_of_bounds",
        "(memory.copy (i32.const 0) (i32.const -1) (i32.const -1))",
    ),
    "a data segment that was dropped": (
        "memory_out_of_bounds",
        "(data.drop $d) (memory.init $d (i32.const 0) (i32.const 0) (i32.const 4))",
    ),
    "a table's element behind the end": ("table_out_of_bounds", "(drop (table.get $t (i32.const -1)))"),
    "an element segment that was dropped": (
        "table_out_of_bounds",
        "(elem.drop $el) (table.init $t $el (i32.const 0) (i32.const 0) (i32.const 1))",
    ),
    "a call of a null reference": ("null_reference", "(call_ref $f (ref.null $f))"),
    "null as what is never null": ("null_reference", "(drop (ref.as_non_null (ref.null $s)))"),
    "a null exception thrown": ("null_reference", "(throw_ref (ref.null exn))"),
    "an array beyond its end": (
        "array_out_of_bounds",
        "(array.fill $a (array.new $a (i32.const 0) (i32.const 2)) (i32.const 1) (i32.const 0) (i32.const -1))",
    ),
    "an array of four billion": ("allocation_too_large", "(drop (array.new_default $a (i32.const -1)))"),
    "recursion through a table": ("stack_overflow", "(call_indirect (type $f) (i32.const 1))"),
    "recursion with a frame of ten thousand locals": ("stack_overflow", f"(local {'i64 ' * 10_000}) (call $start)"),
}


def started(worker: Worker, source: str, **task: Any) -> dict[str, Any]:
    return worker.await_end(worker.start_task(worker.upload(wasm(source)), **task))


@pytest.mark.parametrize("isolation", ["process", "instance"])
@pytest.mark.parametrize("code", sorted(TRAPS))
def test_a_trap_of_every_kind_is_told_by_its_code(worker: Worker, code: str, isolation: str) -> None:
    ended = started(worker, TRAPPING.format(TRAPS[code]), isolation=isolation)
    assert ("failed", "trap", code, None) == fields(ended, "state", "reason", "trap_code", "exit_code")
    assert ended["detail"].startswith(f"wasm trap: {code}\nat ")


@pytest.mark.parametrize("case", MORE_TRAPS)
def test_what_traps_is_told_by_its_code(worker: Worker, case: str) -> None:
    code, snippet = MORE_TRAPS[case]
    ended = started(worker, TRAPPING.format(snippet))
    assert ("failed", "trap", code) == fields(ended, "state", "reason", "trap_code"), ended["detail"]


def test_an_exception_that_nobody_catches_is_a_trap_without_a_code(worker: Worker) -> None:
    ended = started(worker, TRAPPING.format("(throw $e)"))
    assert ("failed", "trap", None) == fields(ended, "state", "reason", "trap_code")
    assert "exception" in ended["detail"]


# -- bombs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`end`: state, reason, result; `task`: what is asked for; `said`: what the detail names."""

    source: str
    end: tuple[str, str, Any]
    task: dict[str, Any] = field(default_factory=dict)
    said: str = ""


def entering(export: str, *params: Any, **task: Any) -> dict[str, Any]:
    return {"entry": {"export": export, "params": list(params)}, **task}


def looping(body: str, more: str = "") -> str:
    """A command that does it for ever."""
    return f'(module {more} (func (export "_start") (loop $l {body} (br $l))))'


def growing(kind: str, spaces: int, one: str, how: str) -> str:
    """Grows each of so many memories or tables until it can't, then says how often it could."""
    loops = "".join(
        f"(loop $l{n} (if (i32.ne ({how.format(n)}) (i32.const -1)) "
        f"(then (local.set 0 (i32.add (local.get 0) (i32.const 1))) (br $l{n}))))"
        for n in range(spaces)
    )
    return f'(module {one * spaces} (func (export "go") (result i32) (local i32) {loops} (local.get 0))) ;; {kind}'


def wasi(name: str, params: str) -> str:
    return f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) (result i32)))'


def failed(reason: str) -> tuple[str, str, None]:
    return ("failed", reason, None)


def gave(*result: int) -> tuple[str, str, list[int]]:
    return ("completed", "exit", list(result))


NODES = "(type $node (struct (field i64) (field (ref null $node)))) (type $big (array (mut i64)))"
MEMORY = '(memory (export "memory") 100)'
BOMBS = {
    # Loops.
    "a loop until its fuel is gone": Case(looping(""), failed("fuel"), {"limits": {"fuel": 10**6}}),
    "a loop until its time is over": Case(looping(""), failed("deadline"), LOOP),
    "two functions that call each other at their tails for ever": Case(
        '(module (func $a (return_call $b)) (func $b (return_call $a)) (func (export "_start") (return_call $a)))',
        failed("deadline"),
        LOOP,
    ),
    "exceptions thrown and caught for ever": Case(
        looping("(block $h (try_table (catch $e $h) (throw $e)))", "(tag $e)"), failed("deadline"), LOOP
    ),
    "memory filled for ever": Case(
        looping("(memory.fill (i32.const 0) (i32.const 1) (i32.const 6553600))", MEMORY), failed("deadline"), LOOP
    ),
    "tables copied for ever": Case(
        looping("(table.copy (i32.const 0) (i32.const 1) (i32.const 199999))", "(table 200000 funcref)"),
        failed("deadline"),
        LOOP,
    ),
    "the clock asked for ever": Case(
        looping(
            "(drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 0)))",
            wasi("clock_time_get", "i32 i64 i32") + MEMORY,
        ),
        failed("deadline"),
        LOOP,
    ),
    "random bytes for ever": Case(
        looping("(drop (call $random_get (i32.const 0) (i32.const 6553600)))", wasi("random_get", "i32 i32") + MEMORY),
        failed("deadline"),
        LOOP,
    ),
    "yields for ever": Case(
        looping(
            "(drop (call $sched_yield))",
            '(import "wasi_snapshot_preview1" "sched_yield" (func $sched_yield (result i32)))',
        ),
        failed("deadline"),
        LOOP,
    ),
    # Blocked in the host.
    "a sleep of an hour": Case(
        guests.SLEEPER, failed("killed_deadline"), entering("block", limits={"wall_ms": 200}), "200 ms"
    ),
    "a sleep of 292 years": Case(
        guests.SLEEPER, failed("killed_deadline"), entering("nap", 9_223_372_036_854, limits={"wall_ms": 200})
    ),
    "a sleep whose time wraps": Case(guests.SLEEPER, gave(), entering("nap", "0")),
    # Memory.
    "a memory that is refused": Case(guests.GROWER, gave(-1), entering("grow", 65_535)),
    "a memory to its limit, and a trap": Case(guests.GROWER, failed("oom_guest"), entering("hog", **SMALL)),
    "four memories, each to its limit": Case(
        growing("memory", 4, "(memory 1)", "memory.grow {} (i32.const 1)"), gave(4 * 127), entering("go", **SMALL)
    ),
    "a memory of 64-bit addresses": Case(
        '(module (memory i64 1) (func (export "go") (result i64) (memory.grow (i64.const 0x7fffffffffff))))',
        gave(-1),
        entering("go"),
    ),
    "eight tables to their limit": Case(
        growing("table", 8, "(table 0 externref)", "table.grow {} (ref.null extern) (i32.const 1000)"),
        gave(8 * 200),
        entering("go", **SMALL),
    ),
    "a list without an end": Case(
        f"(module {NODES} (global $head (mut (ref null $node)) (ref.null $node))"
        ' (func (export "_start") (loop $l (global.set $head (struct.new $node (i64.const 1) (global.get $head)))'
        " (br $l))))",
        failed("oom_guest"),
        SMALL,
        "GC heap out of memory",
    ),
    "an array larger than the limit": Case(
        f'(module {NODES} (func (export "_start") (drop (array.new_default $big (i32.const 2000000)))))',
        failed("oom_guest"),
        SMALL,
        "GC heap out of memory",
    ),
    "garbage for ever": Case(
        looping("(drop (array.new_default $big (i32.const 10000)))", NODES),
        failed("deadline"),
        {"limits": {"fuel": FUEL, "wall_ms": 500, "memory_bytes": 8 * MIB}},
    ),
    "cycles, which the collector of counts never frees": Case(
        looping(
            "(local.set $a (struct.new $knot (ref.null $knot))) (struct.set $knot 0 (local.get $a) (local.get $a))",
            "(type $knot (struct (field (mut (ref null $knot)))))",
        ).replace('(func (export "_start")', '(func (export "_start") (local $a (ref null $knot))'),
        failed("oom_guest"),
        SMALL,
        "GC heap out of memory",
    ),
    # Floods.
    "a flood of stdout": Case(guests.FLOOD, failed("output_limit"), entering("fill", 1, limits={"output_bytes": 1000})),
    "a flood of stderr": Case(guests.FLOOD, failed("output_limit"), entering("fill", 2, limits={"output_bytes": 1000})),
    "a word where none is allowed": Case(
        guests.FLOOD, failed("output_limit"), entering("exact", 1, limits={"output_bytes": 0})
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_ends_as_it_must(worker: Worker, case: str) -> None:
    expected = BOMBS[case]
    ended = started(worker, expected.source, **expected.task)
    assert expected.end == fields(ended, "state", "reason", "result"), ended["detail"]
    assert expected.said in (ended["detail"] or "")
    assert (expected.end[1] == "output_limit") == ended["truncated"]


@pytest.mark.parametrize(("fd", "stream"), [(1, "stdout"), (2, "stderr")])
def test_of_a_flood_that_is_kept_which_came_before_the_limit(worker: Worker, fd: int, stream: str) -> None:
    task = entering("fill", fd, limits={"output_bytes": 1000, "fuel": FUEL})
    ended = started(worker, guests.FLOOD, **task)
    assert b"a" * 600 + b"b" * 400 == worker.http.get(f"/tasks/{ended['id']}/{stream}").content


@pytest.mark.parametrize("code", [0, 1, 126, 255, 256, 65_536, 2**31 - 1, -1, -(2**31)])
def test_an_exit_code_is_told_as_it_was_given(worker: Worker, code: int) -> None:
    source = f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
     (func (export "_start") (call $exit (i32.const {code})) unreachable))"""
    state, reason = ("failed", "nonzero_exit") if code else ("completed", "exit")
    assert (state, reason, code, None) == fields(started(worker, source), "state", "reason", "exit_code", "trap_code")


# -- wild pointers -------------------------------------------------------------------------------------------------

PROBED = sorted(name for name in abi.SIGNATURES if name not in ("proc_exit", "sched_yield", "args_get"))
GIVEN = {"env": {"ONE": "1"}}  # an export that is called has no arguments
PROBES = wasm(probe_module())
HUGE = {  # each argument, for those that are huge without being out of the way at once
    "arguments: none, written nowhere": ("args_get", [-1, -1], abi.SUCCESS),
    "variables: none, written nowhere": ("environ_get", [-1, -1], abi.SUCCESS),
    "iovecs: two billion of them": ("fd_write", [1, 0, 2**31 - 1, 8], abi.ENOMEM),
    "iovecs: four billion of them": ("fd_write", [1, 0, -1, 8], abi.ENOMEM),
    "iovecs: two billion of them to read into": ("fd_read", [0, 0, 2**31 - 1, 8], abi.ENOMEM),
    "iovecs: as many as the memory holds, and one": ("fd_write", [1, 0, 8193, 0], abi.SUCCESS),
    "random bytes: all that there is": ("random_get", [0, 65_536], abi.SUCCESS),
    "random bytes: one more": ("random_get", [0, 65_537], abi.EFAULT),
    "random bytes: four billion": ("random_get", [0, -1], abi.EFAULT),
    "subscriptions: four billion": ("poll_oneoff", [0, 0, -1, 8], abi.ENOMEM),
    "subscriptions: none": ("poll_oneoff", [0, 0, 0, 8], abi.EINVAL),
}


def errno(worker: Worker, name: str, params: list[int], **given: Any) -> int:
    ended = worker.await_end(worker.start_task(worker.upload(PROBES), **entering(name, *params, **given)))
    assert ("completed", "exit") == fields(ended, "state", "reason"), ended["detail"]
    (result,) = ended["result"]
    return int(result)


@pytest.mark.parametrize("name", PROBED)
def test_a_function_of_wasis_with_nothing_but_wild_arguments_gives_an_error(worker: Worker, name: str) -> None:
    assert 0 < errno(worker, name, [-1] * len(abi.SIGNATURES[name]), **GIVEN) < 77


@pytest.mark.parametrize("case", HUGE)
def test_what_is_huge_ends_soon(worker: Worker, case: str) -> None:
    name, params, expected = HUGE[case]
    assert expected == errno(worker, name, params)


# -- what is left behind -------------------------------------------------------------------------------------------

# `soil` changes all that an instance has; `look` says what it finds: zeros, in a fresh one.
SOILED = """(module (type $n (struct (field (mut i32)))) (memory (export "memory") 2) (memory $two 1) (table $t 2 funcref)
 (global $g (mut i32) (i32.const 0)) (global $r (mut (ref null $n)) (ref.null $n)) (global $i (mut i64) (i64.const 0))
 (data $d "seed") (elem $e func $f) (func $f)
 (func (export "soil") (result i32)
  (global.set $g (i32.const 1)) (global.set $i (i64.const 1)) (global.set $r (struct.new $n (i32.const 1)))
  (memory.fill (i32.const 0) (i32.const 255) (i32.const 131072))
  (memory.fill $two (i32.const 0) (i32.const 255) (i32.const 65536))
  (drop (memory.grow (i32.const 16))) (memory.fill (i32.const 131072) (i32.const 255) (i32.const 1048576))
  (table.set $t (i32.const 0) (ref.func $f)) (drop (table.grow $t (ref.func $f) (i32.const 100)))
  (data.drop $d) (elem.drop $e) (i32.const 1))
 (func $bits (param $at i32) (param $to i32) (result i64) (local $all i64)
  (loop $l (local.set $all (i64.or (local.get $all) (i64.load (local.get $at))))
   (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $to))))
  (local.get $all))
 (func (export "look") (result i32 i64 i32 i64 i64 i32 i64 i32 i32)
  (global.get $g) (global.get $i) (i32.eqz (ref.is_null (global.get $r)))
  (call $bits (i32.const 0) (i32.const 131072)) (i64.load $two (i32.const 32768))
  (i32.sub (memory.size) (i32.const 2))
  (drop (memory.grow (i32.const 16))) (call $bits (i32.const 131072) (i32.const 1179648))
  (i32.eqz (ref.is_null (table.get $t (i32.const 0)))) (i32.sub (table.size $t) (i32.const 2))
  (memory.init $d (i32.const 0) (i32.const 0) (i32.const 4)) (table.init $t $e (i32.const 1) (i32.const 0) (i32.const 1))))
"""  # noqa: E501 - a table of what there is
FRESH = [0] * 9


def warm(worker: Worker, export: str, digest: str, **task: Any) -> dict[str, Any]:
    return worker.run(digest, entry={"export": export}, isolation="instance", **task)


def test_nothing_that_an_instance_has_is_seen_by_the_next_job_of_its_runner(worker: Worker) -> None:
    digest = worker.upload(wasm(SOILED))
    seen = []
    for _ in range(3):
        assert [1] == warm(worker, "soil", digest)["result"]
        seen.append(warm(worker, "look", digest)["result"])
    assert [FRESH] * 3 == seen


@pytest.mark.parametrize("end", ["trap", "fuel", "deadline", "killed_deadline", "output_limit", "oom_guest"])
def test_a_job_that_fails_in_a_warm_runner_leaves_the_next_a_fresh_instance(worker: Worker, end: str) -> None:
    source, task = {
        "trap": ("(call $soil) unreachable", {}),
        "fuel": ("(call $soil) (loop $l (br $l))", {"fuel": 10**6}),
        "deadline": ("(call $soil) (loop $l (br $l))", {"fuel": FUEL, "wall_ms": 100}),
        "killed_deadline": ("(call $soil) (call $sleep (i64.const 3600000))", {"wall_ms": 100}),
        "output_limit": ("(call $soil) (loop $l (call $say) (br $l))", {"output_bytes": 100}),
        "oom_guest": (
            "(call $soil) (loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
            {"memory_bytes": 2 * MIB},
        ),
    }[end]
    module = f"""(module {wasi("fd_write", "i32 i32 i32 i32")} {guests.SLEEPING} (global $g (mut i32) (i32.const 0))
     (data (i32.const 1024) "\\00\\04\\00\\00\\40\\00\\00\\00")
     (func $soil (global.set $g (i32.const 1)) (memory.fill (i32.const 4096) (i32.const 255) (i32.const 4096)))
     (func $say (drop (call $fd_write (i32.const 1) (i32.const 1024) (i32.const 1) (i32.const 2048))))
     (func (export "go") {source})
     (func (export "look") (result i32 i64) (global.get $g) (i64.load (i32.const 4096))))"""
    digest = worker.upload(wasm(module))
    assert [0, 0] == warm(worker, "look", digest, limits=task)["result"]
    assert ("failed", end) == fields(warm(worker, "go", digest, limits=task), "state", "reason")
    assert [0, 0] == warm(worker, "look", digest, limits=task)["result"]


def test_stdin_that_one_job_leaves_is_not_what_the_next_reads(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SIPPER))
    given = ["first job's secret, most of it unread" * 1000, "", "second"]
    ended = [worker.run(digest, stdin=text, isolation="instance") for text in given]
    assert [text[:16].encode() for text in given] == [worker.stdout(task["id"]) for task in ended]


def test_streams_that_one_job_closes_are_there_for_the_next(worker: Worker) -> None:
    digest = worker.upload(PROBES)
    for name, params, expected in [("fd_close", [1], abi.SUCCESS), ("fd_renumber", [2, 1], abi.SUCCESS)]:
        task = {"entry": {"export": name, "params": params}, "isolation": "instance"}
        assert [expected] == worker.run(digest, **task)["result"]
        after = {"entry": {"export": "fd_write", "params": [1, 0, 1, 8]}, "isolation": "instance"}
        assert [abi.SUCCESS] == worker.run(digest, **after)["result"]
