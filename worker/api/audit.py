"""`/debug/audit`: what the coordinator knows against what is there. Its document is passed on as it is."""

from __future__ import annotations

from falcon.asgi import Request, Response

from worker.api.orders import order
from worker.api.query import read_query
from worker.api.resource import Resource, answer
from worker.api.services import Services
from worker.core.commands import ReadAudit


class Audit(Resource):
    """GET takes one."""

    scopes = {"GET": "admin"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response) -> None:
        read_query(req.scope["query_string"], ())
        done = await order(self._services, ReadAudit(), "/debug/audit")
        answer(resp, done.body)
