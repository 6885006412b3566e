"""Typed exports: every bit of every number, and what can't be called."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import invoke
from runner.protocol import F32, F64, I32, I64
from runner.protocol.status import decode_outcome, encode_outcome
from tests.guests.build import guest
from tests.runner.guest_host import Host, command


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


ECHO = """(module
    (func (export "i32") (param i32) (result i32) (local.get 0))
    (func (export "i64") (param i64) (result i64) (local.get 0))
    (func (export "f32") (param f32) (result f32) (local.get 0))
    (func (export "f64") (param f64) (result f64) (local.get 0))
    (func (export "all") (param i32 i64 f32 f64) (result f64 f32 i64 i32)
      (local.get 3) (local.get 2) (local.get 1) (local.get 0))
    (func (export "none")))"""


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Host, invoke.Prepared]]:
    with Host() as one:
        yield one, one.prepare(ECHO)


@settings(max_examples=100)
@given(kind=st.sampled_from([(I32, "i32", 32), (I64, "i64", 64), (F32, "f32", 32), (F64, "f64", 64)]), data=st.data())
def test_every_bit_of_a_number_comes_back(
    echo: tuple[Host, invoke.Prepared], kind: tuple[int, str, int], data: st.DataObject
) -> None:
    code, name, width = kind
    bits = data.draw(st.integers(0, 2**width - 1))
    one, prepared = echo
    assert ((code, bits),) == one.call(prepared, name, (code, bits)).outcome.results


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (F32, 0x7FC00000),
        (F32, 0xFFC12345),
        (F32, 0x7F800000),
        (F64, 0x7FF8000000000001),
        (F64, 0xFFF8DEADBEEF0001),
        (F64, struct.unpack("<Q", struct.pack("<d", -0.0))[0]),
        (I64, 2**63),
        (I64, 2**64 - 1),
        (I32, 2**31),
    ],
)
def test_nan_payloads_signs_and_extremes_come_back(echo: tuple[Host, invoke.Prepared], kind: int, bits: int) -> None:
    one, prepared = echo
    name = ("i32", "i64", "f32", "f64")[kind]
    outcome = one.call(prepared, name, (kind, bits)).outcome
    assert ("exit", None, ((kind, bits),)) == (outcome.reason, outcome.exit_code, outcome.results)


def test_several_results_come_in_their_order(echo: tuple[Host, invoke.Prepared]) -> None:
    one, prepared = echo
    given_values = ((I32, 1), (I64, 2), (F32, 3), (F64, 4))
    assert tuple(reversed(given_values)) == one.call(prepared, "all", *given_values).outcome.results
    assert () == one.call(prepared, "none").outcome.results


def test_an_export_of_very_many_parameters_and_results_is_called_whole(host: Host) -> None:
    count = 300
    kinds = " i64" * count
    gets = " ".join(f"(local.get {index})" for index in range(count))
    text = f'(module (func (export "wide") (param{kinds}) (result{kinds}) {gets}))'
    values = tuple((I64, 7 * index) for index in range(count))
    outcome = host.call(text, "wide", *values).outcome
    assert values == outcome.results
    assert values == decode_outcome(encode_outcome(outcome)[8:]).results


@pytest.mark.parametrize(
    ("export", "params", "detail"),
    [
        ("missing", (), "the module exports no function 'missing'"),
        ("memory", (), "the module exports no function 'memory'"),
        ("one", (), "'one' takes (i32), not ()"),
        ("one", ((I64, 1),), "'one' takes (i32), not (i64)"),
        ("one", ((I32, 1), (I32, 1)), "'one' takes (i32), not (i32, i32)"),
        ("vector", (), "'vector' returns (a reference or vector): only numbers can be"),
        ("reference", (), "'reference' returns (i32, a reference or vector): only numbers can be"),
        ("structure", (), "'structure' returns (a reference or vector): only numbers can be"),
        ("takes", (), "'takes' takes (a reference or vector), not ()"),
    ],
)
def test_an_export_that_cant_be_called_is_a_value(
    host: Host, export: str, params: tuple[tuple[int, int], ...], detail: str
) -> None:
    text = """(module (memory (export "memory") 1) (type $s (struct))
        (func (export "one") (param i32) unreachable)
        (func (export "vector") (result v128) unreachable)
        (func (export "reference") (result i32 funcref) unreachable)
        (func (export "structure") (result (ref $s)) unreachable)
        (func (export "takes") (param (ref null $s)) unreachable))"""
    prepared = host.prepare(text)
    for _ in range(2):  # found out once, remembered after
        outcome = host.call(prepared, export, *params).outcome
        assert ("link_failed", detail) == (outcome.reason, outcome.detail)


def test_a_command_without_start_and_one_with_a_wrong_start_are_values(host: Host) -> None:
    missing = host.run("(module)").outcome
    wrong = host.run('(module (func (export "_start") (param i32)))').outcome
    assert ("link_failed", "the module exports no function '_start'") == (missing.reason, missing.detail)
    assert ("link_failed", "'_start' takes (i32), not ()") == (wrong.reason, wrong.detail)


def test_parameters_of_a_job_without_an_entry_are_ignored(host: Host) -> None:
    assert "exit" == host.run(command(""), params=((I32, 1),)).reason


def test_a_reactor_is_initialized_before_its_export_is_called(host: Host) -> None:
    prepared = host.prepare(guest("maths", reactor=True))
    assert ((I32, 1),) == host.call(prepared, "ready").outcome.results
    assert ((I32, 42),) == host.call(prepared, "add", (I32, 19), (I32, 23)).outcome.results
    assert ((I64, 2**64 - 2),) == host.call(prepared, "add64", (I64, 2**64 - 1), (I64, 2**64 - 1)).outcome.results
    half = struct.unpack("<I", struct.pack("<f", 0.5))[0]
    one = struct.unpack("<I", struct.pack("<f", 1.0))[0]
    assert ((F32, half),) == host.call(prepared, "halve", (F32, one)).outcome.results


def test_a_reactor_that_fails_to_initialize_ends_so(host: Host) -> None:
    text = '(module (func (export "_initialize") unreachable) (func (export "go")))'
    assert "trap" == host.call(text, "go").reason


def test_an_export_that_exits_ends_with_the_code_and_no_result(host: Host) -> None:
    text = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func (export "go") (result i32) (call $exit (i32.const 3)) (i32.const 1)))"""
    outcome = host.call(text, "go").outcome
    assert ("nonzero_exit", 3, ()) == (outcome.reason, outcome.exit_code, outcome.results)
