"""gunicorn as the worker runs it, with an application of a few lines in the real one's place."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from worker.api import server
from worker.api.calls import CALLS_ONLY
from worker.config import Config
from worker.shared.page import PageReader


class StubCalls:
    """What answers calls, which connections ask themselves: `/functions/<what>` does as Stub's `/<what>`.

    Of those without a body it begins those below `/functions/begun/`, as `worker.api.calls` does.
    """

    def begin(self, scope: Any, receive: Any, finish: Any) -> bool:
        if not scope["raw_path"].startswith(b"/functions/begun/"):
            return False
        task = asyncio.ensure_future(self.respond(scope, receive))
        task.add_done_callback(lambda done: finish(done.result()))
        return True

    async def respond(self, scope: Any, receive: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
        _, _, what, *rest = scope["raw_path"].decode().replace("/begun", "").split("/")
        status, body = 200, b""
        match what:
            case "slow":
                await asyncio.sleep(int(rest[0]) / 1000)
            case "status":
                status = int(rest[0])
            case "large":
                body = b"x" * int(rest[0])
            case "early":
                return 413, [(b"content-length", b"9"), (b"connection", b"close")], b"too large"
            case "echo":
                body = await _read(receive)
            case "close":
                return 400, [(b"content-length", b"0"), (b"connection", b"close")], b""
            case "gone":
                return None
        said = [(b"x-method", scope["method"].encode()), (b"x-query", scope["query_string"])]
        said += [(b"x-version", scope["http_version"].encode()), (b"x-client", scope["client"][0].encode())]
        said += [(b"x-calls-only", str(scope[CALLS_ONLY]).encode())]
        if status not in (204, 304):
            said.append((b"content-length", b"%d" % len(body)))
        return status, said, b"" if scope["method"] == "HEAD" else body


class Stub:
    """`/` names its process, `/slow/MS` waits, `/block/MS` blocks the loop, `/early` reads no body, `/mute`
    answers nothing."""

    def __init__(self, config: Config, page: PageReader) -> None:
        self._config = config
        self._page = page
        self.calls = StubCalls()
        if (Path(config.data_dir) / "run" / "broken").exists():
            os._exit(1)
        if os.environ.get("STUB_FAIL") == "create":
            raise RuntimeError("this application is made to fail")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["path"] == "/mute":
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
                return 200, str(self._config.max_connections).encode()
            case "tokens":
                return 200, Path(self._config.token_file or "").read_bytes()
            case "who":
                return 200, f"{os.getuid()} {scope[CALLS_ONLY]}".encode()
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
