"""One process that the zygote forked for us: its control socket, its status pipe, and its life till it is reaped.

A runner and a compiler are both such children; what differs is who listens (`Listener`) and what they are told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Protocol

from runner.errors import ProtocolError
from runner.protocol.status import HELLO, READY, Frame, StatusReader
from worker.coordinator.poller import READ, Poller
from worker.core.verdict import Exit

# One read takes this much; a runner that writes more is read again in the next round, so that it starves nobody.
READ_BYTES = 64 * 1024


class Listener(Protocol):
    """Who is told what a child does. After `exited` nothing more comes."""

    def frame(self, frame: Frame) -> None: ...

    def broke_protocol(self, detail: str) -> None: ...

    def exited(self, exit_: Exit) -> None: ...


class Child:
    """The coordinator's end of one forked process.

    The order of its life: `open` makes both channels, `born` is called when the zygote has answered, frames come, and
    `exited` is told once the process is reaped *and* its pipe is read to the end.
    """

    def __init__(self, poller: Poller, listener: Listener, on_gone: Callable[[Child], None]) -> None:
        self._poller = poller
        self._listener = listener
        self._on_gone = on_gone
        self._reader = StatusReader()
        self._deaf = False
        self.pid = 0
        self._pidfd = -1
        self._kill_at_birth = False
        self.control, self.control_theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self.control_theirs.setblocking(True)
        self._status, self.status_theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._status, False)

    @property
    def born(self) -> bool:
        return self._pidfd >= 0

    @property
    def unwanted(self) -> bool:
        """It was to be killed before it was born."""
        return self._kill_at_birth

    @property
    def watched(self) -> bool:
        """Whether we shall hear of its end."""
        return self._poller.hears(self._pidfd)

    def fds(self, whose: str) -> dict[int, str]:
        """Our descriptors of it, and what they are."""
        found = {
            self.control.fileno(): f"{whose}: control",
            self.control_theirs.fileno(): f"{whose}: its end of control",
            self._status: f"{whose}: status",
            self.status_theirs: f"{whose}: its end of status",
            self._pidfd: f"{whose}: pidfd",
        }
        found.pop(-1, None)
        return found

    def tell(self, message: bytes, fds: list[int] | None = None) -> None:
        """Send one control message. The socket holds all that we ever send unread, so it never blocks.

        Raises:
            OSError: the process is gone (its exit follows), or the message doesn't fit.
        """
        if fds:
            socket.send_fds(self.control, [message], fds)
        else:
            self.control.send(message)

    def hang_up(self) -> None:
        """No more jobs: the process reads EOF and ends by itself."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def give_birth(self, pid: int, pidfd: int) -> None:
        """The zygote has forked it: listen to its pipe and its end."""
        self.close_theirs()
        self.pid, self._pidfd = pid, pidfd
        self._poller.add(self._status, self._on_status, READ)
        self._poller.add(pidfd, self._on_exit, READ)
        if self._kill_at_birth:
            self.kill()

    def kill(self) -> None:
        if self._pidfd < 0:
            self._kill_at_birth = True
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def started_unseen(self) -> bool:
        """Whether a process that was never announced to us has begun a job. Asked when it is certainly dead."""
        frames: list[Frame] = []
        self.close_theirs()
        with contextlib.suppress(BlockingIOError, ProtocolError):
            frames.extend(self._reader.feed(os.read(self._status, READ_BYTES)))
        return any(frame.kind not in (HELLO, READY) for frame in frames)

    def close_theirs(self) -> None:
        """The other side's ends are the child's alone; ours would keep its pipe open after its death."""
        self.control_theirs.close()
        if self.status_theirs >= 0:
            os.close(self.status_theirs)
            self.status_theirs = -1

    def close(self) -> None:
        """Let go of everything. For one that was never born, and after the exit."""
        self.close_theirs()
        self.control.close()
        for fd in (self._status, self._pidfd):
            if fd >= 0:
                self._poller.remove(fd)
                os.close(fd)
        self._status = self._pidfd = -1

    def _on_status(self, _: int) -> None:
        try:
            data = os.read(self._status, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._pass_on(data)
        else:
            self._poller.remove(self._status)

    def _pass_on(self, data: bytes) -> None:
        """Tell the listener what is whole. What follows garbage has no meaning: it is read away and forgotten."""
        if self._deaf:
            return
        try:
            for frame in self._reader.feed(data):
                self._listener.frame(frame)
        except ProtocolError as error:
            self._deaf = True
            self._listener.broke_protocol(str(error))

    def _on_exit(self, _: int) -> None:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return
        with contextlib.suppress(BlockingIOError):  # dead, so the pipe holds at most a pipe's worth
            while data := os.read(self._status, READ_BYTES):
                self._pass_on(data)
        exit_ = Exit(
            signal=_signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None,
            code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            cpu_us=round((usage.ru_utime + usage.ru_stime) * 1_000_000),
            peak_rss_bytes=usage.ru_maxrss * 1024,
        )
        self.close()
        self._on_gone(self)
        self._listener.exited(exit_)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"SIG{number}"
