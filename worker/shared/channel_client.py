"""An API worker's end of the command channel, for asyncio (uvloop too).

What is told apart: a command that never left this process (NotSent) and one that was sent without an answer (NoAnswer).
The launcher holds the listening socket, so one can connect and send while the coordinator is being started again; a
command that waits there past its expiry is dropped unread.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from worker.core.commands import Command, Reply
from worker.errors import ChannelError, NoAnswer, NotSent
from worker.shared.channel_codec import MAX_MESSAGE_BYTES, SEND_BUFFER_BYTES, decode_reply, encode
from worker.shared.faults import Fault, no_fault

_FIRST_BACKOFF_S = 0.01
_LAST_BACKOFF_S = 0.25  # a restarted coordinator is found within this
_MAX_UNSENT = 1024  # commands that wait for room in the socket
_MESSAGES_PER_TURN = 64


class _Asked:
    """One command under way: its bytes while they aren't sent, and the future of its reply."""

    __slots__ = ("data", "future", "request_id", "sent")

    def __init__(self, request_id: int, data: bytes, future: asyncio.Future[Reply]) -> None:
        self.request_id = request_id
        self.data = data
        self.future = future
        self.sent = False


class Client:
    """One connection to the coordinator at `path`, made when it is first needed, and again when it broke.

    To be used from one event loop. `close` it there, too.
    """

    def __init__(self, path: str | Path, fault: Fault = no_fault) -> None:
        self._path = str(path)
        self._fault = fault
        self._socket: socket.socket | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._asked: dict[int, _Asked] = {}
        self._unsent: deque[_Asked] = deque()
        self._next_id = 1
        self._buffer = bytearray(MAX_MESSAGE_BYTES + 1)
        self._closed = False

    async def ask(self, command: Command, timeout_s: float) -> Reply:
        """Send `command` and wait for its reply. A command without an expiry gets one: now + `timeout_s`.

        Raises:
            NotSent: within `timeout_s` there was no connection or no room to send; it was not executed.
            NoAnswer: it was sent, and then came no reply within `timeout_s`, or the connection broke.
            ChannelError: the command is too long.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        if command.expires_at_us == 0:
            command = replace(command, expires_at_us=time.monotonic_ns() // 1000 + max(1, int(timeout_s * 1_000_000)))
        request_id = self._next_id
        self._next_id += 1
        data = encode(request_id, command)
        await self._connected(loop, timeout_s)
        asked = _Asked(request_id, data, loop.create_future())
        self._asked[request_id] = asked
        try:
            self._send(asked)
            async with asyncio.timeout_at(deadline_s):
                return await asked.future
        except TimeoutError:
            if asked.sent:
                raise NoAnswer(f"the coordinator got the command and did not answer within {timeout_s:g} s") from None
            raise NotSent(f"the coordinator took no command within {timeout_s:g} s") from None
        finally:
            self._forget(asked)

    def close(self) -> None:
        """End the connection; who waits gets NotSent or NoAnswer."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._disconnect("the channel was closed")

    async def _connected(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        if self._socket is not None:
            return
        if self._closed:
            raise NotSent("the channel is closed")
        if self._connecting is None or self._connecting.done():
            self._connecting = loop.create_task(self._connect(loop))
        await asyncio.wait((self._connecting,), timeout=timeout_s)
        if self._socket is None:
            raise NotSent(f"no coordinator answers at {self._path}")

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        """One attempt after another, for all who wait."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            connecting = None
            try:
                connecting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                connecting.connect(self._path)  # on a Unix socket it succeeds or fails at once
                loop.add_reader(connecting.fileno(), self._readable)
                self._socket = connecting
                return
            except OSError:  # nobody is there, or no descriptor is left
                if connecting is not None:
                    connecting.close()
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    def _send(self, asked: _Asked) -> None:
        if len(self._unsent) >= _MAX_UNSENT:
            raise NotSent(f"{_MAX_UNSENT} commands wait already for a coordinator that takes none")
        self._unsent.append(asked)
        if len(self._unsent) == 1:
            self._writable()

    def _writable(self) -> None:
        """Send what waits, in order, until the socket takes no more."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        while self._unsent:
            asked = self._unsent[0]
            self._fault("command.sending")
            try:
                self._socket.send(asked.data)
            except BlockingIOError:
                loop.add_writer(self._socket.fileno(), self._writable)
                return
            except OSError as exc:
                self._disconnect(f"the connection broke: {exc.strerror}")
                return
            self._fault("command.sent")
            asked.sent = True
            self._unsent.popleft()
        loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        view = memoryview(self._buffer)
        for _ in range(_MESSAGES_PER_TURN):
            if self._socket is None:
                return
            try:
                size = self._socket.recv_into(view)
                if size == 0:
                    self._disconnect("the coordinator went away")
                    return
                request_id, reply = decode_reply(view[:size])
                self._fault("command.answered")
            except BlockingIOError:
                return
            except (OSError, ChannelError) as exc:
                self._disconnect(f"the connection broke: {exc}")
                return
            asked = self._asked.pop(request_id, None)  # None: it comes too late, and nobody waits
            if asked is not None and not asked.future.done():
                asked.future.set_result(reply)

    def _forget(self, asked: _Asked) -> None:
        self._asked.pop(asked.request_id, None)
        if not asked.sent and asked in self._unsent:
            self._unsent.remove(asked)
        if asked.future.done() and not asked.future.cancelled():
            asked.future.exception()  # read, so that asyncio doesn't complain of one that nobody awaited

    def _disconnect(self, why: str) -> None:
        """Everybody who waits is told what is true for him; the next `ask` connects anew."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        asked_before, self._asked = self._asked, {}
        self._unsent.clear()
        for asked in asked_before.values():
            if not asked.future.done():
                asked.future.set_exception(NoAnswer(why) if asked.sent else NotSent(why))
