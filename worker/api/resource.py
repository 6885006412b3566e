"""What all resources share: HEAD as GET, OPTIONS, scopes, and how an answer in JSON is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import falcon
from falcon.asgi import Request, Response

from worker.api.incoming import KEY, Incoming

JSON = "application/json"
_ORDER = ("GET", "HEAD", "POST", "PUT", "DELETE")


class Resource:
    """A resource has `on_<method>` coroutines, and `scopes`: which token a method needs, where it needs one."""

    scopes: ClassVar[Mapping[str, str]] = {}
    allowed: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "on_get"):
            cls.on_head = cls.on_get  # type: ignore[attr-defined] # Falcon answers HEAD without the body
        methods = [method for method in _ORDER if hasattr(cls, f"on_{method.lower()}")]
        cls.allowed = (*methods, "OPTIONS")
        cls.scopes = dict(cls.scopes)
        if "GET" in cls.scopes:
            cls.scopes["HEAD"] = cls.scopes["GET"]

    async def on_options(self, req: Request, resp: Response, **_: str) -> None:
        resp.status = falcon.HTTP_204
        resp.set_header("allow", ", ".join(self.allowed))


def incoming_of(req: Request) -> Incoming:
    incoming: Incoming = req.scope[KEY]
    return incoming


def answer(resp: Response, document: bytes, status: str = falcon.HTTP_200) -> None:
    """Give a JSON document."""
    resp.status = status
    resp.data = document
    resp.content_type = JSON
    resp.set_header("cache-control", "no-store")
