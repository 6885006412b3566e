"""A stand-in for the coordinator: execs a zygote, asks it to fork, talks to what it forked, and reaps it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from runner.engine import find_library
from runner.protocol import PROFILE_COMPILER, PROFILE_RUNNER
from runner.protocol.control import FLAG_ONE_JOB, FLAG_STDIN, Job, Load, encode_compile, encode_job, encode_load
from runner.protocol.spawn import BEAT, SPAWNED, Spawn, Spawned, decode_spawned, encode_spawn
from runner.protocol.status import OUTCOME, READY, Outcome, StatusReader, decode_outcome, decode_ready

ROOT = str(Path(__file__).resolve().parents[2])
HERE = str(Path(__file__).resolve().parent)
MIB = 1 << 20
DEADLINE_S = 10.0
NOBODY = 65534
RUNNER_UID = 60_123
F_ADD_SEALS, ALL_SEALS = 1033, 0xF
AS_NOBODY = ("/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def zygote_argv(root: Path, *more: str, wrapper: tuple[str, ...] = (), module: str = "runner.zygote") -> list[str]:
    """argv of a zygote, as the coordinator execs it; `module` is another one with its `main`."""
    paths = f"sys.path += [{ROOT!r}, {HERE!r}]"
    code = f"import sys; {paths}; from {module} import main; main(sys.argv[1:])"
    options = {
        "library": os.fsdecode(find_library()),
        "root": str(root),
        "max_memory_bytes": 512 * MIB,
        "max_output_bytes": 64 * MIB,
        "max_call_bytes": 16 * MIB,
        "compiler_memory_bytes": 2048 * MIB,
        "compiler_cpu_s": 60,
        "user_uid": NOBODY,
    }
    arguments = [f"{key}={value}" for key, value in options.items()]
    return [*wrapper, sys.executable, "-I", "-S", "-E", "-c", code, *arguments, *more]


@dataclass
class Run:
    """One forked process: our ends, and what it said."""

    pid: int
    pidfd: int
    control: socket.socket
    status: int
    reader: StatusReader = field(default_factory=StatusReader)
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    exit: int | None = None
    outputs: list[int] = field(default_factory=list)
    cpu_s: float = 0.0

    def send(self, message: bytes, fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already: what it said tells why
            socket.send_fds(self.control, [message], fds or [])

    def load(self, artifact: int, memory_bytes: int = 64 * MIB, cpu_s: int = 30, flags: int = 0) -> None:
        self.send(encode_load(Load(memory_bytes, cpu_s, flags)), [artifact])

    def job(self, job_id: int = 1, stdin: bytes | None = None, **options: object) -> None:
        settings = {"fuel": 10**9, "memory_bytes": 64 * MIB, "wall_ms": 5_000, "output_bytes": MIB} | options
        if not self.outputs:
            self.outputs = [os.memfd_create("stdout"), os.memfd_create("stderr")]
        fds = list(self.outputs)
        if stdin is not None:
            settings["flags"] = FLAG_STDIN
            fds.append(os.memfd_create("stdin"))
            os.write(fds[2], stdin)
        self.send(encode_job(Job(job_id, **settings)), fds)  # type: ignore[arg-type]
        if stdin is not None:
            os.close(fds[2])

    def read_to(self, kind: int, within_s: float = DEADLINE_S) -> bytes:
        """The payload of the next frame of `kind`; frames before it are kept in `frames`."""
        deadline = time.monotonic() + within_s
        while True:
            for index, (found, payload) in enumerate(self.frames):
                if found == kind:
                    del self.frames[: index + 1]
                    return payload
            assert select.select([self.status], [], [], max(0, deadline - time.monotonic()))[0], "no frame in time"
            data = os.read(self.status, 65536)
            assert data, f"the process ended before a frame of kind {kind}; it said {self.frames}"
            self.frames += [(frame.kind, frame.payload) for frame in self.reader.feed(data)]

    def outcome(self, within_s: float = DEADLINE_S) -> Outcome:
        return decode_outcome(self.read_to(OUTCOME, within_s))

    def ready_layers(self) -> int:
        return decode_ready(self.read_to(READY)).layers

    def stdout(self) -> bytes:
        return os.pread(self.outputs[0], MIB, 0)

    def stderr(self) -> bytes:
        return os.pread(self.outputs[1], MIB, 0)

    def hang_up(self) -> None:
        self.control.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def finish(self, within_s: float = DEADLINE_S) -> int:
        """Reap it: its exit code, or minus the signal that ended it. Reads what it still said."""
        assert select.select([self.pidfd], [], [], within_s)[0], "it did not end in time"
        _, status, usage = os.wait4(self.pid, 0)
        self.cpu_s = usage.ru_utime + usage.ru_stime
        while select.select([self.status], [], [], 0)[0] and (data := os.read(self.status, 65536)):
            self.frames += [(frame.kind, frame.payload) for frame in self.reader.feed(data)]
        self.exit = os.waitstatus_to_exitcode(status)
        self.close()
        return self.exit

    def close(self) -> None:
        for fd in (self.pidfd, self.status):
            os.close(fd)
        self.control.close()

    def close_outputs(self) -> None:
        for fd in self.outputs:
            os.close(fd)
        self.outputs = []


class ZygoteHost:
    """A zygote and the processes that it forked for us."""

    def __init__(
        self,
        root: Path,
        *arguments: str,
        wrapper: tuple[str, ...] = (),
        stderr: int | None = None,
        module: str = "runner.zygote",
    ) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.own_uid = 0 if wrapper == AS_NOBODY or os.geteuid() else RUNNER_UID  # 0 leaves it as it is
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
        if stderr is not None:
            actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
        argv = zygote_argv(root, *arguments, wrapper=wrapper, module=module)
        self.pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions)
        theirs.close()
        self.socket.settimeout(DEADLINE_S)
        self.runs: list[Run] = []
        self.exit: int | None = None
        self._request = 0

    def read(self) -> tuple[int, bytes, list[int]]:
        message, fds, _, _ = socket.recv_fds(self.socket, 8192, 2)
        return (message[0] if message else -1), message, list(fds)

    def wait_ready(self) -> ZygoteHost:
        kind, _, _ = self.read()
        assert kind == BEAT
        return self

    def ask(self, spawn: Spawn, fds: list[int]) -> tuple[Spawned, list[int]]:
        self._request += 1
        spawn.request_id = self._request
        socket.send_fds(self.socket, [encode_spawn(spawn)], fds)
        kind = BEAT
        while kind == BEAT:
            kind, message, answered = self.read()
        assert kind == SPAWNED
        return decode_spawned(message), answered

    def spawn(
        self,
        profile: int = PROFILE_RUNNER,
        uid: int | None = None,
        mounts: tuple[tuple[bytes, bytes, bool], ...] = (),
        before: list[tuple[bytes, list[int]]] | None = None,
    ) -> Run:
        """Fork one; `before` are messages that are on its control socket before it is born."""
        uid = self.own_uid if uid is None else uid
        control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status, status_theirs = os.pipe()
        for message, fds in before or []:
            socket.send_fds(control, [message], fds)
        spawned, pidfds = self.ask(Spawn(0, profile, uid, uid, mounts), [control_theirs.fileno(), status_theirs])
        control_theirs.close()
        os.close(status_theirs)
        assert (spawned.errno, len(pidfds)) == (0, 1)
        run = Run(spawned.pid, pidfds[0], control, status)
        self.runs.append(run)
        return run

    def compile(self, wasm: bytes, uid: int | None = None) -> tuple[Outcome, int]:
        """Compile by a compiler process: its outcome and a sealed memfd (-1 if it failed)."""
        run = self.spawn(PROFILE_COMPILER, uid)
        source, artifact = os.memfd_create("module"), os.memfd_create("artifact", os.MFD_ALLOW_SEALING)
        os.write(source, wasm)
        run.send(encode_compile(7, len(wasm)), [source, artifact])
        run.hang_up()
        os.close(source)
        outcome = run.outcome(60)
        assert run.finish() == 0
        if outcome.reason != "exit":
            os.close(artifact)
            return outcome, -1
        return outcome, seal_memfd(artifact)

    def run_job(self, artifact: int, uid: int | None = None, **options: object) -> tuple[Outcome, Run]:
        """One job from fork to reaped."""
        run = self.spawn(uid=uid)
        run.load(artifact, flags=FLAG_ONE_JOB)
        run.job(**options)  # type: ignore[arg-type]
        outcome = run.outcome()
        assert run.finish() == 0
        return outcome, run

    def end(self) -> int:
        """Hang up on the zygote and reap it: its exit code."""
        self.socket.close()
        _, status = os.waitpid(self.pid, 0)
        self.exit = os.waitstatus_to_exitcode(status)
        return self.exit

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.end()
        self.close_runs()

    def close_runs(self) -> None:
        """The same of what it forked; it goes on itself."""
        for run in self.runs:
            if run.exit is None:
                run.kill()
                run.finish()
            run.close_outputs()
        self.runs.clear()


def seal_memfd(fd: int) -> int:
    import fcntl

    fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    return fd
