"""Descriptors 0 to 2: caps to the byte, buffers in order, errors of the host."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import invoke
from runner import wasi_abi as abi
from runner.errors import RunnerError
from tests.guests.build import guest
from tests.runner.guest_host import Host, data_segment, new_job, probe
from tests.runner.wasi_oracle import probe_module


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


WRITER = """(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\\40\\00\\00\\00\\05") (data (i32.const 16) "\\45\\00\\00\\00\\03")
    (data (i32.const 64) "hello, w")
    (func (export "write") (param i32 i32) (result i32 i32)
      (call $write (local.get 0) (i32.const 0) (local.get 1) (i32.const 32)) (i32.load (i32.const 32))))"""


def test_several_buffers_are_one_write(host: Host) -> None:
    result = host.call(WRITER, "write", (0, 1), (0, 3))
    assert [0, 8] == [bits for _kind, bits in result.outcome.results]
    assert b"hello, w" == result.stdout


@pytest.mark.parametrize(
    ("cap", "reason"), [(8, "exit"), (7, "output_limit"), (5, "output_limit"), (0, "output_limit")]
)
def test_a_stream_takes_exactly_its_cap(host: Host, cap: int, reason: str) -> None:
    result = host.call(WRITER, "write", (0, 2), (0, 3), output_bytes=cap)
    assert (reason, b"hello, w"[:cap]) == (result.reason, result.stderr)
    assert (False, reason != "exit") == (result.outcome.stdout_truncated, result.outcome.stderr_truncated)


@pytest.mark.parametrize(("argument", "stream"), [(b"1", "stdout"), (b"2", "stderr")])
def test_a_flood_ends_at_the_cap_and_what_came_before_is_kept(host: Host, argument: bytes, stream: str) -> None:
    result = host.run(guest("flood"), args=(b"flood", argument), output_bytes=123_456)
    assert "output_limit" == result.reason
    assert b"x" * 123_456 == getattr(result, stream)
    assert getattr(result.outcome, f"{stream}_truncated")


def test_a_descriptor_that_the_host_cant_write_to_is_an_errno_for_the_guest(host: Host) -> None:
    prepared = host.prepare(WRITER)
    job = new_job(entry=1, export=b"write", params=((0, 1), (0, 1)))
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        broken = invoke.run(prepared, job, b"", write_end, write_end, lambda: False)
    finally:
        os.close(write_end)
    with open("/dev/full", "wb") as full:
        filled = invoke.run(prepared, job, b"", full.fileno(), full.fileno(), lambda: False)
    assert (abi.EPIPE, abi.ENOSPC) == (broken.results[0][1], filled.results[0][1])


def test_a_closed_or_renumbered_descriptor_is_so_for_that_instance_alone(host: Host) -> None:
    text = """(module
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00\\02\\00\\00\\00hi")
        (func $hi (param i32) (result i32) (call $write (local.get 0) (i32.const 0) (i32.const 1) (i32.const 16)))
        (func (export "go") (result i32 i32 i32 i32 i32 i32)
          (call $hi (i32.const 1)) (call $renumber (i32.const 2) (i32.const 1)) (call $hi (i32.const 1))
          (call $hi (i32.const 2)) (call $close (i32.const 1)) (call $close (i32.const 1))))"""
    prepared = host.prepare(text)
    for _ in range(2):
        result = host.call(prepared, "go")
        assert [0, 0, 0, abi.EBADF, 0, abi.EBADF] == [bits for _kind, bits in result.outcome.results]
        assert (b"hi", b"hi") == (result.stdout, result.stderr)


@settings(max_examples=60)
@given(stdin=st.binary(max_size=64), lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_reading_fills_the_buffers_in_order_and_no_byte_twice(stdin: bytes, lengths: list[int]) -> None:
    iovecs = b"".join(struct.pack("<II", 4096 + 64 * index, length) for index, length in enumerate(lengths))
    text = probe_module(data_segment(1024, iovecs))
    with Host() as one:
        wasi, prepared = one.invoker.wasi, one.prepare(text)
        seen = []
        real = wasi.end

        def look_and_end() -> None:
            view = wasi.memory
            seen.append((view.u32(8), b"".join(bytes(view.at(4096 + 64 * i, n)) for i, n in enumerate(lengths))))
            real()

        wasi.end = look_and_end  # type: ignore[method-assign]
        assert probe(one, prepared, "fd_read", 0, 1024, len(lengths), 8, stdin=stdin) == 0
    room = sum(lengths)
    expected = stdin[:room]
    assert [(len(expected), expected + bytes(room - len(expected)))] == seen


def test_a_host_functions_own_failure_raises_on_the_hosts_side(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fd: int, _data: object) -> int:
        raise ValueError("a defect of the host")

    prepared = host.prepare(WRITER)
    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(RunnerError, match="a defect of the host"):
        host.call(prepared, "write", (0, 1), (0, 3))
    monkeypatch.undo()
    assert b"hello, w" == host.call(prepared, "write", (0, 1), (0, 3)).stdout
