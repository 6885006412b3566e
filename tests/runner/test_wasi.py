"""Our WASI and the engine's, held against wasmtime's own: the same calls, the same programs."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner import invoke
from runner import wasi_abi as abi
from tests.guests.build import guest
from tests.runner.files_host import run_with_files
from tests.runner.guest_host import Host, data_segment, probe
from tests.runner.wasi_oracle import TRAPPED, Oracle, probe_module

PROBED = sorted(name for name in abi.SIGNATURES if name != "proc_exit")


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


INTERESTING = [0, 1, 2, 3, 4, 5, 6, 8, 15, 16, 29, 31, 32, 57, 64, 1000, 1024, 4096, 65528, 65535, 65536, 70000]
EXTREMES = [0x7FFFFFFF, -1, -8, -0x80000000]
values = st.sampled_from(INTERESTING + EXTREMES)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, list[int]]:
    name = draw(st.sampled_from(PROBED))
    args = [draw(values) for _ in abi.SIGNATURES[name]]
    if args and name not in ("random_get", "args_get", "args_sizes_get", "environ_get", "environ_sizes_get"):
        args[0] = draw(st.sampled_from([0, 1, 2, 3, 7, -1]))
    if name == "poll_oneoff":
        args = [draw(values), draw(values), draw(st.sampled_from([0, 1, 2])), draw(values)]
    return name, args


Probes = tuple[Host, invoke.Prepared]
PROBES = probe_module()


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    with Host() as one:
        yield one, one.prepare(PROBES)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle() as one:
        yield one


@settings(max_examples=400)
@given(call=calls())
@example(call=("fd_read", [0, 8, -8, 16]))
@example(call=("random_get", [-1, 0]))
@example(call=("fd_prestat_dir_name", [1, 0, 8]))
def test_a_function_answers_what_wasmtimes_own_answers(
    probes: Probes, oracle: Oracle, call: tuple[str, list[int]]
) -> None:
    name, args = call
    theirs = oracle.call(PROBES, name, args)
    ours = probe(*probes, name, *args)
    if theirs != TRAPPED:  # it traps where a pointer is wild or misaligned, or an enumeration's value unknown
        assert theirs == ours


@pytest.mark.parametrize("name", PROBED)
def test_each_descriptor_answers_for_each_function_as_wasmtimes_own(probes: Probes, oracle: Oracle, name: str) -> None:
    compared = 0
    for fd in (0, 1, 2, 3):
        for numbers in (0, 1, 8):  # for all other parameters: flags that may be set, and addresses that are aligned
            args = [fd, *([numbers] * 9)][: len(abi.SIGNATURES[name])]
            theirs = oracle.call(PROBES, name, args)
            if theirs != TRAPPED:
                compared += 1
                assert theirs == probe(*probes, name, *args), args
    assert compared


SUBSCRIPTIONS = {
    "stdin is ready": ((1, 0, 0, 0, 0),),
    "stdout is ready": ((2, 1, 0, 0, 0),),
    "stderr is ready, a far clock isn't": ((2, 2, 0, 0, 0), (0, 1, 10**15, 0, 0)),
    "stdout can't be read": ((1, 1, 0, 0, 0),),
    "stdin can't be written": ((2, 0, 0, 0, 0),),
    "a descriptor that isn't there": ((2, 9, 0, 0, 0),),
    "the monotonic clock": ((0, 1, 1000, 0, 0),),
    "the wall clock": ((0, 0, 1000, 0, 0), (0, 0, 2000, 0, 0)),
    "an instant that has passed": ((0, 0, 1, 0, 1), (0, 1, 0, 0, 1)),
    "two clocks of the processor": ((0, 2, 0, 0, 0), (0, 3, 0, 0, 0)),
}


def subscription_bytes(subscriptions: tuple[tuple[int, int, int, int, int], ...]) -> bytes:
    blocks = []
    for index, (tag, what, timeout, precision, flags) in enumerate(subscriptions):
        blocks.append(struct.pack("<QB7xI4xQQH6x", 100 + index, tag, what, timeout, precision, flags))
    return b"".join(blocks)


@pytest.mark.parametrize("name", sorted(SUBSCRIPTIONS))
def test_poll_answers_as_wasmtimes_own(host: Host, oracle: Oracle, name: str) -> None:
    subscriptions = SUBSCRIPTIONS[name]
    text = probe_module(data_segment(1024, subscription_bytes(subscriptions)))
    args = [1024, 2048, len(subscriptions), 8]
    assert oracle.call(text, "poll_oneoff", args) == probe(host, host.prepare(text), "poll_oneoff", *args)


POLLING = """(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1) {data}
    (func (export "poll") (param i32) (result i32 i64 i64 i32)
      (call $poll (i32.const 1024) (i32.const 2048) (local.get 0) (i32.const 8))
      (i64.load (i32.const 2048)) (i64.load (i32.const 2056)) (i32.load (i32.const 8))))"""


def test_poll_gives_the_events_of_what_is_ready_alone(host: Host) -> None:
    subscriptions = ((0, 1, 10**15, 0, 0), (2, 1, 0, 0, 0))
    result = host.call(POLLING.format(data=data_segment(1024, subscription_bytes(subscriptions))), "poll", (0, 2))
    errno, userdata, kind, ready = (bits for _kind, bits in result.outcome.results)
    assert (0, 101, abi.EVENT_FD_WRITE << 16, 1) == (errno, userdata, kind, ready)


def test_poll_waits_as_long_as_the_nearest_clock_says(host: Host) -> None:
    subscriptions = ((0, 1, 30_000_000, 0, 0), (0, 0, 3_600_000_000_000, 0, 0))
    result = host.call(POLLING.format(data=data_segment(1024, subscription_bytes(subscriptions))), "poll", (0, 2))
    assert [0, 100, 0, 1] == [bits for _kind, bits in result.outcome.results]
    assert 30_000 <= result.outcome.run_us


PROGRAMS: dict[str, tuple[str, tuple[str, ...], bytes]] = {
    "arguments and environment": ("echo", ("guest", "--flag", "two words", "ünïcode", ""), b""),
    "stdin to stdout": ("cat", ("guest",), b"line\n\0\xff" * 4000),
    "stdin to both": ("cat", ("guest", "both"), b"to both"),
    "no stdin": ("cat", ("guest",), b""),
    "exit 0": ("exit", ("guest", "0"), b""),
    "exit 3": ("exit", ("guest", "3"), b""),
    "exit 125": ("exit", ("guest", "125"), b""),
    "return 4": ("exit", ("guest", "return", "4"), b""),
    "clocks": ("clocks", ("guest",), b""),
}
ENV = (("LANG", "C"), ("EMPTY", ""), ("EQUALS", "a=b"))


@pytest.mark.parametrize("name", sorted(PROGRAMS))
@pytest.mark.parametrize("files", [False, True], ids=["ours", "the engine's"])
def test_a_program_sees_what_it_sees_under_wasmtimes_own(
    host: Host, oracle: Oracle, tmp_path: Path, name: str, files: bool
) -> None:
    source, args, stdin = PROGRAMS[name]
    wasm = guest(source)
    code, stdout, stderr = oracle.run(wasm, tmp_path, args=args, env=ENV, stdin=stdin)
    job = {
        "args": tuple(arg.encode() for arg in args),
        "env": tuple(f"{key}={value}".encode() for key, value in ENV),
        "stdin": stdin,
    }
    result = run_with_files(wasm, tmp_path, **job) if files else host.run(wasm, **job)
    assert (code, stdout, stderr) == (result.outcome.exit_code, result.stdout, result.stderr)
    assert ("nonzero_exit" if code else "exit") == result.reason


def test_random_bytes_differ_from_run_to_run(host: Host) -> None:
    prepared = host.prepare(guest("random"))
    seen = {host.run(prepared).stdout for _ in range(5)}
    assert 5 == len(seen)
    assert all(len(line) == 65 for line in seen)


def test_the_monotonic_clock_begins_with_the_instance(host: Host) -> None:
    text = """(module
        (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "now") (result i32 i64)
          (call $time (i32.const 1) (i64.const 0) (i32.const 8)) (i64.load (i32.const 8))))"""
    (_, errno), (_, now_ns) = host.call(text, "now").outcome.results
    assert 0 == errno
    assert 0 < now_ns < 60 * 10**9


BLOCKED = """
import os, signal, sys
from tests.runner.guest_host import Host, new_job
from runner import invoke
from tests.guests.build import guest
with Host() as host:
    prepared = host.prepare(guest("block"))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    invoke.run(prepared, new_job(wall_ms=50), b"", 1, 2, lambda: False)
"""


def test_a_guest_that_sleeps_in_the_host_is_ended_by_the_alarm_alone() -> None:
    guest("block")
    process = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])},
        timeout=60,
        check=False,
    )
    assert (-signal.SIGALRM, b"going to sleep\n") == (process.returncode, process.stdout)
