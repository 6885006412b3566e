"""Which heads are plain calls', and that what is read of them is what gunicorn reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from gunicorn.asgi.parser import CallbackRequest, PythonProtocol

from worker.api.plain_call import read_plain_call

PLAIN = [
    b"GET /functions/f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DELETE /functions/f/r/a%20b//c?x=1?y&z=%00 HTTP/1.1\r\nhost: a:80\r\nX-A: \xc3\xa9\r\nCookie: a=b\r\n\r\n",
    b"GET /functions/f? HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n",
    b"POST /functions/f HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
]
NOT_PLAIN = {
    "no call": b"GET /functions HTTP/1.1\r\nHost: a\r\n\r\n",
    "the list of functions": b"GET /functions/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "the list with a query": b"GET /functions/?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
    "another route": b"GET /tasks HTTP/1.1\r\nHost: a\r\n\r\n",
    "an absolute target": b"GET http://a/functions/f HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.0": b"GET /functions/f HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "no fields": b"GET /functions/f HTTP/1.1\r\n\r\n",
    "a body": b"POST /functions/f HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na",
    "chunks": b"POST /functions/f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "the last request": b"GET /functions/f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "a named field": b"GET /functions/f HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\n\r\n",
    "an upgrade": b"GET /functions/f HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    "an expectation": b"POST /functions/f HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    "a name that gunicorn drops": b"GET /functions/f HTTP/1.1\r\nHost: a\r\nX_A: 1\r\n\r\n",
    "a field twice": b"GET /functions/f HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\n\r\n",
}


def parsers(head: bytes) -> list[Any]:
    """Each with the head in it; the one in C where it is installed."""
    made: list[Any] = [PythonProtocol()]
    with suppress(ImportError):
        from gunicorn_h1c import H1CProtocol

        made.append(H1CProtocol(on_headers_complete=lambda: False))
    for parser in made:
        parser.feed(head)
    return made


@pytest.mark.parametrize("head", PLAIN)
def test_a_plain_call_is_read_as_gunicorn_reads_it(head: bytes) -> None:
    for parser in parsers(head):
        plain, known = read_plain_call(parser), CallbackRequest.from_parser(parser)
        assert plain is not None
        for name in ("method", "raw_path", "query", "version", "headers_bytes", "content_length", "chunked"):
            assert getattr(known, name) == getattr(plain, name), name
        assert (known.should_close(), known.may_upgrade()) == (plain.should_close(), plain.may_upgrade())


@pytest.mark.parametrize("head", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_whatever_else_it_is_gunicorn_reads_it(head: bytes) -> None:
    for parser in parsers(head):
        assert read_plain_call(parser) is None


def test_a_target_that_gunicorn_refuses_is_not_plain() -> None:
    class Raw:
        asgi_headers = ((b"host", b"a"),)
        http_version = (1, 1)
        should_keep_alive = True
        content_length = None
        is_chunked = False
        method = b"GET"

        def __init__(self, path: bytes) -> None:
            self.path = path

    assert read_plain_call(Raw(b"/functions/f?a")) is not None
    for path in (b"/functions/f?\xc3", b"/functions/\xff", b"/functions/f g", b"/functions/f\n", b"/functions/f?\x7f"):
        assert read_plain_call(Raw(path)) is None, path
