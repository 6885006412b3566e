"""The types of ASGI 3 (https://asgi.readthedocs.io/en/latest/specs/main.html), and one whole answer by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from worker.api.problems import CONTENT_TYPE, Problem

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


Response = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, header fields, body


async def send_problem(send: Send, problem: Problem, *, with_body: bool = True) -> None:
    """Answer with a problem; `with_body` False for HEAD."""
    status, headers, body = problem_answer(problem)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})


def problem_answer(problem: Problem) -> Response:
    """A problem as an answer."""
    body = problem.render()
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in problem.headers.items()]
    return problem.status, headers, body
