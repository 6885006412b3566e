"""Imports that the worker has, lacks, or stands in for; and what linking may not do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runner import invoke
from runner.errors import EngineError
from tests.runner.guest_host import Host, command


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


@pytest.mark.parametrize(
    "imported",
    [
        '(import "env" "f" (func))',
        '(import "wasi_snapshot_preview1" "no_such" (func))',
        '(import "wasi_snapshot_preview1" "fd_close" (func (param i64) (result i32)))',
        '(import "wasi_snapshot_preview1" "fd_close" (global i32))',
        '(import "env" "memory" (memory 1))',
    ],
)
def test_an_import_that_the_worker_lacks_is_an_error_of_linking(host: Host, imported: str) -> None:
    with pytest.raises(EngineError) as caught:
        host.prepare(command("", imported))
    assert caught.value.step == "link"


def test_stubs_return_zeros_for_every_type_and_do_nothing(host: Host) -> None:
    text = """(module
        (import "env" "nothing" (func $nothing (param i32 i64 f32 f64 v128 externref)))
        (import "env" "all" (func $all (param i32) (result i32 i64 f32 f64)))
        (import "env" "all" (func $twice (param i32) (result i32 i64 f32 f64)))
        (import "env" "refs" (func $refs (result funcref externref)))
        (import "env" "vector" (func $vector (result v128)))
        (import "wasi_snapshot_preview1" "not_there" (func $late (result i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (func (export "go") (result i32 i64 f32 f64 i32 i32 i64 i32)
          (call $nothing (i32.const 1) (i64.const 1) (f32.const 1) (f64.const 1) (v128.const i64x2 1 1)
            (ref.null extern))
          (call $all (i32.const 7))
          (call $refs) (ref.is_null) (drop) (ref.is_null)
          (i32.or (call $late) (call $yield))
          (i64x2.extract_lane 1 (call $vector))
          (i32.const 9)))"""
    outcome = host.call(host.prepare(text, stub=True), "go").outcome
    assert [0, 0, 0, 0, 1, 0, 0, 9] == [bits for _kind, bits in outcome.results]


@pytest.mark.parametrize(
    ("imported", "said"),
    [
        ('(import "env" "g" (global i32))', "env.g is a global"),
        ('(import "env" "m" (memory 1))', "env.m is a memory"),
        ('(import "env" "t" (table 1 funcref))', "env.t is a table"),
        ('(import "env" "e" (tag))', "env.e is a tag"),
        ('(import "env" "r" (func (result (ref func))))', "env.r returns a reference that is never null"),
        ('(import "wasi_snapshot_preview1" "fd_close" (func))', "incompatible import type"),
        ('(import "env" "f" (func)) (import "env" "f" (func (result i32)))', "incompatible import type"),
    ],
)
def test_what_cant_be_stubbed_is_an_error_of_linking(host: Host, imported: str, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        host.prepare(command("", imported), stub=True)
    assert caught.value.step == "link"


def test_a_stubbed_module_runs_in_many_instances(host: Host) -> None:
    prepared = host.prepare(command("(call $f)", '(import "env" "f" (func $f))'), stub=True)
    assert ["exit"] * 20 == [host.run(prepared).reason for _ in range(20)]


def test_the_memory_image_takes_no_descriptor_that_a_job_brings(host: Host) -> None:
    module = host.engine.load(host.artifact(command("", '(memory (export "memory") 1) (data (i32.const 0) "x")')))
    before = set(os.listdir("/proc/self/fd"))
    prepared = host.invoker.prepare(module)
    made = set(os.listdir("/proc/self/fd")) - before
    prepared.close()
    module.close()
    assert 1 == len(made)
    assert invoke.FIRST_IMAGE_FD <= int(made.pop())


def test_no_code_of_a_guest_runs_while_it_is_prepared(host: Host) -> None:
    text = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (data (i32.const 0) "x") (func $start (call $exit (i32.const 1))) (start $start)
        (func (export "_start")))"""
    host.prepare(text)
    assert None is host.invoker.wasi.exit_code
