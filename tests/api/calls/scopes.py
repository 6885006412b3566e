"""A call as a connection hands it on, for what only `begin` or `respond` can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.api.api_client import Api
from tests.api.played_runner import PlayedRunner
from worker.api.calls import CALLS_ONLY

Make = Callable[..., Api]
Play = Callable[..., PlayedRunner]


async def nothing_more() -> dict[str, object]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def nothing_comes() -> dict[str, object]:
    await asyncio.Event().wait()
    raise AssertionError("never")


def scope_of(path: str, *headers: tuple[bytes, bytes]) -> dict[str, object]:
    return {
        "http_version": "1.1",
        "method": "GET",
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
        "server": ("127.0.0.1", 8470),
        "client": ("127.0.0.1", 1),
        CALLS_ONLY: False,
    }
