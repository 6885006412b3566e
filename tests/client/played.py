"""A worker that is played: answers by a function, for both clients, so that each shows the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from worker.client import AsyncClient, Client, Retry

Answerer = Callable[[httpx.Request], httpx.Response]
URL = "http://worker.test:8470"
# Pauses that cost nothing.
RETRY = Retry(attempts=3, first_s=0.0, most_s=5.0)

MODULE = {
    "digest": "sha256:" + "ab" * 32,
    "size_bytes": 8,
    "imports": [],
    "exports": [{"name": "add", "kind": "func", "params": ["i32"], "results": ["i32"]}],
    "created_at": "2026-01-31T12:00:00.000001Z",
}


def task(**fields: Any) -> dict[str, Any]:
    """A task's document, as `GET /tasks/{id}` gives it."""
    nothing = (
        "previous_state reason function trap_code signal exit_code result detail fuel_used wall_us queue_us init_us"
    )
    nothing += " run_us cpu_us peak_memory_bytes runner scheduled_at started_at finished_at"
    return {
        **dict.fromkeys(nothing.split()),
        "id": "t1",
        "kind": "job",
        "name": "nightly",
        "state": "pending",
        "module": {"digest": MODULE["digest"], "url": None},
        "labels": {},
        "truncated": False,
        "attempts": 1,
        "created_at": "2026-01-31T12:00:00.000001Z",
        "events": [],
        **fields,
    }


def answer(document: Any, status: int = 200, **headers: str) -> httpx.Response:
    content = json.dumps(document).encode()
    return httpx.Response(status, content=content, headers={"content-type": "application/json", **headers})


def problem(status: int, code: str, executed: str, **headers: str) -> httpx.Response:
    """A refusal. Header names are written with `_`."""
    document = {"status": status, "code": code, "detail": "as it is played", "executed": executed}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(document, status, **{"content-type": "application/problem+json", **named})


class Sync:
    """The blocking client, asked by the name of a method."""

    def __init__(self, answerer: Answerer, **how: Any) -> None:
        self._how = {"transport": httpx.MockTransport(answerer), "retry": RETRY, **how}

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        with Client(URL, **self._how) as client:
            return getattr(client, method)(*arguments, **options)

    def listen(self, method: str, *arguments: Any) -> list[Any]:
        with Client(URL, **self._how) as client:
            return list(getattr(client, method)(*arguments))


class Async:
    """The other one, each time in a loop of its own."""

    def __init__(self, answerer: Answerer, **how: Any) -> None:
        async def answering(request: httpx.Request) -> httpx.Response:
            await request.aread()
            return answerer(request)

        self._how = {"transport": httpx.MockTransport(answering), "retry": RETRY, **how}

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        async def asking() -> Any:
            async with AsyncClient(URL, **self._how) as client:
                return await getattr(client, method)(*arguments, **options)

        return asyncio.run(asking())

    def listen(self, method: str, *arguments: Any) -> list[Any]:
        async def listening() -> list[Any]:
            async with AsyncClient(URL, **self._how) as client:
                return [item async for item in getattr(client, method)(*arguments)]

        return asyncio.run(listening())
