"""gunicorn's ASGI protocol, with calls answered past ASGI, and most of them without a task.

For each request gunicorn wakes the connection's task, and starts another that runs the application; a call that has no
body needs neither. It is handed to `Calls.begin` where its head was parsed, its answer is written at the end of the
turn in which the runner's is read, and the connection's task sleeps on. Where that can't be (a body, another request
before it still in work, nobody to take it), the task is woken, and answers by `Calls.respond`. When it was made, that
took 110 us of an API worker's CPU for a call where ASGI's ways took 150 (wrk, 16 connections).
"""

from __future__ import annotations

import asyncio
from typing import Any

from gunicorn.asgi import protocol
from gunicorn.asgi.protocol import ASGIProtocol, BodyReceiver

from worker.api.asgi import Message, Response
from worker.api.calls import CALLS_ONLY, Calls, is_call
from worker.api.plain_call import read_plain_call

_CLOSE = (b"connection", b"close")

# gunicorn looks for gunicorn_h1c when the first connection comes, notes what it found in the class of that connection,
# and reads it from ASGIProtocol: for a subclass it would never be found.
ASGIProtocol._check_h1c_protocol_available()


class CallProtocol(ASGIProtocol):  # type: ignore[misc] # gunicorn is untyped
    """One connection. `calls_only` tells the application which listener it came by."""

    # gunicorn's
    _closed: bool
    _callback_parser: Any
    _current_request: Any
    _response_buffer: bytes | None
    _request_ready: Any
    _body_receiver: Any

    def __init__(self, worker: Any, calls_only: bool) -> None:
        super().__init__(worker)
        self._calls_only = calls_only
        self._calls: Calls | None = getattr(self.app, "calls", None)  # of `worker.api.edge`
        self._addresses: tuple[Any, Any] | None = None
        self._calling = False  # a call is under way that the connection's task doesn't know of
        self._half_closed = False  # the client sends no more
        self._full = False  # its answer was written, and the client is yet to take some of it

    def _on_headers_complete(self) -> bool:
        """As gunicorn's, but its task isn't woken yet: `_start_request` decides who answers.

        Returns: whether the parser shall skip the body, which is never.
        """
        plain = None if self._calls is None else read_plain_call(self._callback_parser)
        if plain is not None:
            self._current_request = plain
            self._body_receiver = BodyReceiver(plain, self)
            return False
        ready, self._request_ready = self._request_ready, None
        try:
            return bool(super()._on_headers_complete())
        finally:
            self._request_ready = ready

    def _start_request(self) -> None:
        """Its head was parsed. Once for each request."""
        if not self._begin_call():
            self._request_ready.set()

    def _begin_call(self) -> bool:
        request, receiver, calls = self._current_request, self._body_receiver, self._calls
        if calls is None or not is_call(request.raw_path) or request.content_length or request.chunked:
            return False
        if not (receiver._complete and self._awaiting_request) or self._closed:
            return False
        if not calls.begin(self._call_scope(request), self._receive, self._finish_soon):
            return False
        self._calling = True
        self.req_count += 1
        self._cancel_keepalive_timer()
        return True

    def _call_scope(self, request: Any) -> dict[str, Any]:
        """What `Calls` needs of ASGI's scope."""
        if self._addresses is None:
            # None where the client had reset the connection before it was accepted (ENOTCONN).
            server, client = (self.transport.get_extra_info(name) or ("", 0) for name in ("sockname", "peername"))
            self._addresses = server[:2], client[:2]
        server, client = self._addresses
        return {
            "method": request.method,
            "http_version": "1.1" if request.version == (1, 1) else "1.0",
            "raw_path": request.raw_path,
            "query_string": request.query.encode("latin-1"),
            "headers": request.headers_bytes,
            "server": server,
            "client": client,
            CALLS_ONLY: self._calls_only,
        }

    def _finish_soon(self, response: Response | None) -> None:
        """Write the answer once all that came in this turn of the loop was worked on.

        Each write wakes a client, and one on this machine takes the core at once: between two there is least to lose.
        """
        self.worker.loop.call_soon(self._finish_call, response)

    def _finish_call(self, response: Response | None) -> None:
        """What `_begin_call` began is over."""
        self._calling = False
        if self._closed:
            return
        if response is None or not self._write_response(response):
            self._close_transport()
        elif self._flow_control.write_paused:
            self._calling = self._full = True
        else:
            self._await_next()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._full:
            self._calling = self._full = False
            if not self._closed:
                self._await_next()

    def _await_next(self) -> None:
        """What gunicorn's task does between two requests."""
        self.worker.nr += 1
        self._resume_reading()
        if getattr(self._callback_parser, "remaining_truncated", False):  # what was cut can't be parsed
            self._close_transport()
            return
        pipelined = self._callback_parser.remaining()
        self._callback_parser.reset()
        self._current_request = self._body_receiver = None
        self._arm_keepalive_timer()
        if pipelined:
            self._feed_callback_parser(pipelined)

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        """gunicorn's makes a task of each request, for applications that go on after they have answered: none here."""
        if self._calls is None or not is_call(request.raw_path):
            return bool(await self._handle_http_request(request, sockname, peername))
        receiver = self._body_receiver
        try:
            response = await self._calls.respond(self._call_scope(request), self._receive)
        except asyncio.CancelledError:  # the client is gone, and has been for gunicorn's grace
            return False
        if response is None or self._closed:
            return False
        receiver.expect_continue = False  # it was answered before it was asked for its body
        kept = self._write_response(response)
        if self._flow_control.write_paused:
            await self._flow_control.drain()
        return kept

    async def _receive(self) -> Message:
        """gunicorn's, which forgets that the client sends no more where that was before its body was asked for."""
        receiver = self._body_receiver  # of the request in work, to whose end it stays
        if self._half_closed and receiver._body_finished:
            return {"type": "http.disconnect"}
        message: Message = await receiver.receive()
        return message

    def _write_response(self, response: Response) -> bool:
        """Write a whole answer at once. Returns: whether the connection is kept."""
        status, fields, body = response
        request = self._current_request
        said = _CLOSE in fields
        close = self._will_close(request, said)
        # As gunicorn's `_send_response_start`, for fields that are checked and in lower case: 3 us less.
        head = [protocol._get_cached_status_line(request.version, status)]
        for name, value in fields:
            head += name, b": ", value, b"\r\n"
        head += protocol._CACHED_SERVER_HEADER, protocol._get_cached_date_header()
        head.append(b"Connection: close\r\n\r\n" if close and not said else b"\r\n")
        self._response_buffer = b"".join(head)
        if body:
            self._send_body(body)
        else:
            self._safe_write(self._response_buffer)
            self._response_buffer = None
        return not close
