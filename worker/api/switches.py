"""`PUT /revisions/{function}/{revision}/default/on` and `/off`: which revision a function's default is, in one step."""

from __future__ import annotations

import orjson
from falcon.asgi import Request, Response

from worker.api.functions import find_function
from worker.api.if_match import etag, read_if_match
from worker.api.orders import order
from worker.api.problems import Problem
from worker.api.query import read_query
from worker.api.resource import Resource, answer, incoming_of
from worker.api.services import Services
from worker.core.commands import SwitchDefault
from worker.core.names import is_name


class Switch(Resource):
    """PUT makes the revision the default (`on`), or not the default (`off`), and no other instead."""

    scopes = {"PUT": "admin"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services, *, on: bool) -> None:
        self._services = services
        self._on = on

    async def on_put(self, req: Request, resp: Response, function: str, revision: str) -> None:
        read_query(req.scope["query_string"], ())
        wanted = read_if_match(incoming_of(req).headers.get(b"if-match"))
        self._check_names(function, revision)
        generation = None if wanted is None else self._generation(function, revision, wanted)
        command = SwitchDefault(function, revision, self._on, generation)
        done = await order(self._services, command, f"/revisions/{function}")
        answer(resp, done.body)
        resp.set_header("etag", etag(orjson.loads(done.body)["generation"]))

    def _check_names(self, function: str, revision: str) -> None:
        """What nothing can be called goes no further than here."""
        if not (is_name(function) and is_name(revision)):
            find_function(self._services, function)
            raise _unknown(function, revision)

    def _generation(self, function: str, revision: str, wanted: frozenset[int]) -> int:
        """The one that the coordinator is to check; of several the one that is there now."""
        if len(wanted) == 1:
            return next(iter(wanted))
        row, routes = find_function(self._services, function)
        if revision not in [route.revision for route in routes]:
            raise _unknown(function, revision)
        if row.generation not in wanted:
            detail = f"If-Match names no generation that {function} has now; it has {etag(row.generation)}"
            raise Problem("generation_mismatch", detail, "if-match")
        return row.generation


def _unknown(function: str, revision: str) -> Problem:
    return Problem("revision_unknown", f"no revision {revision[:64]} of {function} is here")
