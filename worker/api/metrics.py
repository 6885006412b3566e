"""`/metrics`: the coordinator's figures in Prometheus's text format, put together from parts that fit a message."""

from __future__ import annotations

import asyncio

from falcon.asgi import Request, Response

from worker.api.orders import order
from worker.api.problems import Problem
from worker.api.query import read_query
from worker.api.resource import Resource
from worker.api.services import Services
from worker.core.commands import ReadMetrics

# https://prometheus.io/docs/instrumenting/exposition_formats/
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics(Resource):
    """GET reads them."""

    scopes = {"GET": "read"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services
        self._one = asyncio.Lock()

    async def on_get(self, req: Request, resp: Response) -> None:
        read_query(req.scope["query_string"], ())
        parts: list[bytes] = []
        more = True
        async with self._one:  # parts belong to the last reading that was begun over this connection
            while more:
                done = await order(self._services, ReadMetrics(len(parts)), "/metrics")
                if parts and not done.body:
                    detail = "the coordinator has given up this reading before it was whole; ask again"
                    raise Problem("coordinator_unavailable", detail, executed="no")
                parts.append(done.body)
                more = done.created
        resp.data = b"".join(parts)
        resp.content_type = CONTENT_TYPE
        resp.set_header("cache-control", "no-store")
