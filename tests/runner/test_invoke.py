"""One job in a fresh instance: every ending with its reason, and usage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runner import invoke
from runner.protocol.status import decode_outcome, encode_outcome
from tests.runner.guest_host import MIB, Host, command

LOOP = "(loop $l (br $l))"
COUNT = """(module (func (export "_start") (local $left i32)
    (local.set $left (i32.const {times}))
    (loop $each (br_if $each (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


@contextmanager
def ticking(host: Host) -> Iterator[None]:
    """A thread that pushes the epoch, as the runner's ticker does."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(invoke.TICK_MS / 1000):
            host.engine.increment_epoch()

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_command_that_returns_is_exit_0(host: Host) -> None:
    outcome = host.run(command("")).outcome
    assert ("exit", 0, (), "") == (outcome.reason, outcome.exit_code, outcome.results, outcome.detail)


@pytest.mark.parametrize(
    ("code", "reason"), [(0, "exit"), (1, "nonzero_exit"), (255, "nonzero_exit"), (-1, "nonzero_exit")]
)
def test_proc_exit_ends_with_its_code_and_runs_nothing_more(host: Host, code: int, reason: str) -> None:
    body = f"(call $exit (i32.const {code})) (unreachable)"
    imported = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    outcome = host.run(command(body, imported)).outcome
    assert (reason, code, None) == (outcome.reason, outcome.exit_code, outcome.trap_code)


TRAPS = {
    "unreachable_code_reached": "unreachable",
    "integer_division_by_zero": "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
    "integer_overflow": "(drop (i32.div_s (i32.const -2147483648) (i32.const -1)))",
    "bad_conversion_to_integer": "(drop (i32.trunc_f32_s (f32.const nan)))",
    "memory_out_of_bounds": "(drop (i32.load (i32.const 65536)))",
    "table_out_of_bounds": "(call_indirect (i32.const 9))",
    "indirect_call_to_null": "(call_indirect (i32.const 0))",
    "bad_signature": "(call_indirect (param i32) (i32.const 1) (i32.const 1))",
    "stack_overflow": "(call $start)",
    "null_reference": "(drop (struct.get $s 0 (ref.null $s)))",
    "cast_failure": "(drop (ref.cast (ref struct) (ref.i31 (i32.const 1))))",
    "array_out_of_bounds": "(drop (array.get $a (array.new $a (i32.const 0) (i32.const 2)) (i32.const 2)))",
}


@pytest.mark.parametrize("code", sorted(TRAPS))
def test_a_trap_keeps_wasmtimes_code(host: Host, code: str) -> None:
    text = f"""(module
        (type $s (struct (field i32))) (type $a (array i32)) (memory (export "memory") 1) (table 2 funcref)
        (elem (i32.const 1) $start) (func $start (export "_start") {TRAPS[code]}))"""
    outcome = host.run(text).outcome
    assert ("trap", code, None) == (outcome.reason, outcome.trap_code, outcome.exit_code)
    assert outcome.detail.startswith(f"wasm trap: {code}\nat ")


def test_an_exception_that_nobody_catches_is_a_trap(host: Host) -> None:
    outcome = host.run(command("(throw $e)", "(tag $e)")).outcome
    assert "trap" == outcome.reason
    assert "exception" in outcome.detail


def test_fuel_ends_a_loop_at_the_same_place_each_time(host: Host) -> None:
    prepared = host.prepare(command(LOOP))
    outcomes = [host.run(prepared, fuel=10_000).outcome for _ in range(3)]
    assert [("fuel", None)] * 3 == [(outcome.reason, outcome.trap_code) for outcome in outcomes]
    assert 1 == len({outcome.fuel_used for outcome in outcomes})
    assert 10_000 == outcomes[0].fuel_used


def test_what_a_guest_used_is_enough_for_it_the_next_time(host: Host) -> None:
    prepared = host.prepare(COUNT.format(times=1000))
    used = host.run(prepared).outcome.fuel_used
    assert 1000 < used
    assert "exit" == host.run(prepared, fuel=used + 1).reason
    assert "fuel" == host.run(prepared, fuel=used // 2).reason


def test_the_largest_fuel_of_the_contract_is_taken(host: Host) -> None:
    assert "exit" == host.run(command(""), fuel=2**63 - 1).reason


def test_the_deadline_ends_a_loop(host: Host) -> None:
    with ticking(host):
        outcome = host.run(command(LOOP), wall_ms=50, fuel=2**62).outcome
    assert ("deadline", None) == (outcome.reason, outcome.trap_code)
    assert 50_000 <= outcome.run_us


def test_a_stop_ends_a_loop_and_is_told_from_the_deadline(host: Host) -> None:
    prepared = host.prepare(command(LOOP))
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        for _ in range(10_000 // invoke.TICK_MS + 2):
            host.engine.increment_epoch()

    timer = threading.Timer(0.05, stop)
    timer.start()
    outcome = host.run(prepared, fuel=2**62, wall_ms=10_000, stopped=stopped.is_set).outcome
    timer.join()
    assert "stopped" == outcome.reason


@pytest.mark.parametrize("reason", ["fuel", "deadline", "trap", "nonzero_exit"])
def test_a_start_function_is_under_every_limit_and_keeps_its_own_reason(host: Host, reason: str) -> None:
    body = {"trap": "unreachable", "nonzero_exit": "(call $exit (i32.const 5))"}.get(reason, LOOP)
    text = f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func $first {body}) (start $first) (func (export "_start")))"""
    with ticking(host):
        outcome = host.run(text, wall_ms=50, fuel=1000 if reason == "fuel" else 2**62).outcome
    assert reason == outcome.reason
    assert 0 == outcome.peak_memory_bytes


def test_data_that_lies_outside_of_the_memory_is_a_trap_of_the_start(host: Host) -> None:
    outcome = host.run(command("", '(memory 1) (data (i32.const 65530) "too long")')).outcome
    assert ("trap", "memory_out_of_bounds") == (outcome.reason, outcome.trap_code)


def test_a_module_that_begins_with_more_memory_than_it_may_have_fails_at_init(host: Host) -> None:
    outcome = host.run(command("", '(memory (export "memory") 17)'), memory_bytes=MIB).outcome
    assert "init_failed" == outcome.reason
    assert "memory" in outcome.detail


def test_a_traps_text_is_capped_however_long_the_functions_names_are(host: Host) -> None:
    name = "n" * 1_000_000
    outcome = host.run(f'(module (func $"{name}" unreachable) (func (export "_start") call 0))').outcome
    assert outcome.detail.startswith("wasm trap: unreachable_code_reached\nat nnn")
    assert len(outcome.detail) <= 4096
    assert 2 == outcome.detail.count("\nat ")


def test_usage_is_told(host: Host) -> None:
    prepared = host.prepare(COUNT.format(times=3_000_000))
    started = time.monotonic_ns()
    outcome = host.run(prepared).outcome
    wall_us = (time.monotonic_ns() - started) // 1000
    assert 3_000_000 < outcome.fuel_used < 10**9
    assert 0 < outcome.run_us <= wall_us
    assert 0 < outcome.init_us + outcome.run_us <= wall_us
    assert 0 < outcome.cpu_us


def test_an_outcome_survives_the_wire(host: Host) -> None:
    outcome = host.run(command("unreachable")).outcome
    back = decode_outcome(encode_outcome(outcome)[8:])
    assert {name: getattr(outcome, name) for name in outcome.__slots__} == {
        name: getattr(back, name) for name in back.__slots__
    }
