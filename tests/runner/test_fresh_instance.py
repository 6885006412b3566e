"""Nothing of one instance is left for the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runner.protocol import I32
from tests.runner.guest_host import MIB, Host, command

LOOP = "(loop $l (br $l))"
COUNT = """(module (func (export "_start") (local $left i32)
    (local.set $left (i32.const {times}))
    (loop $each (br_if $each (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


STATE = """(module
    (memory (export "memory") 1) (data (i32.const 100) "first") (global $g (mut i32) (i32.const 5))
    (table $t 2 funcref) (elem $e func $f) (func $f)
    (func (export "dirty")
      (drop (memory.grow (i32.const 200)))
      (memory.fill (i32.const 0) (i32.const 0xAA) (i32.const 13172736))
      (global.set $g (i32.const 99)) (data.drop 0)
      (drop (table.grow $t (ref.func $f) (i32.const 5000)))
      (table.fill $t (i32.const 0) (ref.func $f) (i32.const 5002)) (elem.drop $e))
    (func (export "dirty_and_trap") (call 1) unreachable)
    (func (export "look") (result i32 i32 i32 i32 i32 i32) (local $i i32) (local $sum i32)
      (memory.size) (global.get $g) (table.size $t)
      (i32.load8_u (i32.const 100))
      (ref.is_null (table.get $t (i32.const 0)))
      (drop (memory.grow (i32.const 200)))
      (loop $each
        (local.set $sum (i32.or (local.get $sum) (i32.load (local.get $i))))
        (local.set $i (i32.add (local.get $i) (i32.const 4)))
        (br_if $each (i32.lt_u (local.get $i) (i32.const 96))))
      (local.set $i (i32.const 108))
      (loop $each
        (local.set $sum (i32.or (local.get $sum) (i32.load (local.get $i))))
        (local.set $i (i32.add (local.get $i) (i32.const 4)))
        (br_if $each (i32.lt_u (local.get $i) (i32.const 13172736))))
      (local.get $sum)))"""


@pytest.mark.parametrize("dirtier", ["dirty", "dirty_and_trap"])
def test_an_instance_finds_nothing_of_the_one_before_it(host: Host, dirtier: str) -> None:
    prepared = host.prepare(STATE)
    fresh = [(I32, 1), (I32, 5), (I32, 2), (I32, ord("f")), (I32, 1), (I32, 0)]
    for _ in range(3):
        assert fresh == list(host.call(prepared, "look").outcome.results)
        assert {"dirty": "exit", "dirty_and_trap": "trap"}[dirtier] == host.call(prepared, dirtier).reason


def test_another_module_finds_nothing_of_the_one_before_it(host: Host) -> None:
    dirty, look = host.prepare(STATE), host.prepare(STATE.replace("(i32.const 5))", "(i32.const 6))", 1))
    host.call(dirty, "dirty")
    results = host.call(look, "look").outcome.results
    assert [1, 6, 2, ord("f"), 1, 0] == [bits for _kind, bits in results]


def test_a_thousand_instances_of_all_endings_leave_no_memory_behind(host: Host) -> None:
    prepared = host.prepare(STATE)
    loop = host.prepare(command(LOOP))

    def round_() -> None:
        for _ in range(100):
            host.call(prepared, "look", fuel=100)
            host.call(prepared, "dirty_and_trap")
            host.run(loop, fuel=1000)

    def resident_bytes() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    round_()
    before = resident_bytes()
    round_()
    assert resident_bytes() - before < 2 * MIB
