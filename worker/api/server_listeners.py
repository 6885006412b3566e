"""The listeners of one API worker, in its loop.

libuv accepts one connection of a listener in each turn of the loop, and a turn that answers many requests is long: of
256 clients that came at once, the last was heard after 1 s. Where a listener is in the loop under eight numbers, that
many are accepted in a turn. But a worker with little to do then takes eight at once of what should be shared: of 16
kept connections, one of two workers had 15 or 16 in half of all trials, and half the machine was idle. So a worker has
the other seven only while it has many connections: the last of 256 is then heard after 0.2 to 0.5 s, and of 16 one
worker has no more than with one number, 8 to 12 in most trials. (8 trials each; two workers on two cores, called by wrk
and by 256 sockets, others at work beside them.)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from worker.listeners import BACKLOG

ACCEPTS_PER_TURN = 8
# Connections from which on, and until below which, a worker accepts so many.
MANY, FEW = 32, 16

Listener = tuple[socket.socket, Callable[[], asyncio.BaseProtocol]]


class Listeners:
    """
    Args:
        listeners: each with what makes the protocol of a connection of it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, listeners: Sequence[Listener]) -> None:
        self._loop = loop
        self._listeners = listeners
        self._servers: list[asyncio.Server] = []
        self._more: list[asyncio.Server] = []
        self._widening: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Accept from now on."""
        for sock, make in self._listeners:
            self._servers.append(await self._loop.create_server(make, sock=sock, backlog=BACKLOG))

    def fit(self, connections: int) -> None:
        """Accept as many in a turn as fit a worker that has so many connections."""
        if connections >= MANY:
            if self._widening is None and not self._closed:
                self._widening = self._loop.create_task(self._widen())
        elif connections < FEW and self._widening is not None and self._widening.done():
            self._widening = None
            _close(self._more)

    def close(self) -> None:
        """Accept no more."""
        self._closed = True
        if self._widening is not None:
            self._widening.cancel()
        _close(self._servers)
        _close(self._more)

    async def _widen(self) -> None:
        for sock, make in self._listeners:
            for _ in range(ACCEPTS_PER_TURN - 1):
                self._more.append(await self._loop.create_server(make, sock=sock.dup(), backlog=BACKLOG))


def _close(servers: list[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    servers.clear()
