"""`/tasks` and `/tasks/{id}`: add, list, look, stop."""

from __future__ import annotations

import re
from contextlib import ExitStack
from hashlib import sha256

import falcon
from falcon.asgi import Request, Response

from worker.api.ids import is_task_id, new_task_id
from worker.api.incoming import Incoming
from worker.api.orders import order, watch
from worker.api.prefer import read_wait
from worker.api.problems import Problem
from worker.api.query import read_choice, read_flag, read_integer, read_query
from worker.api.render import task_json, tasks_json
from worker.api.resource import Resource, answer, incoming_of
from worker.api.schemas import read_post
from worker.api.services import Services
from worker.api.storing import check_quota, in_thread, storing
from worker.core.changes import Note
from worker.core.commands import AddTask, Idempotency, StopTask
from worker.core.names import NAME, is_name
from worker.core.task import Kind, State, Task
from worker.errors import BadCursor
from worker.shared.blobs import TemporaryBlob
from worker.shared.table import TaskFilter

_KEY = re.compile(rb"[!-~]{1,255}")
_QUERY = ("state", "kind", "function", "label", "limit", "after")
MAX_PAGE = 500
_READS = 3


class Tasks(Resource):
    """POST adds one, GET lists."""

    scopes = {"GET": "read", "POST": "run"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response) -> None:
        wanted = _read_filter(read_query(req.scope["query_string"], _QUERY))
        try:
            document = await self._services.lists.read(lambda reader: tasks_json(*reader.tasks(wanted)))
        except BadCursor as exc:
            raise Problem("field_range", str(exc), "after") from None
        answer(resp, document)

    async def on_post(self, req: Request, resp: Response) -> None:
        read_query(req.scope["query_string"], ())
        services, config = self._services, self._services.config
        incoming = incoming_of(req)
        incoming.check_media_type(b"application/json")
        wait_s = read_wait(incoming.headers.get(b"prefer"))
        key = _read_key(incoming)
        body = await incoming.body(config.max_body_bytes, config.body_timeout_s)
        idempotency = None if key is None else Idempotency(key, sha256(body).hexdigest())
        replayed = None if idempotency is None else self._replayed(incoming, idempotency)
        task_id, created = (replayed, False) if replayed else await self._add(incoming, body, idempotency)
        await _give(services, resp, task_id, wait_s)
        resp.status = falcon.HTTP_201 if created else falcon.HTTP_200
        resp.set_header("location", f"/tasks/{task_id}")

    def _replayed(self, incoming: Incoming, idempotency: Idempotency) -> str | None:
        """The task that was made with this key before."""
        found = self._services.reader.replay(incoming.token.id, idempotency.key)
        if found is None:
            return None
        task_id, body_sha256 = found
        if body_sha256 != idempotency.body_sha256:
            detail = "this Idempotency-Key came with another body before; use a new key for a new task"
            raise Problem("idempotency_mismatch", detail, "idempotency-key")
        return task_id

    async def _add(self, incoming: Incoming, body: bytes, idempotency: Idempotency | None) -> tuple[str, bool]:
        """(id, whether it is new)."""
        services = self._services
        if services.page.draining:
            raise Problem("draining", "this worker takes no new tasks; ask another, or this one later")
        spec, stdin = services.specs.make(read_post(body))
        task_id = new_task_id()
        with ExitStack() as held:
            name = ""
            if stdin:
                check_quota(services, incoming.token.id, len(stdin))
                with storing():
                    blob = held.enter_context(services.blobs.new_temporary())
                    name = await in_thread(_store, blob, stdin)
            command = AddTask(task_id, incoming.token.id, spec, name, idempotency)
            done = await order(services, command, f"/tasks/{task_id}")
        return done.task_id or task_id, done.created


class TaskItem(Resource):
    """GET shows all that is known, DELETE stops."""

    scopes = {"GET": "read", "DELETE": "run"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: Response, task_id: str) -> None:
        read_query(req.scope["query_string"], ())
        wait_s = read_wait(incoming_of(req).headers.get(b"prefer"))
        await _give(self._services, resp, task_id, wait_s)

    async def on_delete(self, req: Request, resp: Response, task_id: str) -> None:
        force = read_flag(read_query(req.scope["query_string"], ("force",)), "force")
        if not find_task(self._services, task_id).final:
            await order(self._services, StopTask(task_id, force), f"/tasks/{task_id}")
        resp.status = falcon.HTTP_204


def find_task(services: Services, task_id: str) -> Task:
    """Raises: Problem: task_unknown."""
    task = services.reader.task(task_id) if is_task_id(task_id) else None
    if task is None:
        raise Problem("task_unknown", f"no task {task_id[:64]} is here")
    return task


async def _give(services: Services, resp: Response, task_id: str, wait_s: int | None) -> None:
    """Answer with a task, once it is final or `wait_s` are over."""
    task, notes = _read(services, task_id)
    if wait_s is not None:
        if task.final or await watch(services, task_id, wait_s):
            resp.set_header("preference-applied", f"wait={wait_s}")
        if not task.final:
            task, notes = _read(services, task_id)
    answer(resp, task_json(task, notes))


def _read(services: Services, task_id: str) -> tuple[Task, list[Note]]:
    """A task and its story, which are two reads: the task is read again where it went on between them."""
    task = find_task(services, task_id)
    for _ in range(_READS):
        notes = services.reader.notes(task_id)
        if not notes or notes[-1].state == task.status.state:
            break
        task = find_task(services, task_id)
    return task, notes


def _store(blob: TemporaryBlob, data: bytes) -> str:
    blob.write(data)
    return blob.finish()


def _read_key(incoming: Incoming) -> str | None:
    key = incoming.headers.get(b"idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise Problem("bad_header", "Idempotency-Key has 1 to 255 visible ASCII characters", "idempotency-key")
    return key.decode()


def _read_filter(query: dict[str, str]) -> TaskFilter:
    state = read_choice(query, "state", tuple(State))
    kind = read_choice(query, "kind", tuple(Kind))
    function = query.get("function")
    if function is not None and not is_name(function):
        raise Problem("field_range", f"function must be a name like {NAME}", "function")
    label = None
    if "label" in query:
        key, equals, value = query["label"].partition("=")
        if not (key and equals):
            raise Problem("field_range", "label must be key=value", "label")
        label = (key, value)
    return TaskFilter(
        State(state) if state else None,
        Kind(kind) if kind else None,
        function,
        label,
        read_integer(query, "limit", 50, 1, MAX_PAGE),
        query.get("after"),
    )
