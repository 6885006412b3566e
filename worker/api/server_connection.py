"""One HTTP connection: gunicorn's ASGI protocol, with the limits and the manners that it lacks.

- A request head must be whole within `head_timeout_s`, and at most `max_header_bytes` long.
- A client that takes nothing of its answer for `write_timeout_s` is cut.
- A connection is closed only after `Connection: close` was said, or when it is idle: gunicorn closes one as well whose
  answer had begun, without that line, before the worker was told to end, and the client's next request is lost.
- An answer that comes before the request was read whole is followed by a lingering close: closing with unread bytes
  makes the kernel send RST, which takes the answer from the client again (RFC 9112, 9.6).
- What the protocol itself refuses is `application/problem+json` like everything else.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from worker.api.calls import CALLS_ONLY
from worker.api.problems import CONTENT_TYPE, Problem
from worker.api.server_calls import CallProtocol

if TYPE_CHECKING:
    from worker.api.server_worker import Worker

# How long, and for how many bytes, a client may go on sending what nobody will read (nginx: lingering_timeout 5 s).
LINGER_S = 2.0
LINGER_BYTES = 64 * 1024 * 1024
_RST = struct.pack("ii", 1, 0)  # struct linger: on, 0 s (socket(7))
# gunicorn's statuses, and what the contract says in their place.
_CODES = {
    400: "bad_header",
    408: "request_timeout",
    414: "headers_too_large",  # the request line
    431: "headers_too_large",
    429: "queue_full",
    501: "bad_header",  # a transfer coding that nobody here knows
}


class Connection(CallProtocol):
    """One connection of `worker`. `calls_only` tells the application which listener it came by."""

    def __init__(self, worker: Worker, calls_only: bool) -> None:
        super().__init__(worker, calls_only)
        self._limits = worker.limits
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._lingering = False
        self._discarded_bytes = 0
        self._error_sent = False
        self._keepalive_handle: asyncio.TimerHandle | None = None
        self._keepalive_from_s: float | None = None

    @property
    def idle(self) -> bool:
        """Nothing of a request is here, and nothing of an answer is due."""
        busy = self._current_request is not None or self._calling
        return not (self._refused or self._head_bytes or busy or self._request_ready is None)

    @property
    def spare(self) -> bool:
        """Idle after an answer: on a new connection a request is on its way."""
        return self.req_count > 1 and self.idle

    def close_idle(self) -> None:
        """End an idle connection, without a word, as HTTP/1.1 allows."""
        self._close_transport()

    # asyncio's protocol

    def connection_made(self, transport: Any) -> None:
        if not self.worker.admit(self):
            self._refuse(transport)
            return
        super().connection_made(transport)
        self._arm_head_timer()

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._refused:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)

    def eof_received(self) -> bool:
        """The client sends no more, and may still listen: what it asked is answered, a body cut short as such.

        A call that waits for the client to go is told that it has: a client that is gone says nothing else until it is
        written to, and one that half-closes is rare (nginx and HAProxy's `abortonclose` take it so too).
        """
        receiver = self._body_receiver
        if receiver is None:
            return False  # idle: closed at once
        self._half_closed = True
        if receiver._body_finished or not receiver._complete:
            receiver.signal_disconnect()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        self.worker.release(self)
        if not self._refused:
            super().connection_lost(exc)
            self._wake()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None and not self._closed:
            self._write_timer.cancel()
            self._write_timer = None

    # Between two requests: one timer for all of them, that looks when it is due (a new one for each costs 5 us)

    def _arm_keepalive_timer(self) -> None:
        loop = self.worker.loop
        self._keepalive_from_s = loop.time()
        if self._keepalive_handle is None:
            self._keepalive_handle = loop.call_later(self._keepalive, self._keepalive_due)

    def _cancel_keepalive_timer(self) -> None:
        self._keepalive_from_s = None

    def _keepalive_due(self) -> None:
        self._keepalive_handle = None
        if self._keepalive_from_s is None or self._closed:
            return
        loop = self.worker.loop
        left_s = self._keepalive_from_s + self._keepalive - loop.time()
        if left_s >= 0.001:  # the loop counts milliseconds
            self._keepalive_handle = loop.call_later(left_s, self._keepalive_due)
        else:
            self._keepalive_timeout()

    # The request's head

    def _feed_callback_parser(self, data: bytes) -> bool:
        """Parse on; what is new is the bound on a head's time and size. Returns False once the connection is closed."""
        if self._current_request is not None:  # its body, or what follows it
            return bool(super()._feed_callback_parser(data))
        if not super()._feed_callback_parser(data):
            return False
        self._head_bytes += len(data)
        if self._current_request is None:
            if self._head_bytes > self._limits.head_bytes:
                return self._refuse_head()
            if self._head_timer is None:
                self._cancel_keepalive_timer()
                self._arm_head_timer()
            return True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        # Whether it was the head or the body's beginning that was long is looked at only when it could be the head.
        too_long = self._head_bytes > self._limits.head_bytes and self._is_head_too_long()
        self._head_bytes = 0
        if too_long:
            return self._refuse_head()
        self._start_request()
        return True

    def _is_head_too_long(self) -> bool:
        fields = self._current_request.headers_bytes
        return sum(len(name) + len(value) + len(b": \r\n") for name, value in fields) > self._limits.head_bytes

    def _refuse_head(self) -> bool:
        self._send_error_response(431, f"a request's head is at most {self._limits.head_bytes} bytes")
        self._current_request = None
        self._close_transport()
        return False

    def _arm_head_timer(self) -> None:
        self._head_timer = self.worker.loop.call_later(self._limits.head_timeout_s, self._head_timed_out)

    def _head_timed_out(self) -> None:
        if self._head_bytes:
            self._send_error_response(408, f"a request's head must come within {self._limits.head_timeout_s:g} s")
        self._close_transport()

    def _is_websocket_upgrade(self, request: Any) -> bool:
        """No resource speaks WebSocket: the request is answered as if it hadn't asked (RFC 9110, 7.8)."""
        return False

    # The answer

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        """As gunicorn's, which says nothing of the close that follows where a body wasn't read to its end."""
        receiver = self._body_receiver
        return (
            self._error_sent  # which has said so itself
            or self.worker.announce_close
            or self._half_closed
            or (receiver is not None and not receiver._complete)
            or bool(super()._will_close(request, response_requires_close))
        )

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        scope[CALLS_ONLY] = self._calls_only
        return scope

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        if self._closed:
            return  # nobody is there to be told
        self._error_sent = True
        if status in _CODES:
            problem = Problem(_CODES[status], message)
        else:  # the application raised, or said nothing; gunicorn has logged what
            problem = Problem("internal", uuid4().hex)
            self.log.error("answered %d: %s", status, problem.detail)
        self._safe_write(whole_answer(problem))

    # The end

    def _refuse(self, transport: Any) -> None:
        """Too many connections: say so, without reading."""
        self._refused = True
        self.transport = transport
        detail = f"there are too many connections; --max-connections is {self._limits.connections}"
        self._safe_write(whole_answer(Problem("queue_full", detail)))
        self._linger()

    def _close_transport(self) -> None:
        if self.transport is None or self._closed:
            return
        self._cancel_timers()
        receiver = self._body_receiver
        unread = self._error_sent or (receiver is not None and not receiver._complete)
        if unread and not self._half_closed:  # a client that has said its last can't be cut off by RST
            self._closed = True
            self._linger()
        else:
            super()._close_transport()
            self._arm_write_timer()  # for what is still in the transport's buffer
        self._wake()

    def _linger(self) -> None:
        """Say that we are done, and read on for a moment."""
        self._lingering = True
        self.transport.write_eof()
        self._resume_reading()
        self._write_timer = self.worker.loop.call_later(LINGER_S, self.transport.abort)

    def _wake(self) -> None:
        """Let the task that waits for the next request see that there is none."""
        if self._request_ready is not None:
            self._request_ready.set()

    def _arm_write_timer(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.worker.loop.call_later(self._limits.write_timeout_s, self._cut)

    def _cut(self) -> None:
        """End with RST: what lies in the kernel's buffer would go on being offered to a client that takes nothing."""
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.transport.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer, self._keepalive_handle):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = self._keepalive_handle = None


def whole_answer(problem: Problem) -> bytes:
    """An answer for what never reached the application, as bytes; it ends the connection."""
    body = problem.render()
    head = [
        f"HTTP/1.1 {problem.kind.status} {HTTPStatus(problem.kind.status).phrase}",
        f"content-type: {CONTENT_TYPE}",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        f"x-galago-executed: {problem.executed}",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
