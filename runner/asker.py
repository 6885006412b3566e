"""Who asks: the one connection that a serving runner has at a time, always descriptor 7.

Raw calls of libc, each of which the filter names. None waits but `accept`, and `ppoll` where a request or an answer
goes in parts, for PATIENCE_MS in all: an API worker that was stopped holds no runner for longer.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import addressof, c_int, c_long, c_short, c_size_t, c_ssize_t, c_void_p, get_errno
from time import monotonic_ns

from runner.errors import ProtocolError
from runner.messages import MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK
from runner.protocol.call import CALL_HEAD, MARK, call_length, checked_length
from runner.syscalls import WRITABLE, map_memory, view_memory

NULL_FD, LISTENER_FD, STDERR_FD, CALL_FD = 0, 5, 6, 7
PATIENCE_MS = 5000
# What is read at once: nearly every request, head and body. Longer ones get a buffer of their own.
BUFFER_BYTES = 64 * 1024

SOCK_CLOEXEC = 0o2000000
_SEND = MSG_DONTWAIT | MSG_NOSIGNAL
_EAGAIN, _EINVAL, _ECONNABORTED = 11, 22, 103
_POLLIN, _POLLOUT = 1, 4

# CDLL gives the GIL back while it waits; PyDLL keeps it, for calls that never wait. What each call takes has no
# argument types, but ctypes objects that are made once (as in `runner.callee`).
_waiting = ctypes.CDLL(None, use_errno=True)
_prompt = ctypes.PyDLL(None, use_errno=True)
_accept4 = _waiting.accept4
_ppoll = _waiting.ppoll
_ppoll.argtypes = (c_void_p, c_size_t, c_void_p, c_void_p)
_recv, _send = _prompt.recv, _prompt.send
_recv.restype = _send.restype = c_ssize_t
_ACCEPT = c_int(LISTENER_FD), None, None, c_int(SOCK_CLOEXEC)
_CALL, _NOW, _NOW_QUIETLY = c_int(CALL_FD), c_int(MSG_DONTWAIT), c_int(_SEND)


class _Wait(ctypes.Structure):
    """struct pollfd, struct timespec."""

    _fields_ = (("fd", c_int), ("events", c_short), ("found", c_short), ("seconds", c_long), ("nanoseconds", c_long))


_TIMESPEC_OFFSET = _Wait.seconds.offset


class Asker:
    """The connection of the call that is being served; one a process."""

    __slots__ = ("_address", "_answer_bytes", "_first", "_keeps_number", "_max_bytes", "_peek", "_view", "_wait")

    def __init__(self, max_bytes: int, *, keeps_number: bool) -> None:
        """Nothing is asked for yet.

        Args:
            max_bytes: the longest request that is taken, head included.
            keeps_number: others open files here: CALL_FD is kept taken between calls, or it would be somebody's file.
        """
        self._keeps_number = keeps_number
        if keeps_number:
            self._take_number(NULL_FD)
        self._max_bytes = max_bytes
        self._address = map_memory(BUFFER_BYTES)  # not from the heap: its pages exist only once they are filled
        self._view: memoryview = view_memory(self._address, BUFFER_BYTES, WRITABLE)
        self._first = _CALL, c_void_p(self._address), c_size_t(BUFFER_BYTES), _NOW
        self._peek = _CALL, ctypes.create_string_buffer(1), c_size_t(1), c_int(MSG_PEEK | MSG_DONTWAIT)
        self._answer_bytes = c_size_t()
        self._wait = _Wait(CALL_FD)

    def accept(self) -> bool:
        """Wait for the next connection; False where the listener was shut down and nothing is left in its queue.

        Raises:
            OSError: the listener is none, or the connection got another descriptor than CALL_FD.
        """
        while True:
            fd = _accept4(*_ACCEPT)
            if fd == CALL_FD:
                return True
            if fd >= 0 and self._keeps_number:
                self._take_number(fd)
                os.close(fd)
                return True
            errno = get_errno()
            if fd >= 0 or errno not in (_EINVAL, _ECONNABORTED):
                raise OSError(errno, f"accept gave {fd}: {os.strerror(errno)}")
            if errno == _EINVAL:
                return False

    def read(self) -> tuple[memoryview, tuple[int, ...]] | None:
        """The whole request, valid until the next one, and CALL_HEAD's fields; None where it does not come in time.

        Raises:
            ProtocolError: no request, or too long.
            MemoryError: there is no room for it.
        """
        have = _recv(*self._first)
        if have >= CALL_HEAD.size:
            fields = CALL_HEAD.unpack_from(self._view)
            whole = checked_length(fields)
            if whole == have:
                return self._view[:have], fields
            if whole < have:
                raise ProtocolError(f"a request of {whole} bytes is followed by {have - whole} more")
        if have == 0 or (have < 0 and get_errno() != _EAGAIN):
            return None
        message = self._read_rest(max(have, 0))
        return None if message is None else (message, CALL_HEAD.unpack_from(message))

    def _read_rest(self, have: int) -> memoryview | None:
        """The same where it comes in parts, or is longer than the buffer; `have` bytes have come."""
        due_ns = monotonic_ns() + PATIENCE_MS * 1_000_000
        while have < CALL_HEAD.size:
            got = self._receive(self._address + have, CALL_HEAD.size - have, due_ns)
            if not got:
                return None
            have += got
        whole = call_length(self._view)
        view, address = self._room(whole, have)
        while have < whole:
            got = self._receive(address + have, whole - have, due_ns)
            if not got:
                return None
            have += got
        return view[:whole]

    def _room(self, whole: int, have: int) -> tuple[memoryview, int]:
        """Where a request of `whole` bytes is read to, of which the buffer holds `have`: memory, and its address."""
        if whole > self._max_bytes:
            raise ProtocolError(f"a request has at most {self._max_bytes} bytes, this says {whole}")
        if whole <= BUFFER_BYTES:
            return self._view, self._address
        large = bytearray(whole)
        large[:have] = self._view[:have]
        return memoryview(large), addressof((ctypes.c_char * whole).from_buffer(large))

    def _receive(self, address: int, room: int, due_ns: int) -> int:
        """What comes next, before `due_ns`: how many bytes, 0 where nothing will."""
        while self._ready(_POLLIN, due_ns):
            got: int = _recv(_CALL, c_void_p(address), c_size_t(room), _NOW)
            if got >= 0:
                return got
            if get_errno() != _EAGAIN:
                return 0
        return 0

    def is_there(self) -> bool:
        """Whether the other end still waits, and has said nothing after its request."""
        got = _recv(*self._peek)
        return got < 0 and get_errno() == _EAGAIN

    def mark(self) -> None:
        """Say that the call still runs."""
        _send(_CALL, MARK, c_size_t(len(MARK)), _NOW_QUIETLY)

    def begin_answer(self, answer: bytes) -> int:
        """Send what goes at once: how many bytes did, -1 where the asker has gone."""
        self._answer_bytes.value = len(answer)
        sent: int = _send(_CALL, answer, self._answer_bytes, _NOW_QUIETLY)
        return 0 if sent < 0 and get_errno() == _EAGAIN else sent

    def finish_answer(self, answer: bytes, sent: int) -> None:
        """Send the rest as it is read, for PATIENCE_MS at most; what is left then is dropped."""
        due_ns = monotonic_ns() + PATIENCE_MS * 1_000_000
        address = ctypes.cast(ctypes.c_char_p(answer), c_void_p).value or 0
        while 0 <= sent < len(answer):
            if not self._ready(_POLLOUT, due_ns):
                return
            more = _send(_CALL, c_void_p(address + sent), c_size_t(len(answer) - sent), _NOW_QUIETLY)
            if more < 0 and get_errno() != _EAGAIN:
                return
            sent += max(more, 0)

    def close(self) -> None:
        if self._keeps_number:
            self._take_number(NULL_FD)
        else:
            os.close(CALL_FD)

    def _take_number(self, fd: int) -> None:
        os.dup2(fd, CALL_FD, inheritable=False)

    def _ready(self, events: int, due_ns: int) -> bool:
        """Whether the connection becomes readable or writable (or is broken) before `due_ns`."""
        left_ns = due_ns - monotonic_ns()
        if left_ns <= 0:
            return False
        wait = self._wait
        wait.events = events
        wait.seconds, wait.nanoseconds = divmod(left_ns, 1_000_000_000)
        at = addressof(wait)
        return bool(_ppoll(at, 1, at + _TIMESPEC_OFFSET, None) > 0)
