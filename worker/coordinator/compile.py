"""One module compiled by one process: forked from the zygote like a runner, sealed by the compiler's profile, killable.

The bytes that come back are sealed and MACed, not trusted: their maker ate hostile bytes, and so they are only ever
loaded within the seal of a runner.
"""

from __future__ import annotations

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
from worker.coordinator.want import Tries, is_passing
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
        self._artifact = -1
        self._poller = poller
        self._zygote = zygote
        self._uid = uid
        self._attempts = FORK_ATTEMPTS
        self._tries = Tries()
        self._waited_for: Path | None = None  # the module, while another try is waited for
        self.child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, once it is born."""
        return self.child.pid if self.child is not None and self.child.born else None

    def fds(self) -> dict[int, str]:
        """Our descriptors of it, and what they are."""
        found = self.child.fds("a compiler") if self.child is not None else {}
        return found | ({self._artifact: "a compiler: its artifact"} if self._artifact >= 0 else {})

    def start(self, module: Path) -> None:
        """Fork, and hand over the module's bytes, read-only, with the memfd for the artifact.

        Where the machine lacks something for it, it is tried again for a while.
        """
        self._waited_for = None
        self.started_us = time.monotonic_ns() // 1000  # what was waited for before is no time of the compiler's
        try:
            source = os.open(module, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._artifact = memfd.create("artifact")
                self.child = child = Child(self._poller, self, lambda _: None)
                size = os.fstat(source).st_size
                child.tell(encode_compile(COMPILE_JOB_ID, size), [source, self._artifact])
            finally:
                os.close(source)
        except OSError as error:
            detail = f"the module's bytes can't be handed over: {error.strerror}"
            self._fork_failed(module, Failure(detail, passing=is_passing(error)))
            return
        spawn = Spawn(0, PROFILE_COMPILER, self._uid, self._uid)
        self._zygote.spawn(child, spawn, lambda _: child.hang_up(), lambda failure: self._fork_failed(module, failure))

    def kill(self, because: str) -> None:
        self._killed = self._killed or because
        if self._waited_for is not None:
            self._waited_for = None
            self._fail(because)
        elif self.child is not None:
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
        if self.child is not None:
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
        self._attempts -= failure.zygote_died
        if self._killed is None and failure.passing and not self._tries.over:
            self._let_go()
            self._waited_for = module
            self._poller.later(self._tries.next_wait_s(), self._start_again)
        elif self._killed is None and failure.zygote_died and self._attempts:
            self._let_go()
            self.start(module)
        else:
            self._fail(self._tries.told(failure.detail))

    def _start_again(self) -> None:
        if self._waited_for is not None:  # else it was killed meanwhile
            self.start(self._waited_for)

    def _let_go(self) -> None:
        """Of all that one try had; one that was forked and never announced may have written to it."""
        if self.child is not None:
            self.child.close()
            self.child = None
        if self._artifact >= 0:
            os.close(self._artifact)
            self._artifact = -1

    def _fail(self, failure: str, deterministic: bool = False) -> None:
        self._let_go()
        self._then(Compiled(failure=failure, deterministic=deterministic, cancelled=self._cancelled))
