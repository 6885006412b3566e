"""The floor under every call: what the same gunicorn and Falcon answer when they do nothing else."""

from __future__ import annotations

import falcon.asgi


class Hello:
    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = "text/plain"
        resp.data = b"hello world\n"


app: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response] = falcon.asgi.App()
app.add_route("/", Hello())
