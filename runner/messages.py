"""Messages of a SOCK_SEQPACKET socket with descriptors, by raw recvmsg and sendmsg.

`socket` costs the zygote's forks its page faults; this is what they need of it. Buffers are made once and reused, so
one reader a process; a message's bytes are copied out.
"""

from __future__ import annotations

import ctypes
from ctypes import addressof, c_int, c_size_t, c_uint32, c_void_p, sizeof

from runner.errors import ProtocolError
from runner.syscalls import call, map_memory, number

MAX_FDS = 3  # stdout, stderr, stdin

# bits/socket.h
SOL_SOCKET, SCM_RIGHTS = 1, 1
MSG_PEEK, MSG_CTRUNC, MSG_TRUNC, MSG_DONTWAIT = 0x02, 0x08, 0x20, 0x40
MSG_NOSIGNAL, MSG_CMSG_CLOEXEC = 0x4000, 0x40000000

_RECVMSG, _SENDMSG, _RECVFROM = number("recvmsg"), number("sendmsg"), number("recvfrom")


class _IoVector(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("length", c_size_t))


class _Head(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", c_void_p),
        ("name_length", c_uint32),
        ("vectors", c_void_p),
        ("vector_count", c_size_t),
        ("control", c_void_p),
        ("control_length", c_size_t),
        ("flags", c_int),
    )


class _Rights(ctypes.Structure):
    """struct cmsghdr with up to MAX_FDS descriptors."""

    _fields_ = (("length", c_size_t), ("level", c_int), ("kind", c_int), ("fds", c_int * (MAX_FDS + MAX_FDS % 2)))


_RIGHTS_HEAD_BYTES = sizeof(c_size_t) + 2 * sizeof(c_int)


class Mailbox:
    """The read and the write side of one socket at a time.

    Args:
        max_bytes: the longest message that is taken.
    """

    __slots__ = ("_buffer", "_head", "_head_address", "_peeked", "_rights", "_size", "_vector")

    def __init__(self, max_bytes: int) -> None:
        self._size = max_bytes
        self._buffer = map_memory(max_bytes)  # not from the heap: its pages exist only once a message fills them
        self._peeked = ctypes.create_string_buffer(1)
        self._vector = _IoVector()
        self._rights = _Rights()
        self._head = _Head(vectors=addressof(self._vector), vector_count=1)
        self._head_address = addressof(self._head)

    def receive(self, fd: int) -> tuple[bytes, tuple[int, ...]]:
        """The next message and its descriptors; (b"", ()) at the end.

        Raises:
            ProtocolError: longer than `max_bytes`, or with more than MAX_FDS descriptors.
            OSError: EAGAIN where the socket has a timeout or doesn't block.
        """
        head = self._head
        self._vector.base = self._buffer
        self._vector.length = self._size
        head.control = addressof(self._rights)
        head.control_length = sizeof(_Rights)
        size = call(_RECVMSG, fd, self._head_address, MSG_CMSG_CLOEXEC)
        fds: tuple[int, ...] = ()
        if head.control_length >= _RIGHTS_HEAD_BYTES and self._rights.kind == SCM_RIGHTS:
            count = (self._rights.length - _RIGHTS_HEAD_BYTES) // sizeof(c_int)
            fds = tuple(self._rights.fds[:count])
        if head.flags & (MSG_TRUNC | MSG_CTRUNC):
            raise ProtocolError(f"a message has at most {self._size} bytes and {MAX_FDS} descriptors, this has more")
        return ctypes.string_at(self._buffer, size), fds

    def send(self, fd: int, message: bytes, descriptor: int | None = None, *, wait: bool = True) -> None:
        """Send a message, with one descriptor or none.

        Raises:
            OSError: EAGAIN where it would block and `wait` is False.
        """
        head = self._head
        data = ctypes.c_char_p(message)
        self._vector.base = ctypes.cast(data, c_void_p)
        self._vector.length = len(message)
        head.control, head.control_length = None, 0
        if descriptor is not None:
            rights = self._rights
            rights.level, rights.kind = SOL_SOCKET, SCM_RIGHTS
            rights.fds[0] = descriptor
            rights.length = _RIGHTS_HEAD_BYTES + sizeof(c_int)
            head.control = addressof(rights)
            head.control_length = _RIGHTS_HEAD_BYTES + 2 * sizeof(c_int)  # CMSG_SPACE: padded to 8 bytes
        call(_SENDMSG, fd, self._head_address, MSG_NOSIGNAL | (0 if wait else MSG_DONTWAIT))

    def look(self, fd: int) -> int:
        """The first byte of the message that waits, which stays; -1 where none does, -2 at the end."""
        try:
            size = call(_RECVFROM, fd, addressof(self._peeked), 1, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            return -1
        return self._peeked.raw[0] if size else -2

    def skip(self, fd: int) -> None:
        """Drop the message that waits."""
        call(_RECVFROM, fd, addressof(self._peeked), 1, MSG_DONTWAIT)
