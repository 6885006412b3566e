"""The coordinator's end of the command channel. It never blocks, and one bad connection never costs another.

The server is one descriptor to whoever polls it: an epoll of its own holds the listener and the connections.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from pathlib import Path
from typing import NamedTuple

from worker.core.commands import Command, Refused, Reply
from worker.errors import ChannelError
from worker.shared.channel_codec import MAX_MESSAGE_BYTES, SEND_BUFFER_BYTES, decode_command, encode
from worker.shared.faults import Fault, no_fault

_BACKLOG = 128
MAX_CONNECTIONS = 128  # twice the API workers that there may be: on reload the old ones are there beside the new
_MESSAGES_PER_TURN = 64  # from one connection, so that it can't keep the others waiting


def listen(path: str | Path) -> socket.socket:
    """The listening socket of the channel at `path`, which must not exist; mode 0600."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(path))
        Path(path).chmod(0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class Connection:
    """One API worker. Hashable by identity; `closed` tells that nobody waits for replies on it any more."""

    __slots__ = ("_mask", "_out", "_out_bytes", "_socket", "closed", "in_flight")

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._mask = select.EPOLLIN
        self.in_flight = 0
        self.closed = False


class Request(NamedTuple):
    """A command, and whom to answer: `server.send(request.connection, request.request_id, reply)`, exactly once."""

    connection: Connection
    request_id: int
    command: Command


class Server:
    """Args:
    listener: A listening SEQPACKET socket; it is made nonblocking and stays the caller's.
    max_connections: More are closed as they come.
    max_in_flight: Unanswered requests of one connection; at that many it isn't read until some are answered.
    max_out_bytes: Replies that a connection left unread; one that has more is dropped.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_in_flight: int = 4096,
        max_out_bytes: int = 4 * 1024 * 1024,
        fault: Fault = no_fault,
    ) -> None:
        self._fault = fault
        listener.setblocking(False)
        self._listener = listener
        self._max_connections = max_connections
        self._max_in_flight = max_in_flight
        self._max_out_bytes = max_out_bytes
        self._connections: dict[int, Connection] = {}
        self._buffer = bytearray(MAX_MESSAGE_BYTES + 1)  # one more, so that a longer message shows
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)
        self._accepting = True

    def fileno(self) -> int:
        """Readable when `receive` has something to do."""
        return self._epoll.fileno()

    def fds(self) -> dict[int, str]:
        """Its own descriptors, and what they are."""
        found = dict.fromkeys(self._connections, "an API worker's connection")
        return {**found, self._epoll.fileno(): "the commands' epoll", self._listener.fileno(): "the commands' listener"}

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def receive(self) -> list[Request]:
        """What has come since the last call; connections are made, flushed and dropped on the way.

        Call it when `fileno()` is readable, and now and then otherwise: after EMFILE, that is when it listens again.
        """
        requests: list[Request] = []
        self._listen(True)
        for fd, mask in self._epoll.poll(0):
            connection = self._connections.get(fd)
            if connection is None:
                if fd == self._listener.fileno():
                    self._accept()
                continue
            if mask & select.EPOLLOUT:
                self._flush(connection)
            if mask & select.EPOLLIN and not connection.closed:
                self._read(connection, requests)
            elif mask & (select.EPOLLHUP | select.EPOLLERR):
                self._drop(connection)
        return requests

    def send(self, connection: Connection, request_id: int, reply: Reply) -> None:
        """Answer a request. To a connection that is gone, it is nothing."""
        if connection.closed:
            return
        connection.in_flight -= 1
        try:
            data = encode(request_id, reply)
        except ChannelError as exc:
            data = encode(request_id, Refused("internal", str(exc)[:200]))
        self._fault("reply.sending")
        connection._out.append(data)
        connection._out_bytes += len(data)
        if len(connection._out) == 1:
            self._flush(connection)
        self._fault("reply.sent")
        if connection._out_bytes > self._max_out_bytes:
            self._drop(connection)
        else:
            self._poll_for(connection)

    def close(self) -> None:
        """Drop all connections; the listener stays open."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # EMFILE, ENFILE, ENOMEM: try again later instead of spinning
                self._listen(False)
                return
            if len(self._connections) >= self._max_connections:
                accepted.close()
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._connections[accepted.fileno()] = Connection(accepted)
            self._epoll.register(accepted, select.EPOLLIN)

    def _listen(self, accepting: bool) -> None:
        if accepting != self._accepting:
            self._accepting = accepting
            self._epoll.modify(self._listener, select.EPOLLIN if accepting else 0)

    def _read(self, connection: Connection, requests: list[Request]) -> None:
        view = memoryview(self._buffer)
        for _ in range(_MESSAGES_PER_TURN):
            if connection.in_flight >= self._max_in_flight:
                break
            try:
                size = connection._socket.recv_into(view)
                if size == 0:  # the end, or an empty message, which nobody sends
                    self._drop(connection)
                    return
                request_id, command = decode_command(view[:size])
            except BlockingIOError:
                return
            except (OSError, ChannelError):
                self._drop(connection)
                return
            connection.in_flight += 1
            requests.append(Request(connection, request_id, command))
        self._poll_for(connection)

    def _flush(self, connection: Connection) -> None:
        out = connection._out
        while out:
            try:
                connection._socket.send(out[0])
            except BlockingIOError:
                break
            except OSError:
                self._drop(connection)
                return
            connection._out_bytes -= len(out.popleft())
        self._poll_for(connection)

    def _poll_for(self, connection: Connection) -> None:
        if connection.closed:
            return
        mask = select.EPOLLOUT if connection._out else 0
        if connection.in_flight < self._max_in_flight:
            mask |= select.EPOLLIN
        if mask != connection._mask:
            connection._mask = mask
            self._epoll.modify(connection._socket, mask)

    def _drop(self, connection: Connection) -> None:
        if connection.closed:
            return
        connection.closed = True
        connection._out.clear()
        del self._connections[connection._socket.fileno()]
        self._epoll.unregister(connection._socket)
        connection._socket.close()
