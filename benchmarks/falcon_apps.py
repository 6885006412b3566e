"""Two peers on the same gunicorn and Falcon as ours: one that does nothing else, one that execs for each request."""

from __future__ import annotations

import asyncio
import os

import falcon.asgi


class Hello:
    """The floor under every call."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = "text/plain"
        resp.data = b"hello world\n"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = "text/plain"
        resp.data = await req.stream.read()


class Forking:
    """As OpenFaaS's classic watchdog: fork, exec, stdout out, wait; the GET of a hello has no body to hand in."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        process = await asyncio.create_subprocess_exec(
            *(os.environ["BENCH_CLI"], "run", "--allow-precompiled", os.environ["BENCH_ARTIFACT"]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        resp.content_type = "text/plain"
        resp.data, _ = await process.communicate()
        assert process.returncode == 0


hello: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response] = falcon.asgi.App()
hello.add_route("/", Hello())
forking: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response] = falcon.asgi.App()
forking.add_route("/", Forking())
