"""Guests that lie about their memory: EFAULT, and nothing else happens."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import invoke
from runner import wasi_abi as abi
from runner.wasi_memory import MAX_BUFFERS
from tests.runner.guest_host import PAGE, WORD, Host, data_segment, probe
from tests.runner.wasi_oracle import probe_module

PROBED = sorted(name for name in abi.SIGNATURES if name != "proc_exit")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


Probes = tuple[Host, invoke.Prepared]
PROBES = probe_module()


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    with Host() as one:
        yield one, one.prepare(PROBES)


WILD = [PAGE, PAGE - 1, PAGE - 3, 0x7FFFFFFF, 0x80000000, WORD, WORD - 3, WORD - 7]
POINTERS = {  # a call in which every number is fine, and which parameters are addresses
    "args_get": ([8, 64], (0, 1)),
    "args_sizes_get": ([8, 16], (0, 1)),
    "environ_get": ([8, 64], (0, 1)),
    "environ_sizes_get": ([8, 16], (0, 1)),
    "clock_res_get": ([0, 8], (1,)),
    "clock_time_get": ([1, 0, 8], (2,)),
    "fd_fdstat_get": ([1, 8], (1,)),
    "fd_filestat_get": ([1, 8], (1,)),
    "fd_pread": ([0, 8, 1, 0, 64], (1,)),
    "fd_pwrite": ([1, 8, 1, 0, 64], (1,)),
    "fd_read": ([0, 8, 1, 64], (1, 3)),
    "fd_write": ([1, 8, 1, 64], (1, 3)),
    "path_open": ([3, 0, 8, 9, 0, 0, 0, 0, 64], (2,)),
    "poll_oneoff": ([1024, 2048, 1, 8], (0, 1, 3)),
    "random_get": ([8, 16], (0,)),
}


@pytest.mark.parametrize("name", sorted(POINTERS))
def test_a_wild_pointer_is_efault_and_nothing_else_happens(host: Host, name: str) -> None:
    good, pointers = POINTERS[name]
    prepared = host.prepare(probe_module())
    for index in pointers:
        for address in WILD:
            args = list(good)
            args[index] = address
            if (name, index, address) == ("args_get", 1, PAGE - 3):
                continue  # the one argument and its NUL end within the memory
            assert abi.EFAULT == probe(host, prepared, name, *args), (name, args)
    assert abi.EFAULT != probe(host, prepared, name, *good)


@pytest.mark.parametrize("name", ["fd_read", "fd_write"])
@pytest.mark.parametrize(
    ("address", "length"), [(0, WORD), (PAGE - 1, 2), (WORD, 1), (WORD, WORD), (1, WORD), (0x80000000, 0x80000000)]
)
def test_a_buffer_that_leaves_the_memory_or_wraps_is_efault(host: Host, name: str, address: int, length: int) -> None:
    iovecs = struct.pack("<IIII", 64, 1, address, length)
    prepared = host.prepare(probe_module(data_segment(1024, iovecs)))
    fd = 0 if name == "fd_read" else 1
    result = host.call(prepared, name, (0, fd), (0, 1024), (0, 2), (0, 8), stdin=b"never read")
    assert [(0, abi.EFAULT)] == list(result.outcome.results)
    assert b"" == result.stdout


@pytest.mark.parametrize("count", [MAX_BUFFERS + 1, PAGE // 8, 1 << 20, WORD])
def test_a_huge_count_of_buffers_ends_soon(host: Host, count: int) -> None:
    prepared = host.prepare(probe_module())
    errno = probe(host, prepared, "fd_write", 1, 0, count, PAGE - 4)
    assert errno == (abi.ENOMEM if count == WORD else abi.SUCCESS)


@pytest.mark.parametrize(("count", "errno"), [(0, abi.EINVAL), (4097, abi.ENOMEM), (WORD, abi.ENOMEM)])
def test_a_strange_count_of_subscriptions_is_refused(host: Host, count: int, errno: int) -> None:
    assert errno == probe(host, host.prepare(probe_module()), "poll_oneoff", 0, 0, count, 8)


@pytest.mark.parametrize(("length", "errno"), [(PAGE, 0), (PAGE + 1, abi.EFAULT), (WORD, abi.EFAULT), (0, 0)])
def test_random_bytes_fill_what_is_there_and_no_more(host: Host, length: int, errno: int) -> None:
    assert errno == probe(host, host.prepare(probe_module()), "random_get", 0, length)


GROWING = """(module
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "go") (result i32 i32 i32 i32)
      (call $random (i32.const 0) (i32.const 8)) (call $random (i32.const 65536) (i32.const 8))
      (drop (memory.grow (i32.const 1)))
      (call $random (i32.const 65536) (i32.const 65536)) (call $random (i32.const 131072) (i32.const 1))))"""


@pytest.mark.parametrize("name", ["args_get", "environ_get"])
@pytest.mark.parametrize("address", [0, PAGE, WORD])
def test_a_list_of_nothing_is_written_anywhere(host: Host, name: str, address: int) -> None:
    """Before any other function has looked at the memory."""
    result = host.call(probe_module(), name, (0, address), (0, address), args=())
    assert [(0, abi.SUCCESS)] == list(result.outcome.results)


def test_memory_that_has_grown_since_the_last_call_is_there(host: Host) -> None:
    prepared = host.prepare(GROWING)
    for _ in range(2):  # the second instance begins small again
        results = [bits for _kind, bits in host.call(prepared, "go").outcome.results]
        assert [0, abi.EFAULT, 0, abi.EFAULT] == results


@pytest.mark.parametrize("memory", ["", "(memory 1)", '(func (export "memory"))', '(memory (export "other") 1)'])
def test_without_an_exported_memory_every_pointer_is_wild(host: Host, memory: str) -> None:
    text = f"""(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        {memory} (func (export "go") (result i32 i32) (call $random (i32.const 0) (i32.const 1)) (call $yield)))"""
    assert [(0, abi.EFAULT), (0, 0)] == list(host.call(text, "go").outcome.results)


def test_a_start_function_can_call_wasi(host: Host) -> None:
    text = """(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\\08\\00\\00\\00\\05\\00\\00\\00early")
        (func $early (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
        (start $early) (func (export "_start")))"""
    result = host.run(text)
    assert ("exit", b"early") == (result.reason, result.stdout)


@settings(max_examples=150)
@given(name=st.sampled_from(PROBED), data=st.data())
def test_no_arguments_at_all_make_a_callback_raise(probes: Probes, name: str, data: st.DataObject) -> None:
    letters = abi.SIGNATURES[name]
    args = [data.draw(st.integers(0, WORD if letter == "i" else (1 << 64) - 1)) for letter in letters]
    if name == "poll_oneoff":
        args[0] = PAGE  # random subscriptions may sleep for centuries
    assert 0 <= probe(*probes, name, *args) < 77
