"""`AsyncClient`: one worker, for asyncio. Each method is a request or a flow; `Client` has the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from worker.client import connection, flows, requests
from worker.client.answers import CallAnswer, Function, Module, Page, Stats, Switched, Task
from worker.client.connection import DEFAULT_URL, TIMEOUT_S
from worker.client.errors import ClientError
from worker.client.flows import Chunk, Flow, Item, Pause, Retry, Stream
from worker.client.requests import Document, OnSent, Pieces, Request

T = TypeVar("T")


class AsyncClient:
    """A client of one worker. Tasks of one event loop may share it.

    Args:
        url: where it serves, without a path of its own.
        token: sent as a bearer token.
        timeout_s: for a connection, and for each silence of the worker beyond the time that it was asked to wait.
        retry: what is tried again, and how often.
        transport: of httpx, in the place of the network.

    Raises (every method):
        Refused: the worker's answer is a problem.
        Unreachable, Broken: no connection came about; it broke.
        NotAWorker: something else answers there.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(**connection.settings(url, token, timeout_s), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    # Modules

    async def upload(self, module: bytes, on_sent: OnSent | None = None) -> Module:
        """Store a module, or find it stored. `on_sent` is told how many bytes have been sent so far."""
        return await self._do(requests.upload(module, on_sent))

    async def module(self, digest: str) -> Module:
        return await self._do(requests.module(digest))

    async def modules(self, limit: int = 50, after: str | None = None) -> Page[Module]:
        """A page of them, newest first."""
        return await self._do(requests.modules(limit, after))

    def every_module(self) -> AsyncIterator[Module]:
        return self._listen(flows.every(partial(requests.modules, 500), self._retry))

    async def delete_module(self, digest: str) -> None:
        await self._do(requests.delete_module(digest))

    # Tasks

    async def submit(self, task: Document, *, wait_s: int = 0, idempotency_key: str | None = None) -> Task:
        """Add a task (as the API takes it), and wait up to `wait_s` (60 at most) for its end."""
        return await self._do(requests.submit(task, wait_s, idempotency_key))

    async def run(self, task: Document, within_s: float | None = None) -> Task:
        """Add a job and wait for its end. Raises: StillGoing."""
        return await self.await_end((await self.submit(task)).id, within_s)

    async def deploy(self, service: Document, within_s: float | None = None) -> Task:
        """Add a service and wait until it runs, or has failed. Raises: StillGoing."""
        return await self.await_running((await self.submit(service)).id, within_s)

    async def task(self, task_id: str, *, wait_s: int = 0) -> Task:
        """All that is known of it; waits up to `wait_s` (60 at most) for its end."""
        return await self._do(requests.task(task_id, wait_s))

    async def tasks(self, limit: int = 50, after: str | None = None, **filters: str | None) -> Page[Task]:
        """A page of them, newest first. Filters: state, kind, function, label (`key=value`)."""
        return await self._do(requests.tasks(limit, after, filters))

    def every_task(self, **filters: str | None) -> AsyncIterator[Task]:
        return self._listen(flows.every(lambda after: requests.tasks(500, after, filters), self._retry))

    async def await_end(self, task_id: str, within_s: float | None = None) -> Task:
        """The task once it is final. Raises: StillGoing."""
        return await self._drive(flows.await_end(task_id, within_s, self._retry))

    async def await_running(self, task_id: str, within_s: float | None = None) -> Task:
        """The task once it runs or is final. Raises: StillGoing."""
        return await self._drive(flows.await_running(task_id, within_s, self._retry))

    async def stop(self, task_id: str, *, force: bool = False) -> None:
        """Order its end; `force` grants no grace. One that has ended stays as it is."""
        await self._do(requests.stop(task_id, force))

    async def output(self, task_id: str, stream: str = "stdout") -> bytes:
        """What it has written so far, to `stdout` or `stderr`."""
        return await self._do(requests.output(task_id, stream))

    def follow_task(self, task_id: str) -> AsyncIterator[Task]:
        """The task each time that its story got longer, to its end."""
        return self._listen(flows.follow_task(task_id, self._retry))

    def follow_output(self, task_id: str, streams: tuple[str, ...] = ("stdout", "stderr")) -> AsyncIterator[Chunk]:
        """What it has written and goes on to write, to its end."""
        return self._listen(flows.follow_output(task_id, streams, self._retry))

    # Functions and the node

    async def functions(self, limit: int = 50, after: str | None = None) -> Page[Function]:
        """A page of them, by name."""
        return await self._do(requests.functions(limit, after))

    def every_function(self) -> AsyncIterator[Function]:
        return self._listen(flows.every(partial(requests.functions, 500), self._retry))

    async def function(self, name: str) -> Function:
        return await self._do(requests.function(name))

    async def switch(self, function: str, revision: str, *, on: bool = True, generation: int | None = None) -> Switched:
        """Make a revision the default one, or not; only while the function's generation is this, where it is given."""
        return await self._do(requests.switch(function, revision, on, generation))

    async def call(
        self,
        function: str,
        revision: str | None = None,
        *,
        path: str = "",
        method: str = "POST",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        wait_s: float = 60,
    ) -> CallAnswer:
        """Call a function, its default revision where none is named.

        Args:
            path: what follows the revision, as in a URL: quoted, with its query.
            wait_s: how long the call itself may take, beside the client's own timeout.

        Raises:
            Refused: no guest answered.
        """
        return await self._do(requests.call(function, revision, path, method, body, headers or {}, wait_s))

    async def stats(self) -> Stats:
        return await self._do(requests.stats())

    # How

    async def _do(self, request: Request[T]) -> T:
        return await self._drive(flows.attempt(request, self._retry))

    async def _drive(self, flow: Flow[T]) -> T:
        end: Any = None
        try:
            step = next(flow)
            while True:
                try:
                    end = await self._take(step)
                except ClientError as exc:
                    step = flow.throw(exc)
                else:
                    step = flow.send(end)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _listen(self, stream: Stream[T]) -> AsyncIterator[T]:
        try:
            step = next(stream)
            while True:
                if isinstance(step, Item):
                    yield step.value
                    step = next(stream)
                    continue
                try:
                    end = await self._take(step)
                except ClientError as exc:
                    step = stream.throw(exc)
                else:
                    step = stream.send(end)
        except StopIteration:
            return

    async def _take(self, step: Request[Any] | Pause) -> Any:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            arguments = connection.arguments(step, self._timeout_s)
            if isinstance(step.body, Pieces):
                arguments["content"] = step.body.stream()
            response = await self._http.request(**arguments)
        except httpx.HTTPError as exc:
            raise connection.told(exc, self.url) from exc
        return step.read(response)
