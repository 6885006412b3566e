"""One child process of the launcher's: `worker.supervise` decides, this starts, hears, kills and reaps."""

from __future__ import annotations

import logging
import os
import selectors
import signal
from collections.abc import Callable
from contextlib import suppress

from worker.errors import ExitCode, NeverReady, SpawnError, TableRefused, Unsealed, WorkerError
from worker.heartbeat import DRAINED, READY
from worker.spawn import Process, Program, spawn
from worker.supervise import (
    Beat,
    BecameReady,
    Child,
    Effect,
    Ended,
    Event,
    GiveUp,
    Kill,
    Phase,
    Policy,
    Start,
    StopOrdered,
    Ticked,
    step,
)

_log = logging.getLogger("launcher")
_READ_BYTES = 4096
# Ends that another start would have too: what is raised then, whose message stands in the log already.
_HOPELESS: dict[str, tuple[type[WorkerError], str]] = {
    f"exit code {ExitCode.UNSEALED.value}": (Unsealed, "does not run tasks unsealed; what it lacks and how to get it"),
    f"exit code {ExitCode.TABLE_REFUSED.value}": (TableRefused, "can't use the task table; why, and what to do"),
}
RUNNING = (Phase.STARTING, Phase.READY, Phase.STOPPING)


class Supervised:
    """A child that is kept running until it is ordered to stop.

    Args:
        name: for the log.
        program: what to start, given the fd that it writes its heartbeat to.
        selector: its pidfd and pipe are registered here, so that its end and its words wake the launcher.
        on_end: told when it was reaped.
    """

    def __init__(
        self,
        name: str,
        program: Callable[[int], Program],
        policy: Policy,
        selector: selectors.BaseSelector,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.state = Child()
        self.process: Process | None = None
        self.drained = False
        self.restarts = -1
        self._program = program
        self._policy = policy
        self._selector = selector
        self._on_end = on_end
        self._beat_fd = -1
        self._owed: set[int] = set()

    @property
    def running(self) -> bool:
        return self.state.phase in RUNNING

    @property
    def ready(self) -> bool:
        return self.state.phase is Phase.READY

    def hear(self, now_ms: int) -> None:
        """Read all that it has said, then whether it has ended."""
        said = self._read()
        if said:
            self._step(Beat(), now_ms)
        if READY in said and not self.ready:
            self._step(BecameReady(), now_ms)
            _log.info("%s is ready", self.name)
            for number in self._owed:
                self.send(number)
            self._owed.clear()
        self.drained = self.drained or DRAINED in said
        if self.process is not None and (end := self.process.reap()) is not None:
            self._drop()
            log = _log.info if self.state.phase is Phase.STOPPING else _log.error
            log("%s ended: %s", self.name, end)
            self._on_end()
            self._step(Ended(end, hopeless=end in _HOPELESS), now_ms)

    def tick(self, now_ms: int) -> None:
        """Judge it, and start it if it is due. Call when everything was heard.

        Raises:
            NeverReady: it was started too often in vain.
            Unsealed: it refuses to run tasks on this machine.
            TableRefused: it can't use the task table, and never will.
        """
        self._step(Ticked(), now_ms)

    def order_stop(self, now_ms: int) -> None:
        """It will not be started again. What makes it stop is another matter."""
        self._step(StopOrdered(), now_ms)

    def send(self, signal_number: int) -> None:
        if self.process is not None:
            self.process.send(signal_number)

    def send_when_ready(self, signal_number: int) -> None:
        """For signals that it handles once it is ready, and that would kill it before."""
        if self.ready:
            self.send(signal_number)
        else:
            self._owed.add(signal_number)

    def destroy(self) -> None:
        """SIGKILL and reap, whatever the state. Its own children die with it, by PDEATHSIG."""
        if self.process is not None:
            self.process.send(signal.SIGKILL)
            os.waitid(os.P_PIDFD, self.process.pidfd, os.WEXITED)
            self._drop()
        self.state = Child(Phase.ENDED)

    def _step(self, event: Event, now_ms: int) -> None:
        self.state, effects = step(self.state, event, now_ms, self._policy)
        for effect in effects:
            self._carry_out(effect, now_ms)

    def _carry_out(self, effect: Effect, now_ms: int) -> None:
        match effect:
            case Start():
                self._start(now_ms)
            case Kill(reason):
                _log.error("%s is killed: %s", self.name, reason)
                self.send(signal.SIGKILL)
            case GiveUp(_, detail) if detail in _HOPELESS:
                error, why = _HOPELESS[detail]
                raise error(f"{self.name} {why}, stands above")
            case GiveUp(attempts, detail):
                raise NeverReady(self.name, attempts, detail)

    def _start(self, now_ms: int) -> None:
        self.restarts += 1
        self.drained = False
        self._owed.clear()
        self._beat_fd, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.process = spawn(self._program(theirs))
        except SpawnError as exc:
            _log.error("%s", exc)
            os.close(self._beat_fd)
            self._beat_fd = -1
            self._step(Ended(str(exc)), now_ms)
            return
        finally:
            os.close(theirs)
        self._selector.register(self._beat_fd, selectors.EVENT_READ)
        self._selector.register(self.process.pidfd, selectors.EVENT_READ)
        _log.info("%s started, pid %d", self.name, self.process.pid)

    def _read(self) -> bytes:
        said = b""
        with suppress(BlockingIOError):
            while self._beat_fd >= 0:
                data = os.read(self._beat_fd, _READ_BYTES)
                said += data
                if not data:
                    self._close_beat()
        return said

    def _close_beat(self) -> None:
        if self._beat_fd >= 0:
            self._selector.unregister(self._beat_fd)
            os.close(self._beat_fd)
            self._beat_fd = -1

    def _drop(self) -> None:
        assert self.process is not None
        self._close_beat()
        self._selector.unregister(self.process.pidfd)
        os.close(self.process.pidfd)
        self.process = None
