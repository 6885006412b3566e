"""The application: every route, what stands before them, and what becomes of an error."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import unquote

import falcon
import falcon.asgi
from falcon.asgi import Request, Response
from falcon.routing import CompiledRouter

from worker.api.asgi import Asgi
from worker.api.audit import Audit
from worker.api.auth import Tokens
from worker.api.calls import Calls
from worker.api.edge import Edge
from worker.api.functions import Defaults, FunctionItem, Functions
from worker.api.health import Live, Ready
from worker.api.hosts import Hosts
from worker.api.metrics import Metrics
from worker.api.modules import ModuleItem, Modules
from worker.api.openapi import OpenApi
from worker.api.outputs import Output
from worker.api.problems import CONTENT_TYPE, Problem, internal, not_allowed, route_unknown
from worker.api.resource import Resource, incoming_of
from worker.api.services import Clock, Lists, Page, Services
from worker.api.stats import Stats
from worker.api.switches import Switch
from worker.api.tasks import TaskItem, Tasks
from worker.config import Config
from worker.config_values import COMMANDS_SOCKET, TABLE_NAME
from worker.errors import TableError
from worker.shared.blobs import Blobs
from worker.shared.channel import Client
from worker.shared.faults import faults_of
from worker.shared.table import TableReader


def create_app(config: Config, page: Page) -> Asgi:
    """The application of one API worker process.

    Raises:
        ConfigError: the token file is wrong.
    """
    data_dir = Path(config.data_dir)
    fault = faults_of(config.fault_dir)

    def make_reader() -> TableReader:
        return TableReader(data_dir / TABLE_NAME)

    services = Services(
        config=config,
        reader=make_reader(),
        lists=Lists(make_reader),
        channel=Client(data_dir / COMMANDS_SOCKET, fault),
        page=page,
        blobs=Blobs(data_dir, fault),
        clock=Clock(lambda: time.time_ns() // 1000, lambda: time.monotonic_ns() // 1000),
        tokens=None if config.token_file is None else Tokens.load(config.token_file),
    )
    return assemble(services)


def assemble(services: Services) -> Edge:
    """The application on given services; it closes them when the server says so (ASGI's lifespan)."""
    config = services.config
    loopback_only = services.tokens is None
    calls = Calls(services, loopback_only=loopback_only)
    router = CompiledRouter()
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App(router=router, middleware=[Gate(services, calls)])
    app.req_options.default_media_type = app.resp_options.default_media_type = "application/json"
    for path, resource in routes(services).items():
        app.add_route(path, resource)
    errors = Errors(services.page)
    app.add_error_handler(Exception, errors.unexpected)
    app.add_error_handler(TableError, errors.table)
    app.add_error_handler(falcon.HTTPError, errors.falcon)
    app.add_error_handler(Problem, errors.problem)
    hosts = Hosts(config.allowed_hosts, config.allowed_origins, any_host=services.tokens is not None)
    return Edge(app, calls, router, hosts, max_header_bytes=config.max_header_bytes, loopback_only=loopback_only)


def routes(services: Services) -> dict[str, Resource]:
    """Every route that there is."""
    return {
        "/modules": Modules(services),
        "/modules/{digest}": ModuleItem(services),
        "/tasks": Tasks(services),
        "/tasks/{task_id}": TaskItem(services),
        "/tasks/{task_id}/stdout": Output(services, 0),
        "/tasks/{task_id}/stderr": Output(services, 1),
        "/functions": Functions(services),
        "/revisions/default": Defaults(services),
        "/revisions/{function}": FunctionItem(services),
        "/revisions/{function}/{revision}/default/on": Switch(services, on=True),
        "/revisions/{function}/{revision}/default/off": Switch(services, on=False),
        "/stats": Stats(services),
        "/metrics": Metrics(services),
        "/debug/audit": Audit(services),
        "/livez": Live(),
        "/healthz": Live(),
        "/readyz": Ready(services),
        "/openapi.json": OpenApi(services.config, with_tokens=services.tokens is not None),
    }


class Gate:
    """Between routing and resource: who asks, and may they. Also the application's end."""

    def __init__(self, services: Services, calls: Calls) -> None:
        self._services = services
        self._calls = calls
        self._tokens = services.tokens

    async def process_resource(self, req: Request, _resp: Response, resource: Resource, params: dict[str, str]) -> None:
        scope = resource.scopes.get(req.method)
        if scope is not None and self._tokens is not None:
            incoming = incoming_of(req)
            incoming.token = self._tokens.admit(incoming.headers.get(b"authorization"), scope)
        for name, value in params.items():
            if not value:  # Falcon takes `/tasks/` for a task without a name
                raise route_unknown(req.path)
            if "%" in value:
                params[name] = unquote(value)

    async def process_shutdown(self, _scope: object, _event: object) -> None:
        await self._calls.close()
        self._services.close()


class Errors:
    """What becomes of everything that is raised behind the edge."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def problem(self, _req: Request, resp: Response, error: Problem, _params: object) -> None:
        resp.status = error.kind.status
        resp.data, resp.text, resp.stream = error.render(), None, None
        resp.content_type = CONTENT_TYPE
        resp.set_header("cache-control", "no-store")
        resp.set_headers(error.headers)

    async def falcon(self, req: Request, resp: Response, error: falcon.HTTPError, params: object) -> None:
        if isinstance(error, falcon.HTTPMethodNotAllowed):
            allowed = tuple((error.headers or {}).get("Allow", "").split(", "))  # type: ignore[union-attr]
            problem = not_allowed(req.method, allowed)
        elif isinstance(error, falcon.HTTPNotFound):
            problem = route_unknown(req.path)
        else:
            problem = internal(error, f"{req.method} {req.path}")
        await self.problem(req, resp, problem, params)

    async def table(self, req: Request, resp: Response, error: TableError, params: object) -> None:
        """The coordinator makes the table when it first starts, and mends or refuses it at every start."""
        if self._page.ready:
            await self.unexpected(req, resp, error, params)
            return
        problem = Problem("coordinator_unavailable", "the coordinator is starting; try again", executed="no")
        await self.problem(req, resp, problem, params)

    async def unexpected(self, req: Request, resp: Response, error: Exception, params: object) -> None:
        await self.problem(req, resp, internal(error, f"{req.method} {req.path}"), params)
