"""The application on a real table and real files, with a coordinator that is played, and a client that calls ASGI."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import wasmtime

from worker.api.app import assemble
from worker.api.asgi import Response
from worker.api.auth import Tokens
from worker.api.calls import CALLS_ONLY, is_call
from worker.api.services import Clock, Lists, Services
from worker.config import Config
from worker.core.changes import (
    Applied,
    DropModule,
    InsertModule,
    InsertTask,
    Note,
    Replay,
    Result,
    SetDefault,
    UpdateTask,
    WriteFailed,
)
from worker.core.commands import (
    AddModule,
    AddTask,
    Command,
    DeleteModule,
    Done,
    ReadAudit,
    ReadFunctions,
    ReadMetrics,
    ReadStats,
    Refused,
    Reply,
    ReportBroken,
    ReportCalls,
    StopTask,
    SwitchDefault,
    WatchTask,
)
from worker.core.functions import FunctionRow, Wish, decide
from worker.core.task import Reason, State, Status, Task, TaskSpec
from worker.shared.blobs import Blobs
from worker.shared.table import TableReader, TableWriter

HOST = ("host", "localhost:8470")
JSON = ("content-type", "application/json")
WASM = ("content-type", "application/wasm")
NOW_US = 1_700_000_000_123_456

# Its exports: a command, functions of all number types, one that can't be called, a memory.
MODULE = """(module
 (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
 (memory (export "memory") 1)
 (func (export "_start"))
 (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
 (func (export "mix") (param i64 f32 f64) (result i64) (local.get 0))
 (func (export "vector") (param v128))
 (func (export "nothing")))"""
NEEDS_ENV = '(module (import "env" "log" (func (param i32) (result i32))) (func (export "_start")))'
NEEDS_MEMORY = '(module (import "env" "memory" (memory 1)) (func (export "_start")))'


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


@dataclass
class FakePage:
    """What the coordinator shows; a test sets it."""

    draining: bool = False
    ready: bool = True
    coordinator_beat_us: int = 2**62
    runners_total: int = 8
    runners_free: int = 8
    queued_tasks: int = 0
    waiting_calls: int = 0
    route_generation: int = 0


class Coordinator:
    """Plays the other end of the channel: writes to the table what the real one would, or says what a test scripted."""

    def __init__(self, writer: TableWriter, reader: TableReader) -> None:
        self.writer = writer
        self.reader = reader
        self.asked: list[Command] = []
        self.script: list[Reply | Exception] = []
        self.in_use: set[str] = set()
        self.on_watch: dict[str, Status] = {}
        self.figures: dict[str, Any] = {}
        self.metrics = [b"galago_up 1\n"]

    async def ask(self, command: Command, timeout_s: float) -> Reply:
        self.asked.append(command)
        if self.script:
            scripted = self.script.pop(0)
            if isinstance(scripted, Exception):
                raise scripted
            return scripted
        match command:
            case AddTask() | StopTask() | WatchTask():
                return self._on_task(command)
            case AddModule():
                change = InsertModule(command.module, command.blob_name, command.token)
                return self._reply(self.writer.apply([change])[0])
            case DeleteModule(digest):
                return self._delete(digest)
            case SwitchDefault():
                return self._switch(command)
            case ReportCalls() | ReportBroken():
                return Done()
            case _:
                return self._on_question(command)

    def _on_task(self, command: AddTask | StopTask | WatchTask) -> Reply:
        match command:
            case AddTask():
                if self._exists(command.spec):
                    return Refused("revision_exists", "it is deployed")
                task = Task(command.task_id, command.token, command.spec, NOW_US)
                note = Note(NOW_US, "accepted", State.PENDING)
                change = InsertTask(task, note, command.stdin_name, command.idempotency)
                return self._reply(self.writer.apply([change])[0], task.id)
            case StopTask(task_id):
                self.finish(task_id, Status(State.FAILED, State.PENDING, Reason.STOPPED))
                return Done(task_id=task_id)
            case WatchTask(task_id):
                if task_id in self.on_watch:
                    self.finish(task_id, self.on_watch.pop(task_id))
                return Done(task_id=task_id)

    def _on_question(self, command: ReadStats | ReadAudit | ReadFunctions | ReadMetrics) -> Reply:
        match command:
            case ReadAudit():
                return Done(body=b'{"differences":[],"checked":{}}')
            case ReadStats():
                return Done(body=b'{"node":{}}')
            case ReadFunctions(names):
                return Done(body=json.dumps({name: self.figures.get(name, {}) for name in names}).encode())
            case ReadMetrics(part):
                return Done(created=part + 1 < len(self.metrics), body=self.metrics[part])

    def close(self) -> None:
        """The writer is the fixture's."""

    def finish(self, task_id: str, status: Status) -> None:
        task = self.reader.task(task_id)
        assert task is not None
        note = Note(NOW_US + 1, "ended", status.state, status.reason, status.detail)
        applied = self.writer.apply([UpdateTask(replace(task, status=status), (note,))])
        assert [Applied()] == applied

    def start(self, task_id: str) -> None:
        """A service runs: calls go there."""
        self.finish(task_id, Status(State.RUNNING, State.SCHEDULED))

    def _exists(self, spec: TaskSpec) -> bool:
        service = spec.service
        found = self.reader.function(service.function) if service is not None else None
        return found is not None and service is not None and service.revision in [one.revision for one in found[1]]

    def _switch(self, command: SwitchDefault) -> Reply:
        found = self.reader.function(command.function)
        row = None if found is None else FunctionRow(command.function, found[0].default, found[0].generation)
        routed = {} if found is None else {route.revision: route.routed for route in found[1]}
        wish = Wish(command.function, command.revision, command.on, command.if_generation)
        after = decide(row, wish, routed.get(command.revision))
        if row is None or isinstance(after, Refused):
            assert isinstance(after, Refused)
            return after
        if after is not row:
            assert [Applied()] == self.writer.apply([SetDefault(row.name, after.default, after.generation)])
        document = {"function": row.name, "default": after.default, "previous": row.default}
        return Done(body=json.dumps({**document, "generation": after.generation}).encode())

    def _delete(self, digest: str) -> Reply:
        if self.reader.module(digest) is None:
            return Refused("module_unknown", "no such module")
        if digest in self.in_use:
            return Refused("module_in_use", "tasks use it")
        return self._reply(self.writer.apply([DropModule(digest)])[0])

    def _reply(self, result: Result, task_id: str = "") -> Reply:
        match result:
            case Applied(created):
                return Done(created=created, task_id=task_id)
            case Replay(task_id, True):
                return Done(created=False, task_id=task_id)
            case Replay():
                return Refused("idempotency_mismatch", "another body")
            case WriteFailed(code, detail):
                return Refused(code, detail)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """A problem's code."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = self.json
        assert self.status == document["status"]
        return str(document["code"])

    @property
    def refusal(self) -> tuple[int, str, str | None]:
        """(status, code, field) of a problem."""
        return self.status, self.code, self.json.get("field")


class Api:
    """One API worker's application, and everything that it works with."""

    def __init__(self, data_dir: Path, tokens: Tokens | None = None, **settings: Any) -> None:
        self.config = Config(data_dir=str(data_dir), **{"body_timeout_s": 5.0, **settings})
        self.writer = TableWriter(data_dir / "table.sqlite", "normal", reserve_bytes=4096)
        self.page = FakePage()
        self.blobs = Blobs(data_dir)
        self.loop = asyncio.new_event_loop()
        self.reader = TableReader(self.writer.path, wall_us=lambda: NOW_US)
        self.coordinator = Coordinator(self.writer, self.reader)
        self.services = Services(
            config=self.config,
            reader=self.reader,
            lists=Lists(lambda: TableReader(self.writer.path)),
            channel=self.coordinator,
            page=self.page,
            blobs=self.blobs,
            clock=Clock(lambda: NOW_US, lambda: time.monotonic_ns() // 1000),
            tokens=tokens,
        )
        self.app = assemble(self.services)
        self.bearer: str | None = None

    def close(self) -> None:
        self.loop.run_until_complete(self.app.calls.close())
        self.services.close()
        self.writer.close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def request(
        self,
        method: str,
        target: str,
        *headers: tuple[str, str],
        body: bytes | Iterable[bytes | float | None] = b"",
        client: str | None = "127.0.0.1",
        http_version: str = "1.1",
        calls_only: bool = False,
    ) -> Answer:
        """One request.

        Args:
            target: path and query, as they stand in the request line.
            headers: Host is added where there is none.
            body: whole, or in pieces: bytes, a float for so many seconds of silence, None for a client that goes away.
        """
        return self.loop.run_until_complete(
            self.call(
                method, target, *headers, body=body, client=client, http_version=http_version, calls_only=calls_only
            )
        )

    async def call(
        self,
        method: str,
        target: str,
        *headers: tuple[str, str],
        body: bytes | Iterable[bytes | float | None] = b"",
        client: str | None = "127.0.0.1",
        http_version: str = "1.1",
        calls_only: bool = False,
    ) -> Answer:
        raw_path, _, query = target.partition("?")
        fields = list(headers)
        if not any(name == "host" for name, _ in fields) and http_version != "1.0":
            fields.append(HOST)
        if self.bearer is not None:
            fields.append(("authorization", f"Bearer {self.bearer}"))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": http_version,
            "method": method,
            "scheme": "http",
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields],
            "client": client and (client, 40_000),
            "server": ("127.0.0.1", 8470),
            CALLS_ONLY: calls_only,
        }
        receive = _receiver([body] if isinstance(body, bytes) else list(body))
        whole = await (self._called(scope, receive) if is_call(raw_path.encode()) else self._asked(scope, receive))
        assert whole is not None, "nobody was answered"
        status, pairs, content = whole
        answer = Answer(status, {name.decode(): value.decode("latin-1") for name, value in pairs}, content)
        assert len(pairs) == len(answer.headers), pairs
        return answer

    async def _asked(self, scope: dict[str, Any], receive: Any) -> Response:
        """By ASGI, as gunicorn does."""
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        assert sent[0]["type"] == "http.response.start"
        return sent[0]["status"], sent[0]["headers"], b"".join(message.get("body", b"") for message in sent[1:])

    async def _called(self, scope: dict[str, Any], receive: Any) -> Response | None:
        """Past it, as `worker.api.server_calls` does."""
        framing = {name: value for name, value in scope["headers"] if name in (b"content-length", b"transfer-encoding")}
        if framing in ({}, {b"content-length": b"0"}):
            ended: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
            if self.app.calls.begin(scope, receive, ended.set_result):
                return await ended
        return await self.app.calls.respond(scope, receive)

    # What most tests do

    def get(self, target: str, *headers: tuple[str, str]) -> Answer:
        return self.request("GET", target, *headers)

    def delete(self, target: str) -> Answer:
        return self.request("DELETE", target)

    def upload(self, module: bytes) -> Answer:
        return self.request("POST", "/modules", WASM, body=module)

    def deploy(self, digest: str, function: str = "f", revision: str = "v1", /, **task: Any) -> Answer:
        """A service whose handler is the module as a command, unless told."""
        named = {"name": function, "revision": revision}
        service = {"kind": "service", "module": {"digest": digest}, "function": named, "handler": {"abi": "wagi"}}
        return self.post({**service, **task})

    def deploy_running(self, digest: str, function: str = "f", revision: str = "v1", /, **task: Any) -> str:
        """The same, and it runs; its id."""
        answer = self.deploy(digest, function, revision, **task)
        assert answer.status == 201, answer.body
        task_id: str = answer.json["id"]
        self.coordinator.start(task_id)
        return task_id

    def post(self, task: object, *headers: tuple[str, str]) -> Answer:
        return self.request("POST", "/tasks", JSON, *headers, body=json.dumps(task).encode())


def _receiver(pieces: list[bytes | float | None]) -> Any:
    async def receive() -> dict[str, Any]:
        while pieces:
            piece = pieces.pop(0)
            if piece is None:
                return {"type": "http.disconnect"}
            if isinstance(piece, float):
                await asyncio.sleep(piece)
                continue
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await asyncio.Event().wait()
        raise AssertionError("never")

    return receive
