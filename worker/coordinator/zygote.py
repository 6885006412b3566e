"""The coordinator's side of the zygote: it is exec'd here, asked to fork, listened to, and replaced when it dies.

Runners are the coordinator's children, not the zygote's, so its death costs none of them. Only what was asked of it and
not yet answered is in doubt: any child of ours that we don't know by then is killed and reaped, and the request fails.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.errors import ProtocolError
from runner.probe import HOW_TO_GET
from runner.protocol.spawn import BEAT, EXIT_WITHOUT, SPAWNED, Spawn, Spawned, decode_spawned, encode_spawn
from worker.coordinator import audit
from worker.coordinator.child import Child
from worker.coordinator.poller import READ, Poller
from worker.coordinator.want import PASSING, Tries, is_passing
from worker.errors import SpawnError, Unsealed, ZygoteFailed
from worker.shared.faults import Fault, no_fault

_log = logging.getLogger("worker.coordinator")
MESSAGE_BYTES = 8 * 1024
# How often a fork is tried again because the zygote died over it, before whoever wanted it is told.
FORK_ATTEMPTS = 10
# So many starts in a row that never got ready, and there is no use in another.
FAILURE_LIMIT = 5


@dataclass(frozen=True, slots=True)
class Process:
    """An exec'd zygote: its pid, a pidfd, and our end of its socket."""

    pid: int
    pidfd: int
    socket: socket.socket


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no process that was asked for.

    Args:
        zygote_died: the fault was the zygote's, and another may do it.
        passing: the machine lacked something, and may have it in a moment.
        unseen: there may have been a process, which is dead now and may have begun.
    """

    detail: str
    zygote_died: bool = False
    passing: bool = False
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    child: Child
    on_born: Callable[[int], None]
    on_failed: Callable[[Failure], None]


class Zygote:
    """One zygote at a time.

    Args:
        start: execs a zygote; injected, so that the capabilities it needs are the caller's matter.
        heartbeat_timeout_us: how long it may be silent.
        known_pids: the children of this process that aren't in doubt when a zygote dies.
    """

    def __init__(
        self,
        poller: Poller,
        start: Callable[[], Process],
        heartbeat_timeout_us: int,
        known_pids: Callable[[], set[int]],
        fault: Fault = no_fault,
    ) -> None:
        self._poller = poller
        self._start = start
        self._heartbeat_timeout_us = heartbeat_timeout_us
        self._known_pids = known_pids
        self._fault = fault
        self._tries: Tries | None = None  # of what comes before there is another, where the machine lacks something
        self._requests: dict[int, _Request] = {}
        self._next_request = 1
        self._process: Process | None = None
        self._last_beat_us = 0
        self._failed_starts = 0
        self.ready = False
        self.restarts = -1

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def births(self) -> int:
        """How many forks were asked for and not answered yet."""
        return len(self._requests)

    def children(self) -> dict[int, audit.Child]:
        """The zygote itself, as the audit knows a child."""
        process = self._process
        if process is None:
            return {}
        return {process.pid: audit.Child("the zygote", self._poller.hears(process.pidfd))}

    def fds(self) -> dict[int, str]:
        """Our descriptors of it, and what they are."""
        process = self._process
        if process is None:
            return {}
        return {process.socket.fileno(): "the zygote's socket", process.pidfd: "the zygote's pidfd"}

    def ensure(self) -> None:
        """Start one if there is none; where the machine lacks something for it, a little later."""
        if self._process is None and self._tries is None:
            self._try(Tries())

    def spawn(
        self, child: Child, spawn: Spawn, on_born: Callable[[int], None], on_failed: Callable[[Failure], None]
    ) -> None:
        """Fork `child`. One of the two callbacks is called, perhaps at once: with the pid, or with what went wrong."""
        spawn.request_id = self._next_request
        self._next_request += 1
        self._requests[spawn.request_id] = _Request(child, on_born, on_failed)
        try:
            self.ensure()
            self._fault("fork.asking")
            if self._process is None:
                self._fail(spawn.request_id, Failure("there is no zygote, and none can be started now", passing=True))
                return
            fds = [child.control_theirs.fileno(), child.status_theirs]
            socket.send_fds(self._process.socket, [encode_spawn(spawn)], fds)
            self._fault("fork.asked")
        except (BrokenPipeError, ConnectionResetError):
            return  # dead already: when that is told, this request fails with the others and may be tried again
        except OSError as error:
            detail = f"the zygote could not be asked: {error.strerror or error}"
            self._fail(spawn.request_id, Failure(detail, passing=is_passing(error)))

    def check_heartbeat(self, monotonic_us: int) -> None:
        """Kill a zygote that has been silent for too long; its death is handled when it comes."""
        process = self._process
        if process is not None and monotonic_us - self._last_beat_us > self._heartbeat_timeout_us:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End the zygote: it has nothing of its own to put in order."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process.pidfd, signal.SIGKILL)
            os.waitpid(self._process.pid, 0)
            self._drop()

    def _try(self, tries: Tries) -> None:
        """Start one, or try that again."""
        self._tries = tries
        try:
            process = self._start()
        except (OSError, SpawnError) as error:
            if not is_passing(error):
                raise
            wait_s = tries.next_wait_s()
            _log.error("the zygote can't be started now, the next try is in %g s: %s", wait_s, error)
            self._poller.later(wait_s, lambda: self._try(tries))
            return
        self._process, self._tries = process, None
        process.socket.setblocking(False)
        self._poller.add(process.socket.fileno(), self._on_message, READ)
        self._poller.add(process.pidfd, self._on_death, READ)
        self._last_beat_us = time.monotonic_ns() // 1000
        self.ready = False
        self.restarts += 1

    def _on_message(self, _: int) -> None:
        while self._process is not None:
            try:
                message, fds, _flags, _ = socket.recv_fds(self._process.socket, MESSAGE_BYTES, 2)
            except (BlockingIOError, ConnectionResetError):
                return
            if not message:
                return  # EOF: the pidfd tells the rest
            self._last_beat_us = time.monotonic_ns() // 1000
            self.ready = True
            self._failed_starts = 0
            if message[0] == SPAWNED:
                self._on_spawned(message, fds)
            elif message[0] != BEAT:
                raise ProtocolError(f"the zygote said {message[0]}, which is neither SPAWNED nor BEAT")

    def _on_spawned(self, message: bytes, fds: list[int]) -> None:
        spawned = decode_spawned(message)
        self._fault("fork.answered")
        request = self._requests.pop(spawned.request_id, None)
        if request is None or spawned.errno or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            if request is not None:
                request.on_failed(self._failure(spawned))
            return
        request.child.give_birth(spawned.pid, fds[0])
        request.on_born(spawned.pid)

    def _failure(self, spawned: Spawned) -> Failure:
        """Why the answer is no birth."""
        if spawned.errno:
            named = errno.errorcode.get(spawned.errno, "?")
            detail = f"fork failed at {spawned.step or 'clone'}: {os.strerror(spawned.errno)} ({named})"
            return Failure(detail, passing=spawned.errno in PASSING)
        # Its pidfd was lost on the way, for we have no descriptor left. It is our child all the same: its pid holds.
        _kill_and_reap(spawned.pid)
        return Failure("no descriptor was left for the new process (EMFILE)", passing=True, unseen=True)

    def _on_death(self, _: int) -> None:
        assert self._process is not None
        pid, status = os.waitpid(self._process.pid, os.WNOHANG)
        if pid == 0:
            return
        self._on_message(0)  # what it answered before it died is still true
        was_ready = self.ready
        self._drop()
        if not was_ready:
            self._count_failure(os.waitstatus_to_exitcode(status))
        self._clear_up(Tries())

    def _clear_up(self, tries: Tries) -> None:
        """After a death: no child is left in doubt, then all who wait are told, then there is another zygote.

        Not before: what the next one forks would be in doubt, too.
        """
        self._tries = tries
        try:
            self._reap_unknown()
        except OSError as error:  # no descriptor to look with
            if not is_passing(error):
                raise
            self._poller.later(tries.next_wait_s(), lambda: self._clear_up(tries))
            return
        self._tries = None
        for request_id in list(self._requests):
            self._fail(request_id, Failure("the zygote died before it answered", zygote_died=True, unseen=True))
        self.ensure()

    def _count_failure(self, status: int) -> None:
        """Judge a start that came to nothing: `status` is its exit code, or minus the signal.

        One that was killed tells nothing of the next: by us, for its silence, or for want of memory.

        Raises:
            Unsealed: another start would end as this one did.
            ZygoteFailed: so have all others.
        """
        for layer, code in EXIT_WITHOUT.items():
            if status == code:
                raise Unsealed(
                    f"no task runs without the layer {layer} of the seal, and it can't be had here; "
                    f"to get it: {HOW_TO_GET[layer]}. `galago-worker doctor` tells about all layers; "
                    "--allow-unsealed starts the worker without"
                )
        if status == -signal.SIGKILL:
            return
        self._failed_starts += 1
        if self._failed_starts >= FAILURE_LIMIT:
            raise ZygoteFailed(self._failed_starts, status)

    def _drop(self) -> None:
        assert self._process is not None
        self._poller.remove(self._process.socket.fileno())
        self._poller.remove(self._process.pidfd)
        self._process.socket.close()
        os.close(self._process.pidfd)
        self._process = None
        self.ready = False

    def _fail(self, request_id: int, failure: Failure) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            request.on_failed(failure)

    def _reap_unknown(self) -> None:
        """Children that the dead zygote forked and could not name any more. They are ours alone, so their pids hold."""
        known = self._known_pids()
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in map(int, children.read_text().split()):
                if pid not in known:
                    _kill_and_reap(pid)


def _kill_and_reap(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
