"""The coordinator's side of one fetch: a helper process, the pipe that it answers on, and its life till it is reaped.

The loop polls two descriptors: `fileno()`, for `on_readable`, and `pidfd`, for `on_exited`, which gives the answer. Not
before the process is gone: until then it has the module's file open for writing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from worker import capabilities, spawn
from worker.coordinator import memfd
from worker.coordinator.fetch_wire import (
    MAX_ANSWER_BYTES,
    Answer,
    FetchFailed,
    FetchRequest,
    decode_answer,
    encode_request,
)
from worker.errors import FetchError

READ_BYTES = 64 * 1024
# The fetcher gives up by itself at its timeout; one that is stuck in a name's resolution is killed this much later.
GRACE_S = 2.0


class Fetch:
    """One fetcher process.

    Args:
        request: what to fetch.
        file_fd: an empty file, open for reading and writing, that the module's bytes go to; it stays the caller's.
        start: `spawn.spawn`, or what stands for it in a test.

    Raises:
        SpawnError: it could not be started; nothing is left of it.
    """

    def __init__(
        self, request: FetchRequest, file_fd: int, *, start: Callable[[spawn.Program], spawn.Process] = spawn.spawn
    ) -> None:
        self.request = request
        self._said = bytearray()
        self._killed: FetchFailed | None = None
        self._answer_fd, theirs = os.pipe2(os.O_CLOEXEC)
        request_fd = memfd.create("fetch-request")
        try:
            os.write(request_fd, encode_request(request))
            os.lseek(request_fd, 0, os.SEEK_SET)
            fds = {"request": request_fd, "answer": theirs, "file": file_fd}
            # Another uid, and our code where `--user` can't read it (`worker.reach`): gone before it reads what came.
            program = spawn.Program(
                spawn.python("worker.coordinator.fetcher"),
                env=spawn.python_env(),
                fds=fds,
                capabilities=capabilities.permitted_for_fetcher(),
            )
            self._process = start(program)
        except BaseException:
            os.close(self._answer_fd)
            raise
        finally:
            os.close(request_fd)
            os.close(theirs)
        os.set_blocking(self._answer_fd, False)
        self.overdue_at_s = time.monotonic() + request.timeout_s + GRACE_S

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """Readable when the process has ended."""
        return self._process.pidfd

    def fileno(self) -> int:
        """Its answer pipe."""
        return self._answer_fd

    def on_readable(self) -> bool:
        """Take in what it says; True while there may be more. One that says too much is killed."""
        try:
            data = os.read(self._answer_fd, READ_BYTES)
        except BlockingIOError:
            return True
        self._said += data
        if len(self._said) > MAX_ANSWER_BYTES:
            self.kill("its answer was too long")
            return False
        if not data:
            # It has nothing left to do, and keeps the module's file from its use as long as it lives.
            self._process.send(signal.SIGKILL)
        return bool(data)

    def kill(self, because: str, code: str = "internal") -> None:
        """End it; `on_exited` follows with a failure that says why. Harmless when it has ended."""
        self._killed = self._killed or FetchFailed(code, because)
        self._process.send(signal.SIGKILL)

    def kill_if_overdue(self, monotonic_s: float) -> None:
        """End it when it has had its time and more."""
        if monotonic_s >= self.overdue_at_s:
            self.kill(f"it took longer than {self.request.timeout_s:g} s (fetch_timeout_s)", "timed_out")

    def on_exited(self) -> Answer | None:
        """Reap it and say what came of it, when `pidfd` is readable; None when it hasn't ended yet.

        After an answer both descriptors are out of use: take them out of the poller and `close`.
        """
        how = self._process.reap()
        if how is None:
            return None
        while len(self._said) <= MAX_ANSWER_BYTES and self._read_on():
            pass
        if self._killed is not None:
            return self._killed
        try:
            return decode_answer(bytes(self._said), self.request)
        except FetchError as exc:
            return FetchFailed(exc.code, f"{exc} ({how})")

    def close(self) -> None:
        """Let go of its descriptors, once it is reaped."""
        os.close(self._answer_fd)
        os.close(self._process.pidfd)

    def _read_on(self) -> bool:
        """What the pipe still holds. It is dead, so that nothing comes after that."""
        try:
            data = os.read(self._answer_fd, READ_BYTES)
        except BlockingIOError:
            return False
        self._said += data
        return bool(data)
