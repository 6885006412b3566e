"""`/modules` and `/modules/{digest}`: upload, list, show, delete."""

from __future__ import annotations

import hashlib
import mmap
import re
from dataclasses import replace

import falcon
from falcon.asgi import Request, Response

from runner.errors import ModuleRefused
from runner.module import Caps, Inspection, inspect
from worker.api.incoming import Incoming
from worker.api.orders import order
from worker.api.problems import Problem
from worker.api.query import read_integer, read_query
from worker.api.render import module_json, modules_json
from worker.api.resource import Resource, answer, incoming_of
from worker.api.services import Services
from worker.api.storing import check_quota, in_thread, storing
from worker.config import Config
from worker.core.commands import AddModule, DeleteModule
from worker.core.module import Extern, Module
from worker.errors import BadCursor
from worker.shared.blobs import TemporaryBlob

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAX_PAGE = 500
# Written and hashed at once, in a thread: a smaller piece isn't worth the way there.
PIECE_BYTES = 1024 * 1024


class Modules(Resource):
    """POST uploads one, GET lists."""

    scopes = {"GET": "read", "POST": "run"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services
        self._caps = _caps(services.config)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = read_query(req.scope["query_string"], ("limit", "after"))
        limit, after = read_integer(query, "limit", 50, 1, MAX_PAGE), query.get("after")
        try:
            document = await self._services.lists.read(lambda reader: modules_json(*reader.modules(limit, after)))
        except BadCursor as exc:
            raise Problem("field_range", str(exc), "after") from None
        answer(resp, document)

    async def on_post(self, req: Request, resp: Response) -> None:
        read_query(req.scope["query_string"], ())
        incoming = incoming_of(req)
        incoming.check_media_type(b"application/wasm")
        check_quota(self._services, incoming.token.id, 0)
        with storing():
            blob = self._services.blobs.new_temporary()
        with blob:
            with storing():
                digest = await self._receive(incoming, blob)
            known = self._services.reader.module(digest)
            module, created = (known, False) if known else await self._add(incoming, blob, digest)
        answer(resp, module_json(module), falcon.HTTP_201 if created else falcon.HTTP_200)
        resp.set_header("location", f"/modules/{digest}")

    async def _receive(self, incoming: Incoming, blob: TemporaryBlob) -> str:
        """The body into `blob`; its digest."""
        config = self._services.config
        hasher = hashlib.sha256()

        def store(data: bytes) -> None:
            blob.write(data)
            hasher.update(data)

        piece: list[bytes] = []
        size = 0
        async for chunk in incoming.chunks(config.max_module_bytes, config.body_timeout_s, "module_too_large"):
            piece.append(chunk)
            size += len(chunk)
            if size >= PIECE_BYTES:
                await in_thread(store, b"".join(piece))
                piece, size = [], 0
        await in_thread(store, b"".join(piece))
        return f"sha256:{hasher.hexdigest()}"

    async def _add(self, incoming: Incoming, blob: TemporaryBlob, digest: str) -> tuple[Module, bool]:
        """(the module, whether it is new). Raises: Problem."""
        services = self._services
        try:
            with storing():
                found = await in_thread(_inspect, blob, self._caps)
        except ModuleRefused as exc:
            raise Problem(exc.code, exc.message) from None
        check_quota(services, incoming.token.id, blob.size_bytes)
        with storing():
            name = await in_thread(blob.finish)
        imports, exports = _externs(found)
        module = Module(digest, blob.size_bytes, imports, exports, services.clock.wall_us())
        done = await order(services, AddModule(module, name, incoming.token.id), f"/modules/{digest}")
        if done.created:
            return module, True
        return services.reader.module(digest) or module, False


class ModuleItem(Resource):
    """GET shows one, DELETE removes it."""

    scopes = {"GET": "read", "DELETE": "run"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response, digest: str) -> None:
        read_query(req.scope["query_string"], ())
        module = self._services.reader.module(digest) if _DIGEST.fullmatch(digest) else None
        if module is None:
            raise _unknown(digest)
        answer(resp, module_json(module))

    async def on_delete(self, req: Request, resp: Response, digest: str) -> None:
        read_query(req.scope["query_string"], ())
        if not _DIGEST.fullmatch(digest):
            raise _unknown(digest)
        self._services.admission.forget(digest)
        await order(self._services, DeleteModule(digest), f"/modules/{digest}")
        resp.status = falcon.HTTP_204


def _unknown(digest: str) -> Problem:
    return Problem("module_unknown", f"no module {digest[:80]} is here; a name is sha256: and 64 hexadecimal digits")


def _caps(config: Config) -> Caps:
    return replace(
        Caps(),
        max_functions=config.max_functions,
        max_data_segments=config.max_data_segments,
        max_imports=config.max_imports,
        max_exports=config.max_exports,
    )


def _inspect(blob: TemporaryBlob, caps: Caps) -> Inspection:
    """Raises: ModuleRefused."""
    if blob.size_bytes == 0:
        return inspect(b"", caps)
    with mmap.mmap(blob.fileno(), blob.size_bytes, prot=mmap.PROT_READ) as data:
        return inspect(data, caps)


def _externs(found: Inspection) -> tuple[tuple[Extern, ...], tuple[Extern, ...]]:
    """Imports and exports as the table keeps them."""
    imports, exports = [
        tuple([Extern(one.name, one.kind, one.module, one.params, one.results) for one in externs])
        for externs in (found.imports, found.exports)
    ]
    return imports, exports
