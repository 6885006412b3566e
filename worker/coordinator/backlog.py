"""How many connections wait on a listening Unix socket, as the kernel tells it: sock_diag(7), by the socket's inode.

Where there is no sock_diag (a kernel without CONFIG_UNIX_DIAG, a container that forbids netlink), a poll says whether
any waits, and that is told as one. A listener that is shut down is readable for ever, so that none is told of it: its
runners serve what waits, and no more are started for it.
"""

from __future__ import annotations

import os
import select
import socket
import struct

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ALL_STATES = 0xFFFFFFFF
_SHOW_RQLEN = 0x10  # linux/unix_diag.h: UDIAG_SHOW_RQLEN
_ATTRIBUTE_RQLEN = 4  # UNIX_DIAG_RQLEN
_NO_COOKIE = 0xFFFFFFFF

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, pid
_REQUEST = struct.Struct("=BBHIIIII")  # unix_diag_req: family, protocol, pad, states, inode, show, cookie
_MESSAGE = struct.Struct("=BBBBIII")  # unix_diag_msg: family, type, state, pad, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_RQLEN = struct.Struct("=II")  # of a listener: connections that wait, and how many may
_ANSWER_BYTES = 4096


class Backlogs:
    """Asks the kernel; one netlink socket, kept open."""

    def __init__(self) -> None:
        self._sequence = 0
        self._netlink: socket.socket | None = None
        try:
            self._netlink = socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG
            )
        except OSError:
            return

    def fds(self) -> dict[int, str]:
        """Its own descriptor, and what it is."""
        return {self._netlink.fileno(): "sock_diag"} if self._netlink is not None else {}

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def waiting(self, listener: socket.socket) -> int:
        """How many connections wait to be accepted on `listener`."""
        poll = select.poll()
        poll.register(listener, select.POLLIN | select.POLLRDHUP)
        events = dict(poll.poll(0)).get(listener.fileno(), 0)
        if not events & select.POLLIN:
            return 0  # a tenth of what asking costs, and mostly so
        if self._netlink is not None:
            try:
                return self._ask(self._netlink, os.fstat(listener.fileno()).st_ino)
            except (OSError, ValueError, struct.error):
                self.close()  # it will not do so the next time either
        return 0 if events & select.POLLRDHUP else 1

    def _ask(self, netlink: socket.socket, inode: int) -> int:
        """The kernel answers within the call that asks.

        Raises:
            OSError, ValueError, struct.error: it can't, or says something else.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, inode, _SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE)
        length = _HEADER.size + len(request)
        header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0)
        netlink.sendto(header + request, (0, 0))
        answer = netlink.recv(_ANSWER_BYTES)
        length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
        if kind == _NLMSG_ERROR or sequence != self._sequence:
            raise ValueError(f"sock_diag answered message type {kind} to request {self._sequence}: {answer!r}")
        position = _HEADER.size + _MESSAGE.size
        while position < length:
            size, attribute = _ATTRIBUTE.unpack_from(answer, position)
            if attribute == _ATTRIBUTE_RQLEN:
                waiting: int = _RQLEN.unpack_from(answer, position + _ATTRIBUTE.size)[0]
                return waiting
            position += max(_ATTRIBUTE.size, (size + 3) & ~3)
        raise ValueError("sock_diag told no queue length")
