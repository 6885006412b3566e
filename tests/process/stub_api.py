"""gunicorn as the worker runs it, with an application of a few lines in the real one's place."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from worker.api import server
from worker.config import Config
from worker.shared.page import PageReader


class Stub:
    """`/` names its process, `/slow/MS` waits, `/block/MS` blocks the loop, `/early` reads no body."""

    def __init__(self, config: Config, page: PageReader) -> None:
        self._config = config
        self._page = page
        if (Path(config.data_dir) / "run" / "broken").exists():
            os._exit(1)
        if os.environ.get("STUB_FAIL") == "create":
            raise RuntimeError("this application is made to fail")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        status, body = await self._answer(scope, receive)
        headers = [(b"content-length", b"%d" % len(body)), (b"x-pid", b"%d" % os.getpid())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Any, send: Any) -> None:
        for word in ("startup", "shutdown"):
            await receive()
            if os.environ.get("STUB_FAIL") == word:
                raise RuntimeError(f"this application is made to fail at {word}")
            await send({"type": f"lifespan.{word}.complete"})

    async def _answer(self, scope: Any, receive: Any) -> tuple[int, bytes]:
        _, what, *rest = scope["path"].split("/")
        match what:
            case "slow":
                await asyncio.sleep(int(rest[0]) / 1000)
            case "block":
                time.sleep(int(rest[0]) / 1000)
            case "readyz":
                return (503, b"draining") if self._page.draining or not self._page.ready else (200, b"ready")
            case "config":
                return 200, str(self._config.max_queued).encode()
            case "tokens":
                return 200, Path(self._config.token_file or "").read_bytes()
            case "who":
                return 200, f"{os.getuid()} {scope['galago.calls_only']}".encode()
            case "large":
                return 200, b"x" * int(rest[0])
            case "early":
                return 413, b"too large"
            case "echo":
                return 200, await _read(receive)
        return 200, b"%d" % os.getpid()


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


if __name__ == "__main__":
    server.serve(Stub)
