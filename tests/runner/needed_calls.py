"""Operations that need what the allow-lists allow: each is something that a guest, a job or a module may ask for.

An operation drives processes of one zygote and gives their exit codes, signals as negative numbers. All of them work
under the whole filter, and which of them dies by SIGSYS without a rule is what the rule is for.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from runner.protocol import PROFILE_COMPILER, PROFILE_FILES, PROFILE_RUNNER
from runner.protocol.control import FLAG_ONE_JOB, encode_compile, encode_stop
from runner.protocol.status import STARTED
from tests.guests.build import guest
from tests.runner.guest_host import wat
from tests.runner.zygote_host import DEADLINE_S, Run, ZygoteHost

PREOPENS = ((b"/m0", b"/data", False),)
WASI = '(import "wasi_snapshot_preview1" "{}" (func ${} (param {}) (result i32)))'
HELLO = f"""(module {WASI.format("fd_write", "write", "i32 i32 i32 i32")}
 (memory (export "memory") 1) (data (i32.const 8) "hello\\n")
 (func (export "_start") (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 6))
  (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 80)))))"""
# Its memory isn't exported: at the first instance the engine makes its image.
HIDDEN = '(module (memory 1) (data (i32.const 8) "hidden") (func (export "_start")))'
TRAP = '(module (memory (export "memory") 1) (func (export "_start") (drop (i32.load (i32.const 0x7ffffff0)))))'
GROW = '(module (memory (export "memory") 1) (func (export "_start") (drop (memory.grow (i32.const 100)))))'
TABLES = """(module (table 10 funcref) (memory (export "memory") 1)
 (func (export "_start") (drop (table.grow (ref.null func) (i32.const 200000)))))"""
RANDOM = f"""(module {WASI.format("random_get", "random", "i32 i32")} (memory (export "memory") 1)
 (func (export "_start") (drop (call $random (i32.const 0) (i32.const 64)))))"""
SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
SLEEP = f"""(module {WASI.format("poll_oneoff", "poll", "i32 i32 i32 i32")} (memory (export "memory") 1)
 (func (export "_start") (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 150000000))
  (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))))"""
LONG_SLEEP = SLEEP.replace("150000000", "1000000000")  # one that is paused again and again
PAUSES = 20

# Makes a file in its first preopened directory (fd 3) and does to it what C's library seldom asks for.
_PATH_OPEN = WASI.format("path_open", "open", "i32 i32 i32 i32 i32 i64 i64 i32 i32")
ODD = f"""(module {_PATH_OPEN}
 {WASI.format("fd_advise", "advise", "i32 i64 i64 i32")} {WASI.format("fd_datasync", "datasync", "i32")}
 {WASI.format("fd_seek", "seek", "i32 i64 i32 i32")} {WASI.format("fd_read", "read", "i32 i32 i32 i32")}
 {WASI.format("fd_readdir", "readdir", "i32 i32 i32 i64 i32")} {WASI.format("fd_filestat_get", "stat", "i32 i32")}
 {WASI.format("fd_fdstat_set_flags", "flags", "i32 i32")} {WASI.format("fd_allocate", "allocate", "i32 i64 i64")}
 (memory (export "memory") 1) (data (i32.const 8) "odd") (global $fd (mut i32) (i32.const 0))
 (func (export "_start")
  (drop (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 3) (i32.const 1)
   (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 16)))
  (global.set $fd (i32.load (i32.const 16)))
  (i32.store (i32.const 32) (i32.const 512)) (i32.store (i32.const 36) (i32.const 64))
  (drop (call $advise (global.get $fd) (i64.const 0) (i64.const 0) (i32.const 1)))
  (drop (call $datasync (global.get $fd)))
  (drop (call $seek (global.get $fd) (i64.const 0) (i32.const 2) (i32.const 24)))
  (drop (call $read (global.get $fd) (i32.const 32) (i32.const 1) (i32.const 24)))
  (drop (call $stat (global.get $fd) (i32.const 1024)))
  (drop (call $flags (global.get $fd) (i32.const 1)))
  (drop (call $allocate (global.get $fd) (i64.const 0) (i64.const 10)))
  (drop (call $readdir (i32.const 3) (i32.const 2048) (i32.const 30) (i64.const 0) (i32.const 24)))
  (drop (call $readdir (i32.const 3) (i32.const 2048) (i32.const 30) (i64.const 1) (i32.const 24)))
  (drop (call $readdir (i32.const 3) (i32.const 2048) (i32.const 30) (i64.const 0) (i32.const 24)))))"""
_FILL = "a = [bytes(600) for _ in range(20000)]"
_REALLOC = "a = bytearray(1 << 20); a.extend(bytes(1 << 22)); del a"
_FREE = "a = bytearray(1 << 24); del a"
_ENDING_THREAD = """
import _thread
done = _thread.allocate_lock()
done.acquire()
_thread.start_new_thread(done.release, ())
done.acquire()
done.acquire(True, 0.05)
"""

Artifact = Callable[..., int]


class Stage:
    """Where an operation plays: a zygote, artifacts made elsewhere, and a directory that is its volume `v`."""

    def __init__(self, host: ZygoteHost, artifact: Artifact, volume: Path) -> None:
        self.host = host
        self.artifact = artifact
        self.volume = volume


Operation = Callable[[Stage], int]


def _job(source: str, **options: object) -> Operation:
    """One job in a runner of its own."""

    def operation(stage: Stage) -> int:
        run = stage.host.spawn()
        run.load(stage.artifact(source), flags=FLAG_ONE_JOB)
        run.job(**options)  # type: ignore[arg-type]
        return run.finish()

    return operation


def _native(source: str) -> Operation:
    """What Python and libc do for a guest or for themselves, played."""
    return _job(HELLO, args=(b"#\n" + source.encode(),))


def _two_jobs(stage: Stage) -> int:
    run = stage.host.spawn()
    run.load(stage.artifact(HELLO))
    run.job(1)
    run.job(2)
    run.hang_up()
    return run.finish()


def _stopped(stage: Stage) -> int:
    run = stage.host.spawn()
    run.load(stage.artifact(SPIN), flags=FLAG_ONE_JOB)
    run.job(fuel=10**15)
    if _began(run):
        run.send(encode_stop())
    return run.finish()


def _paused(stage: Stage) -> int:
    """SIGSTOP and SIGCONT while it sleeps: the kernel goes on with the wait by a call of its own."""
    run = stage.host.spawn()
    run.load(stage.artifact(LONG_SLEEP), flags=FLAG_ONE_JOB)
    run.job()
    return _finish_paused(run)


def _finish_paused(run: Run) -> int:
    if _began(run):
        pause(run, "S")
    return run.finish()


def pause(run: Run, state: str, times: int = PAUSES, over: Callable[[], bool] = lambda: False) -> None:
    """SIGSTOP and SIGCONT in `state`, many times: one alone may come just when no thread of it waits.

    Until it is dead, or `over`.
    """
    for _ in range(times):
        if not await_state(run, state, over):
            return
        signal.pidfd_send_signal(run.pidfd, signal.SIGSTOP)
        await_state(run, "T")
        signal.pidfd_send_signal(run.pidfd, signal.SIGCONT)


def _began(run: Run) -> bool:
    """Wait for STARTED; False where it died before it."""
    while data := os.read(run.status, 65536):
        if STARTED in [frame.kind for frame in run.reader.feed(data)]:
            return True
    return False


def await_state(run: Run, state: str, over: Callable[[], bool] = lambda: False) -> bool:
    """Wait until the process is in the state; False where it is dead or `over` before that."""
    deadline = time.monotonic() + DEADLINE_S
    while (found := Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()[0]) != state:
        if found == "Z" or over():
            return False
        assert time.monotonic() < deadline, f"not in state {state} in time"
        time.sleep(0.002)
    return True


def _files(name: str, *args: bytes, stdin: bytes | None = None) -> Operation:
    """One job of a C guest with a mount."""

    def operation(stage: Stage) -> int:
        return _with_mount(stage, guest(name), (name.encode(), *args), stdin)

    return operation


def _native_files(source: str) -> Operation:
    return lambda stage: _with_mount(stage, wat(HELLO), (b"#\n" + source.encode(),), None)


def _guest_with_mount(source: str) -> Operation:
    return lambda stage: _with_mount(stage, wat(source), (), None)


def _two_jobs_with_mount(stage: Stage) -> int:
    run = _mounted(stage, wat(HELLO))
    for number in (1, 2):
        run.job(number, preopens=PREOPENS)
    run.hang_up()
    return run.finish()


def _paused_with_mount(stage: Stage) -> int:
    run = _mounted(stage, wat(LONG_SLEEP), FLAG_ONE_JOB)
    run.job(preopens=PREOPENS)
    return _finish_paused(run)


def _mounted(stage: Stage, wasm: bytes, flags: int = 0) -> Run:
    run = stage.host.spawn(PROFILE_FILES, mounts=((b"v", b".", False),))
    run.load(stage.artifact(wasm), flags=flags)
    return run


def _with_mount(stage: Stage, wasm: bytes, args: tuple[bytes, ...], stdin: bytes | None) -> int:
    run = _mounted(stage, wasm, FLAG_ONE_JOB)
    run.job(args=args, stdin=stdin, preopens=PREOPENS)
    return run.finish()


def _compile(wasm: Callable[[], bytes]) -> Operation:
    def operation(stage: Stage) -> int:
        run = stage.host.spawn(PROFILE_COMPILER)
        module, artifact = os.memfd_create("module"), os.memfd_create("artifact")
        source = wasm()
        os.write(module, source)
        run.send(encode_compile(7, len(source)), [module, artifact])
        run.hang_up()
        for fd in (module, artifact):
            os.close(fd)
        return run.finish()

    return operation


def one_call(profile: int, source: str) -> Operation:
    """A call that nothing of the above needs, for a reason that the table of the tests gives; played."""
    if profile == PROFILE_COMPILER:
        return _compile(lambda: b"#\n" + source.encode())
    return _native_files(source) if profile == PROFILE_FILES else _native(source)


def _many_functions() -> bytes:
    return wat("(module" + "(func (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))" * 3000 + ")")


RUNNER_OPERATIONS: dict[str, Operation] = {
    "say hello": _job(HELLO),
    "read stdin": _job(HELLO, stdin=b"text"),
    "a memory that is hidden": _job(HIDDEN),
    "trap": _job(TRAP),
    "grow a memory": _job(GROW),
    "grow a table": _job(TABLES),
    "random numbers": _job(RANDOM),
    "spin to the deadline": _job(SPIN, fuel=10**15, wall_ms=30),
    "sleep": _job(SLEEP),
    "two jobs and the end of control": _two_jobs,
    "be told to stop": _stopped,
    "be paused in its sleep": _paused,
    "crash in the host": _native("ctypes.string_at(0)"),
    "realloc a large block": _native(_REALLOC),
    "free a large block": _native(_FREE),
    "fill the heap": _native(_FILL),
}
FILES_OPERATIONS: dict[str, Operation] = {
    "files": _files("files", b"/data"),
    "listing": _files("listing", b"/data"),
    "offsets": _files("offsets", b"/data"),
    "paths": _files("paths", b"/data"),
    "stamps": _files("stamps", b"/data"),
    "stdio": _files("stdio", b"/data", stdin=b"in"),
    "cat": _files("cat", stdin=b"text"),
    "clocks": _files("clocks"),
    "random": _files("random"),
    "waits": _files("waits"),
    "trap": _guest_with_mount(TRAP),
    "a memory that is hidden": _guest_with_mount(HIDDEN),
    "every other call on a file": _guest_with_mount(ODD),
    "be paused in its sleep": _paused_with_mount,
    "two jobs and the end of control": _two_jobs_with_mount,
    "a thread that ends": _native_files(_ENDING_THREAD),
    "fill the heap": _native_files(_FILL),
    "realloc a large block": _native_files(_REALLOC),
    "free a large block": _native_files(_FREE),
    "crash in the host": _native_files("ctypes.string_at(0)"),
}
COMPILER_OPERATIONS: dict[str, Operation] = {
    "compile a small one": _compile(lambda: wat(HELLO)),
    "compile many functions": _compile(_many_functions),
    "crash in the host": _compile(lambda: b"#\nctypes.string_at(0)"),
}
OPERATIONS = {
    PROFILE_RUNNER: RUNNER_OPERATIONS,
    PROFILE_FILES: FILES_OPERATIONS,
    PROFILE_COMPILER: COMPILER_OPERATIONS,
}
