"""One module compiled by one process: forked from the zygote like a runner, sealed by the compiler's profile, killable.

The bytes that come back are sealed and MACed, not trusted: their maker ate hostile bytes, and so they are only ever
loaded within the seal of a runner.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ProtocolError
from runner.protocol import PROFILE_COMPILER
from runner.protocol.control import encode_compile
from runner.protocol.spawn import Spawn
from runner.protocol.status import OUTCOME, Frame, Outcome, decode_outcome
from worker.coordinator import memfd
from worker.coordinator.child import Child
from worker.coordinator.poller import Poller
from worker.coordinator.zygote import FORK_ATTEMPTS, Failure, Zygote
from worker.core.verdict import Exit

COMPILE_JOB_ID = 1
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of it: `artifact_fd` (an unsealed memfd, the caller's to close), or why there is none."""

    artifact_fd: int = -1
    failure: str = ""
    deterministic: bool = False  # the same module would fail the same way again
    cancelled: bool = False  # it was killed because nobody waited for it


class Compilation:
    """A compiler process and what it said.

    Args:
        memory_bytes: what a compiler may have; the zygote holds it to that, here it is only told.
        then: called once, when the process is gone.
    """

    def __init__(
        self, poller: Poller, zygote: Zygote, uid: int, memory_bytes: int, then: Callable[[Compiled], None]
    ) -> None:
        self._then = then
        self._memory_bytes = memory_bytes
        self._outcome: Outcome | None = None
        self._broken: str | None = None
        self._killed: str | None = None
        self._cancelled = False
        self.started_us = time.monotonic_ns() // 1000
        self._artifact = memfd.create("artifact")
        self._poller = poller
        self._zygote = zygote
        self._uid = uid
        self._attempts = FORK_ATTEMPTS
        self.child = Child(poller, self, lambda _: None)

    def fds(self) -> dict[int, str]:
        """Our descriptors of it, and what they are."""
        return {**self.child.fds("a compiler"), self._artifact: "a compiler: its artifact"}

    def start(self, module: Path) -> None:
        """Fork, and hand over the module's bytes, read-only, with the memfd for the artifact."""
        try:
            source = os.open(module, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._failed(Failure(f"the module's bytes can't be read: {error.strerror}"))
            return
        try:
            size = os.fstat(source).st_size
            self.child.tell(encode_compile(COMPILE_JOB_ID, size), [source, self._artifact])
        finally:
            os.close(source)
        spawn = Spawn(0, PROFILE_COMPILER, self._uid, self._uid)
        failed = functools.partial(self._fork_failed, module)
        self._zygote.spawn(self.child, spawn, lambda _pid: self.child.hang_up(), failed)

    def kill(self, because: str) -> None:
        self._killed = self._killed or because
        self.child.kill()

    def cancel(self) -> None:
        self._cancelled = True
        self.kill("nobody waited for it any more")

    # -- Listener ----------------------------------------------------------------------------------------------------

    def frame(self, frame: Frame) -> None:
        if frame.kind == OUTCOME:
            self._outcome = decode_outcome(frame.payload)
            if self._outcome.reason not in ("exit", "compile_failed", "init_failed"):
                raise ProtocolError(f"a compiler can't end with {self._outcome.reason}")

    def broke_protocol(self, detail: str) -> None:
        self._broken = detail
        self.child.kill()

    def exited(self, exit_: Exit) -> None:
        outcome = self._outcome
        if self._killed is not None:
            self._fail(self._killed, deterministic=True)
        elif self._broken is not None:
            self._fail(f"the compiler broke its protocol: {self._broken}")
        elif outcome is None or exit_.signal is not None:
            # Its limits end it by other signals: SIGKILL is the machine's memory that ran out, or somebody's hand.
            self._fail(self._death(exit_), deterministic=exit_.signal != "SIGKILL")
        elif outcome.reason != "exit":
            self._fail(outcome.detail or outcome.reason, deterministic=outcome.reason == "compile_failed")
        elif os.fstat(self._artifact).st_size == 0:
            self._fail("the compiler said that it was done and wrote nothing")
        else:
            self._then(Compiled(artifact_fd=self._artifact))

    # -- within ------------------------------------------------------------------------------------------------------

    def _death(self, exit_: Exit) -> str:
        """How a compiler died that had not said how it went.

        The engine aborts where an allocation fails, and writes a message, which the seal ends with SIGSYS: most often
        that is memory, and the figures let one see it.
        """
        if exit_.signal == "SIGXCPU":
            return "the compiler used more CPU time than compile_wall_s allows"
        how = f"died by {exit_.signal}" if exit_.signal else f"ended with status {exit_.code}"
        if exit_.signal == "SIGKILL":
            return f"the compiler {how}"
        held, allowed = exit_.peak_rss_bytes // MIB, self._memory_bytes // MIB
        return (
            f"the compiler {how}, most likely for want of memory: it held {held:,} MiB "
            f"and asked for more, {allowed:,} MiB are allowed (compile_memory_bytes)"
        )

    def _fork_failed(self, module: Path, failure: Failure) -> None:
        self._attempts -= 1
        if not failure.zygote_died or not self._attempts or self._killed is not None:
            self._failed(failure)
            return
        self.child.close()
        os.ftruncate(self._artifact, 0)  # one that was forked and never announced may have begun
        os.lseek(self._artifact, 0, os.SEEK_SET)
        self.child = Child(self._poller, self, lambda _: None)
        self.start(module)

    def _failed(self, failure: Failure) -> None:
        self.child.close()
        self._fail(failure.detail)

    def _fail(self, failure: str, deterministic: bool = False) -> None:
        os.close(self._artifact)
        self._then(Compiled(failure=failure, deterministic=deterministic, cancelled=self._cancelled))
