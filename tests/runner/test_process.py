"""A runner's life: LOAD, JOB, OUTCOME, BYE; how STOP, alarm and death are told."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

import pytest

from runner.protocol import LAYERS, PROFILE_COMPILER, PROFILE_RUNNER
from runner.protocol.control import ENTRY_EXPORT, FLAG_ONE_JOB, Load, encode_compile, encode_load, encode_stop
from runner.protocol.status import BYE, OUTCOME, READY, STARTED
from tests.runner.guest_host import wat
from tests.runner.zygote_host import MIB, ZygoteHost, seal_memfd

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]

SPIN = '(module (func (export "_start") (loop $again (br $again))))'
# Waits for an hour in the host, where neither fuel nor epoch reaches.
BLOCK = """(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i64.store (i32.const 24) (i64.const 3600000000000)) (i32.store (i32.const 16) (i32.const 1))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""
ADD = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'
ECHO = """(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
# 17 of 20 pages of data: the image is made before the seal, and each instance gets it fresh.
DATA = f"""(module (memory (export "memory") 20) (data (i32.const 0) "{"a" * 1000}") (data (i32.const 1100000) "bc")
    (func (export "look") (result i32)
        (i32.add (i32.load8_u (i32.const 999)) (i32.load8_u (i32.const 1100001)))
        (i32.store8 (i32.const 999) (i32.const 0)) (i32.store8 (i32.const 1100001) (i32.const 0))))"""


def names(mask: int) -> set[str]:
    return {name for index, name in enumerate(LAYERS) if mask >> index & 1}


# -- life ------------------------------------------------------------------------------------------------------------


def test_a_warm_runner_takes_one_job_after_another(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(ADD))
    for left in range(5):
        run.job(job_id=left, entry=ENTRY_EXPORT, export=b"add", params=((0, left), (0, 40)))
        outcome = run.outcome()
        assert (left, "exit", ((0, left + 40),)) == (outcome.job_id, outcome.reason, outcome.results)
    run.hang_up()
    assert 0 == run.finish()
    assert [BYE] == [kind for kind, _ in run.frames]


def test_every_instance_starts_with_the_modules_own_data(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(DATA))
    for _ in range(4):
        run.job(entry=ENTRY_EXPORT, export=b"look")
        assert ((0, ord("a") + ord("c")),) == run.outcome().results


def test_a_one_job_runner_ends_without_being_told(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(), flags=FLAG_ONE_JOB)
    run.job()
    assert 0 == run.finish()
    kinds = [kind for kind, _ in run.frames]
    assert [READY, STARTED, OUTCOME, BYE] == kinds[-4:]


def test_end_of_control_before_load_is_the_end(zygote: ZygoteHost) -> None:
    run = zygote.spawn()
    run.hang_up()
    assert 0 == run.finish()
    assert [BYE] == [kind for kind, _ in run.frames][-1:]


def test_an_end_of_control_during_a_job_lets_it_finish(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(SPIN))
    run.job(fuel=2**40, wall_ms=300)
    run.hang_up()
    assert "deadline" == run.outcome().reason
    assert 0 == run.finish()


def test_stdin_comes_from_its_file(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(ECHO))
    for text in (b"first", b"", b"third"):
        run.job(stdin=text)
        assert "exit" == run.outcome().reason
    assert b"firstthird" == run.stdout()


@pytest.mark.parametrize("wasm", [pytest.param(b"\0asm\x01\0\0\0", id="module"), pytest.param(b"", id="empty")])
def test_what_is_no_artifact_is_told_before_ready(zygote: ZygoteHost, wasm: bytes) -> None:
    made = os.memfd_create("artifact", os.MFD_ALLOW_SEALING)
    os.write(made, wasm)
    run = zygote.spawn()
    run.load(seal_memfd(made))
    outcome = run.outcome()
    os.close(made)
    assert (0, "init_failed") == (outcome.job_id, outcome.reason)
    run.finish()
    assert BYE == run.frames[-1][0]


def test_an_artifact_that_could_still_change_is_refused(zygote: ZygoteHost, artifact: Artifact) -> None:
    sealed = artifact()
    loose = os.memfd_create("artifact")
    os.write(loose, os.pread(sealed, os.fstat(sealed).st_size, 0))
    run = zygote.spawn()
    run.load(loose)
    outcome = run.outcome()
    os.close(loose)
    assert ("init_failed", True) == (outcome.reason, "sealed" in outcome.detail)


def test_a_module_that_does_not_link_is_told_before_ready(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact('(module (import "elsewhere" "thing" (func)))'))
    outcome = run.outcome()
    assert (0, "link_failed") == (outcome.job_id, outcome.reason)


def test_a_root_uid_is_refused(start_zygote: Start) -> None:
    if os.geteuid():
        pytest.skip("an ordinary user can't take a uid at all")
    run = start_zygote().spawn(uid=0)
    outcome = run.outcome()
    assert ("init_failed", True) == (outcome.reason, "identity" in outcome.detail)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        pytest.param(b"\xff", 0, id="unknown"),
        pytest.param(encode_stop(), 0, id="too early"),
        pytest.param(encode_load(Load(MIB, 1)), 0, id="without an artifact"),
        pytest.param(encode_load(Load(MIB, 1)), 2, id="with two"),
        pytest.param(encode_load(Load(MIB, 1))[:-1], 1, id="cut short"),
        pytest.param(encode_compile(1, 1), 2, id="for a compiler"),
    ],
)
def test_nonsense_on_control_ends_it_before_ready(start_zygote: Start, message: bytes, count: int) -> None:
    run = start_zygote().spawn()
    run.send(message, [0, 1][:count])
    assert "init_failed" == run.outcome().reason
    assert 0 != run.finish()


def test_nonsense_after_ready_is_a_crash(start_zygote: Start, artifact: Artifact) -> None:
    run = start_zygote().spawn()
    run.load(artifact())
    run.ready_layers()
    run.send(b"\xff")
    assert 70 == run.finish()
    assert BYE not in [kind for kind, _ in run.frames]


# -- how it is ended -------------------------------------------------------------------------------------------------


def test_stop_ends_a_loop(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(SPIN))
    run.job(fuel=2**60, wall_ms=60_000)
    run.read_to(STARTED)
    run.send(encode_stop())
    assert "stopped" == run.outcome().reason
    run.job(job_id=2, fuel=1000)
    assert "fuel" == run.outcome().reason


def test_a_deadline_is_told_from_a_stop(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(SPIN))
    for job_id in range(3):
        run.job(job_id=job_id, fuel=2**60, wall_ms=20)
        assert "deadline" == run.outcome().reason


def test_a_guest_that_blocks_in_the_host_dies_by_the_alarm(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(BLOCK))
    run.job(wall_ms=100)
    run.read_to(STARTED)
    assert -signal.SIGALRM == run.finish()
    assert [] == run.frames


def test_the_alarm_of_one_job_does_not_reach_the_next(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact(ADD))
    run.job(wall_ms=1, entry=ENTRY_EXPORT, export=b"add", params=((0, 1), (0, 2)))
    run.outcome()
    run.send(encode_stop())  # nothing runs: to be read while it waits
    started = time.monotonic()
    while time.monotonic() - started < 0.4:
        run.job(entry=ENTRY_EXPORT, export=b"add", params=((0, 1), (0, 2)))
        assert "exit" == run.outcome().reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_signal_from_outside_is_what_is_told(start_zygote: Start, artifact: Artifact, number: int) -> None:
    run = start_zygote().spawn()
    run.load(artifact(SPIN))
    run.job(fuel=2**60, wall_ms=30_000)
    run.read_to(STARTED)
    signal.pidfd_send_signal(run.pidfd, number)
    assert -number == run.finish()


def test_the_second_sigsegv_from_outside_kills(start_zygote: Start, artifact: Artifact) -> None:
    """wasmtime's handler takes the first for a fault of its own code, finds none, and puts the default back."""
    run = start_zygote().spawn()
    run.load(artifact(SPIN))
    run.job(fuel=2**60, wall_ms=30_000)
    run.read_to(STARTED)
    while not select.select([run.pidfd], [], [], 0.02)[0]:
        signal.pidfd_send_signal(run.pidfd, signal.SIGSEGV)
    assert -signal.SIGSEGV == run.finish()


def test_a_fault_of_the_hosts_code_is_told_by_its_signal(start_zygote: Start, artifact: Artifact) -> None:
    run = start_zygote(module="played_zygote").spawn()
    run.load(artifact())
    run.job(args=(b"ctypes.string_at(8)",))
    assert -signal.SIGSEGV == run.finish()


def test_a_stopped_and_continued_runner_goes_on(start_zygote: Start, artifact: Artifact) -> None:
    run = start_zygote().spawn()
    run.load(artifact(SPIN))
    run.job(fuel=2**60, wall_ms=400)
    run.read_to(STARTED)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        signal.pidfd_send_signal(run.pidfd, number)
    assert "deadline" == run.outcome().reason


def test_memory_beyond_the_limit_is_refused_by_the_kernel_too(start_zygote: Start, artifact: Artifact) -> None:
    run = start_zygote(module="played_zygote").spawn()
    run.load(artifact(), memory_bytes=MIB)
    source = b"""
try:
    bytearray(400 << 20)
except MemoryError:
    result = "refused"
"""
    run.job(args=(source,))
    assert "refused" == run.outcome().detail


def test_processor_time_is_bounded(start_zygote: Start, artifact: Artifact) -> None:
    run = start_zygote(module="played_zygote").spawn()
    run.load(artifact(), cpu_s=1)
    run.job(args=(b"while True: pass",), wall_ms=60_000)
    assert -signal.SIGXCPU == run.finish()


# -- what it reports -------------------------------------------------------------------------------------------------

EVERYWHERE = {"rlimits", "no_new_privs", "pdeathsig", "nondumpable", "seccomp"}


def test_ready_tells_the_layers(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact())
    layers = names(run.ready_layers())
    assert EVERYWHERE <= layers
    assert (zygote.own_uid > 0) == ("uid" in layers)
    assert "cgroup" not in layers


def test_a_compiler_has_all_layers_but_mdwe(zygote: ZygoteHost, artifact: Artifact) -> None:
    compiler, run = zygote.spawn(PROFILE_COMPILER), zygote.spawn(PROFILE_RUNNER)
    run.load(artifact())
    assert names(run.ready_layers()) - {"mdwe"} == names(compiler.ready_layers())


def test_a_compiler_says_what_is_wrong_with_a_module(zygote: ZygoteHost) -> None:
    outcome, made = zygote.compile(b"\0asm\x01\0\0\0\xff")
    assert (-1, "compile_failed", True) == (made, outcome.reason, len(outcome.detail) > 10)


def test_a_compiler_is_bounded_in_memory(start_zygote: Start) -> None:
    """It dies by whatever an allocation that fails does to it, and so does nothing else."""
    zygote = start_zygote("compiler_memory_bytes=20000000")
    functions = "(func (result i32) (i32.const 1))" * 40_000
    run = zygote.spawn(PROFILE_COMPILER)
    wasm = wat(f"(module {functions})")
    source, target = os.memfd_create("module"), os.memfd_create("artifact")
    os.write(source, wasm)
    run.send(encode_compile(1, len(wasm)), [source, target])
    run.read_to(STARTED)
    assert run.finish(60) != 0
    for fd in (source, target):
        os.close(fd)
    assert zygote.spawn().pid


def test_a_compiler_is_bounded_in_time(start_zygote: Start) -> None:
    zygote = start_zygote("compiler_cpu_s=1")
    functions = "(func (result i32) (i32.const 1))" * 150_000
    run = zygote.spawn(PROFILE_COMPILER)
    wasm = wat(f"(module {functions})")
    source, target = os.memfd_create("module"), os.memfd_create("artifact")
    os.write(source, wasm)
    run.send(encode_compile(1, len(wasm)), [source, target])
    assert -signal.SIGXCPU == run.finish(60)
    for fd in (source, target):
        os.close(fd)
