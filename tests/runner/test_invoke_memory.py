"""The memory limit, and what is told when a guest comes to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runner.protocol import I32, I64
from tests.guests.build import guest
from tests.runner.guest_host import MIB, PAGE, Host, command


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


GROW = """(module (memory (export "memory") 1)
    (func (export "_start")
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const {step})) (i32.const -1))))
      {then}))"""


@pytest.mark.parametrize("step", [1, 4, 15])
def test_a_trap_after_the_memory_was_used_up_is_oom_guest(host: Host, step: int) -> None:
    outcome = host.run(GROW.format(step=step, then="unreachable"), memory_bytes=16 * MIB).outcome
    assert ("oom_guest", "unreachable_code_reached") == (outcome.reason, outcome.trap_code)
    assert 15 * MIB < outcome.peak_memory_bytes <= 16 * MIB


def test_a_refused_growth_alone_is_no_failure(host: Host) -> None:
    outcome = host.run(GROW.format(step=1, then=""), memory_bytes=16 * MIB).outcome
    assert ("exit", 16 * MIB) == (outcome.reason, outcome.peak_memory_bytes)


@pytest.mark.parametrize("then", ["(drop (i32.div_u (i32.const 1) (i32.const 0)))", "(call 0)"])
def test_a_trap_that_no_failed_allocation_ends_in_stays_a_trap(host: Host, then: str) -> None:
    assert "trap" == host.run(GROW.format(step=1, then=then), memory_bytes=4 * MIB).reason


def test_a_trap_far_from_the_limit_stays_a_trap(host: Host) -> None:
    outcome = host.run(command("unreachable", '(memory (export "memory") 8)'), memory_bytes=MIB).outcome
    assert ("trap", 8 * PAGE) == (outcome.reason, outcome.peak_memory_bytes)


def test_a_hog_in_c_is_oom_guest_and_one_that_copes_is_not(host: Host) -> None:
    prepared = host.prepare(guest("hog"))
    aborted = host.run(prepared, args=(b"hog", b"256"), memory_bytes=32 * MIB)
    coped = host.run(prepared, args=(b"hog", b"256", b"return"), memory_bytes=32 * MIB)
    assert ("oom_guest", "nonzero_exit", 7) == (aborted.reason, coped.reason, coped.outcome.exit_code)
    assert 8 * MIB < int(coped.stdout) < 32 * MIB


def test_a_gc_heap_is_under_the_memory_limit(host: Host) -> None:
    text = """(module (type $a (array (mut i64))) (table $kept 10000 (ref null $a))
        (func (export "_start") (local $i i32)
          (loop $more
            (table.set $kept (local.get $i) (array.new $a (i64.const 1) (i32.const 10000)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 10000))))))"""
    outcome = host.run(text, memory_bytes=8 * MIB, fuel=10**10).outcome
    assert "oom_guest" == outcome.reason, outcome.detail


def test_every_memory_has_the_limit_for_itself_and_all_are_counted_once(host: Host) -> None:
    text = """(module (memory $a (export "a") (export "again") 2) (memory $b (export "b") 3)
        (func (export "go") (result i32 i32)
          (memory.grow $a (i32.const 14)) (memory.grow $b (i32.const 14))))"""
    outcome = host.call(text, "go", memory_bytes=16 * PAGE).outcome
    assert [(I32, 2), (I32, 0xFFFFFFFF)] == list(outcome.results)
    assert (16 + 3) * PAGE == outcome.peak_memory_bytes


def test_a_table_has_its_limit(host: Host) -> None:
    text = """(module (table 1 funcref) (func (export "go") (result i32 i32)
        (table.grow (ref.null func) (i32.const 199999)) (table.grow (ref.null func) (i32.const 1))))"""
    assert [(I32, 1), (I32, 0xFFFFFFFF)] == list(host.call(text, "go").outcome.results)


def test_a_64_bit_memory_has_the_limit_too(host: Host) -> None:
    text = """(module (memory (export "memory") i64 1) (func (export "go") (result i64 i64)
        (memory.grow (i64.const 15)) (memory.grow (i64.const 1))))"""
    outcome = host.call(text, "go", memory_bytes=16 * PAGE).outcome
    assert [(I64, 1), (I64, 2**64 - 1)] == list(outcome.results)
