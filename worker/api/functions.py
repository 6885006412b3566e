"""`/functions`, `/revisions/default` and `/revisions/{function}`: what can be called, and which is the default.

Calls themselves don't come here: they leave where a connection has read them.
"""

from __future__ import annotations

from collections.abc import Iterable

from falcon.asgi import Request, Response

from worker.api.if_match import etag
from worker.api.live_figures import read_live
from worker.api.problems import Problem
from worker.api.query import read_integer, read_query
from worker.api.render_functions import Revision, defaults_json, function_json, functions_json
from worker.api.resource import Resource, answer
from worker.api.services import Reader, Services
from worker.core.functions import FunctionRow
from worker.core.names import is_name
from worker.errors import BadCursor
from worker.shared.routes import Route

MAX_PAGE = 500


class Functions(Resource):
    """GET lists all functions with their revisions."""

    scopes = {"GET": "read"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response) -> None:
        limit, after = _page(req)

        def read(reader: Reader) -> tuple[list[FunctionRow], list[Revision], str | None]:
            functions, routes, following = reader.functions(limit, after)
            return functions, _revisions(reader, routes), following

        try:
            functions, revisions, following = await self._services.lists.read(read)
        except BadCursor as exc:
            raise Problem("field_range", str(exc), "after") from None
        live = await read_live(self._services, [revision.route for revision in revisions])
        by_function: dict[str, list[Revision]] = {function.name: [] for function in functions}
        for revision in revisions:
            by_function[revision.route.function].append(revision)
        answer(resp, functions_json([(one, by_function[one.name]) for one in functions], live, following))


class Defaults(Resource):
    """GET lists the default revision of every function."""

    scopes = {"GET": "read"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response) -> None:
        limit, after = _page(req)
        try:
            functions, _, following = await self._services.lists.read(lambda reader: reader.functions(limit, after))
        except BadCursor as exc:
            raise Problem("field_range", str(exc), "after") from None
        answer(resp, defaults_json(functions, following))


class FunctionItem(Resource):
    """GET shows one function with its revisions; its ETag is for the switch's If-Match."""

    scopes = {"GET": "read"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response, function: str) -> None:
        read_query(req.scope["query_string"], ())
        row, routes = find_function(self._services, function)
        revisions = _revisions(self._services.reader, routes)
        live = await read_live(self._services, routes)
        answer(resp, function_json(row, revisions, live))
        resp.set_header("etag", etag(row.generation))


def find_function(services: Services, name: str) -> tuple[FunctionRow, list[Route]]:
    """Raises: Problem: function_unknown."""
    found = services.reader.function(name) if is_name(name) else None
    if found is None:
        raise Problem("function_unknown", f"no function {name[:64]} is here; GET /functions has those that are")
    return found


def _page(req: Request) -> tuple[int, str | None]:
    query = read_query(req.scope["query_string"], ("limit", "after"))
    return read_integer(query, "limit", 50, 1, MAX_PAGE), query.get("after")


def _revisions(reader: Reader, routes: Iterable[Route]) -> list[Revision]:
    """The routes with their tasks; one whose task has ended since they were read is none any more."""
    pairs = [(route, reader.task(route.task_id)) for route in routes]
    return [Revision(route, task) for route, task in pairs if task is not None and not task.final]
