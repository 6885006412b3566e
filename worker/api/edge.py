"""What every request passes before Falcon sees it, as one plain ASGI callable.

Here stands what must be judged by the raw path and the headers alone. Function calls don't come here: connections take
them to `calls` (`worker.api.server_calls`), which judges them by rules of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from falcon.routing import CompiledRouter

from worker.api.asgi import Receive, Scope, Send, send_problem
from worker.api.calls import CALLS_ONLY, Calls
from worker.api.hosts import Hosts, is_loopback
from worker.api.incoming import KEY, Incoming
from worker.api.paths import check_path
from worker.api.problems import Problem, not_allowed, route_unknown
from worker.api.resource import Resource

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
# Load balancers and kubelets ask these by address, under any name.
HEALTH_PATHS = frozenset(("/livez", "/healthz", "/readyz"))


# Falcon wants dicts where ASGI says mappings, and that is what servers give.
Inner = Callable[[Any, Any, Any], Awaitable[None]]


class Edge:
    """
    Args:
        inner: the Falcon application.
        calls: what answers calls, for the server's connections.
        router: its router, which knows what a path allows.
        hosts: which Host and Origin are served.
        loopback_only: refuse peers of other machines, but for health.
    """

    def __init__(
        self,
        inner: Inner,
        calls: Calls,
        router: CompiledRouter,
        hosts: Hosts,
        *,
        max_header_bytes: int,
        loopback_only: bool,
    ) -> None:
        self._inner = inner
        self.calls = calls
        self._router = router
        self._hosts = hosts
        self._max_header_bytes = max_header_bytes
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"this worker speaks HTTP, not {scope['type']}")
        raw_path = scope.get("raw_path") or scope["path"].encode()
        try:
            if scope["method"] not in METHODS:  # CONNECT's target is no path
                raise self._method_not_allowed(scope["method"], raw_path.decode("latin-1"))
            path = check_path(raw_path)
            incoming = Incoming(scope, receive, self._max_header_bytes)
            scope["path"], scope[KEY] = path, incoming
            if path not in HEALTH_PATHS:
                if scope.get(CALLS_ONLY):
                    raise route_unknown(path)
                self._check_peer(scope, incoming)
        except Problem as problem:
            await send_problem(send, problem, with_body=scope["method"] != "HEAD")
            return
        await self._inner(scope, incoming.first, send)

    def _check_peer(self, scope: Scope, incoming: Incoming) -> None:
        host = incoming.headers.get(b"host")
        self._hosts.check_host(host, scope["http_version"])
        self._hosts.check_origin(incoming.headers.get(b"origin"), host)
        client = scope.get("client")  # None where he has gone already
        if self._loopback_only and not (client and is_loopback(client[0])):
            raise Problem("forbidden", "without a --token-file only this machine itself is served")

    def _method_not_allowed(self, method: str, path: str) -> Problem:
        route = self._router.find(path)
        resource = route[0] if route is not None else None
        allowed = resource.allowed if isinstance(resource, Resource) else ()
        return not_allowed(method, allowed)
