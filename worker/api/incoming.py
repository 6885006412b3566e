"""One request as it comes in: the headers that matter, read once, and its body, read under a cap and a deadline.

Falcon gets no byte of a body: it would read before anybody knows who asks and for what.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from worker.api.asgi import Message, Receive, Scope
from worker.api.auth import ANYBODY, Token
from worker.api.problems import Problem

KEY = "galago.incoming"  # where a scope holds it

# Headers that are looked at; of these, one that comes twice could be read differently by whoever stands in front.
SINGLE = frozenset(
    (
        b"host",
        b"origin",
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"idempotency-key",
    )
)
_LISTS = frozenset((b"prefer", b"if-match"))
_WANTED = SINGLE | _LISTS
_FIELD_OVERHEAD_BYTES = len(": \r\n")

_FIRST: Message = {"type": "http.request", "body": b"", "more_body": True}


class Incoming:
    """What is known of one request.

    Attributes:
        headers: those that are looked at, by their names in lower case.
        token: who asks; set once that was checked.
    """

    __slots__ = ("_receive", "headers", "token")

    def __init__(self, scope: Scope, receive: Receive, max_header_bytes: int) -> None:
        """Read the headers.

        Raises:
            Problem: headers_too_large, bad_header.
        """
        self._receive = receive
        self.token: Token = ANYBODY
        self.headers: dict[bytes, bytes] = {}
        headers = self.headers
        size = 0
        for name, value in scope["headers"]:
            size += len(name) + len(value) + _FIELD_OVERHEAD_BYTES
            if name in _WANTED:
                if name not in headers:
                    headers[name] = value
                elif name in _LISTS:
                    headers[name] += b", " + value
                else:
                    raise Problem("bad_header", f"{name.decode()} may come once", name.decode())
        if size > max_header_bytes:
            raise Problem("headers_too_large", f"the headers are {size} bytes, at most {max_header_bytes} are taken")

    @staticmethod
    async def first() -> Message:
        """What Falcon waits for before it routes."""
        return _FIRST

    def check_media_type(self, wanted: bytes) -> None:
        """Raises: Problem: media_type, for a body of another type, or an encoded one."""
        media_type = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type != wanted:
            found = media_type.decode("latin-1") or "nothing"
            raise Problem("media_type", f"Content-Type must be {wanted.decode()}, not {found}", "content-type")
        encoding = self.headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            raise Problem("media_type", "a body must be sent as it is, without Content-Encoding", "content-encoding")

    async def chunks(self, max_bytes: int, timeout_s: float, too_large: str = "body_too_large") -> AsyncIterator[bytes]:
        """The body, piece by piece.

        Args:
            max_bytes: the cap, kept while it comes; a length announced above it is refused before anything is read.
            timeout_s: for the whole body.
            too_large: the code for one above the cap.

        Raises:
            Problem: `too_large`, request_timeout, body_truncated, bad_header.
        """
        self._check_length(max_bytes, too_large)
        deadline = asyncio.get_running_loop().time() + timeout_s
        size = 0
        more = True
        while more:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await self._receive()
            except TimeoutError:
                detail = f"the body must come within {timeout_s:g} s; {size} bytes had come"
                raise Problem("request_timeout", detail, headers={"connection": "close"}) from None
            if event["type"] != "http.request":
                detail = f"the body ended after {size} bytes, before it was whole; send it again"
                raise Problem("body_truncated", detail, headers={"connection": "close"})
            chunk: bytes = event.get("body", b"")
            more = event.get("more_body", False)
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(too_large, max_bytes)
            if chunk:
                yield chunk

    async def body(self, max_bytes: int, timeout_s: float) -> bytes:
        """The whole body. Raises: as `chunks`."""
        parts = [chunk async for chunk in self.chunks(max_bytes, timeout_s)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_length(self, max_bytes: int, too_large: str) -> None:
        length = self.headers.get(b"content-length")
        if length is None:
            return
        if not length.isdigit():
            raise Problem("bad_header", "Content-Length must be a number of bytes", "content-length")
        if len(length) > 18 or int(length) > max_bytes:
            raise _too_large(too_large, max_bytes)


def _too_large(code: str, max_bytes: int) -> Problem:
    return Problem(code, f"at most {max_bytes} bytes are taken", headers={"connection": "close"})
