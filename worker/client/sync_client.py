"""`Client`: one worker, blocking. Each method is a request or a flow; `AsyncClient` has the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from worker.client import connection, flows, requests
from worker.client.answers import CallAnswer, Function, Module, Page, Stats, Switched, Task
from worker.client.connection import DEFAULT_URL, TIMEOUT_S
from worker.client.errors import ClientError
from worker.client.flows import Chunk, Flow, Item, Pause, Retry, Stream
from worker.client.requests import Document, OnSent, Request

T = TypeVar("T")


class Client:
    """A client of one worker. Threads may share it.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._http = httpx.Client(**connection.settings(url, token, timeout_s), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Modules

    def upload(self, module: bytes, on_sent: OnSent | None = None) -> Module:
        """Store a module, or find it stored. `on_sent` is told how many bytes have been sent so far."""
        return self._do(requests.upload(module, on_sent))

    def module(self, digest: str) -> Module:
        return self._do(requests.module(digest))

    def modules(self, limit: int = 50, after: str | None = None) -> Page[Module]:
        """A page of them, newest first."""
        return self._do(requests.modules(limit, after))

    def every_module(self) -> Iterator[Module]:
        return self._listen(flows.every(partial(requests.modules, 500), self._retry))

    def delete_module(self, digest: str) -> None:
        self._do(requests.delete_module(digest))

    # Tasks

    def submit(self, task: Document, *, wait_s: int = 0, idempotency_key: str | None = None) -> Task:
        """Add a task (as the API takes it), and wait up to `wait_s` (60 at most) for its end."""
        return self._do(requests.submit(task, wait_s, idempotency_key))

    def run(self, task: Document, within_s: float | None = None) -> Task:
        """Add a job and wait for its end. Raises: StillGoing."""
        return self.await_end(self.submit(task).id, within_s)

    def deploy(self, service: Document, within_s: float | None = None) -> Task:
        """Add a service and wait until it runs, or has failed. Raises: StillGoing."""
        return self.await_running(self.submit(service).id, within_s)

    def task(self, task_id: str, *, wait_s: int = 0) -> Task:
        """All that is known of it; waits up to `wait_s` (60 at most) for its end."""
        return self._do(requests.task(task_id, wait_s))

    def tasks(self, limit: int = 50, after: str | None = None, **filters: str | None) -> Page[Task]:
        """A page of them, newest first. Filters: state, kind, function, label (`key=value`)."""
        return self._do(requests.tasks(limit, after, filters))

    def every_task(self, **filters: str | None) -> Iterator[Task]:
        return self._listen(flows.every(lambda after: requests.tasks(500, after, filters), self._retry))

    def await_end(self, task_id: str, within_s: float | None = None) -> Task:
        """The task once it is final. Raises: StillGoing."""
        return self._drive(flows.await_end(task_id, within_s, self._retry))

    def await_running(self, task_id: str, within_s: float | None = None) -> Task:
        """The task once it runs or is final. Raises: StillGoing."""
        return self._drive(flows.await_running(task_id, within_s, self._retry))

    def stop(self, task_id: str, *, force: bool = False) -> None:
        """Order its end; `force` grants no grace. One that has ended stays as it is."""
        self._do(requests.stop(task_id, force))

    def output(self, task_id: str, stream: str = "stdout") -> bytes:
        """What it has written so far, to `stdout` or `stderr`."""
        return self._do(requests.output(task_id, stream))

    def follow_task(self, task_id: str) -> Iterator[Task]:
        """The task each time that its story got longer, to its end."""
        return self._listen(flows.follow_task(task_id, self._retry))

    def follow_output(self, task_id: str, streams: tuple[str, ...] = ("stdout", "stderr")) -> Iterator[Chunk]:
        """What it has written and goes on to write, to its end."""
        return self._listen(flows.follow_output(task_id, streams, self._retry))

    # Functions and the node

    def functions(self, limit: int = 50, after: str | None = None) -> Page[Function]:
        """A page of them, by name."""
        return self._do(requests.functions(limit, after))

    def every_function(self) -> Iterator[Function]:
        return self._listen(flows.every(partial(requests.functions, 500), self._retry))

    def function(self, name: str) -> Function:
        return self._do(requests.function(name))

    def switch(self, function: str, revision: str, *, on: bool = True, generation: int | None = None) -> Switched:
        """Make a revision the default one, or not; only while the function's generation is this, where it is given."""
        return self._do(requests.switch(function, revision, on, generation))

    def call(
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
        return self._do(requests.call(function, revision, path, method, body, headers or {}, wait_s))

    def stats(self) -> Stats:
        return self._do(requests.stats())

    # How

    def _do(self, request: Request[T]) -> T:
        return self._drive(flows.attempt(request, self._retry))

    def _drive(self, flow: Flow[T]) -> T:
        end: Any = None
        try:
            step = next(flow)
            while True:
                try:
                    end = self._take(step)
                except ClientError as exc:
                    step = flow.throw(exc)
                else:
                    step = flow.send(end)
        except StopIteration as done:
            result: T = done.value
            return result

    def _listen(self, stream: Stream[T]) -> Iterator[T]:
        try:
            step = next(stream)
            while True:
                if isinstance(step, Item):
                    yield step.value
                    step = next(stream)
                    continue
                try:
                    end = self._take(step)
                except ClientError as exc:
                    step = stream.throw(exc)
                else:
                    step = stream.send(end)
        except StopIteration:
            return

    def _take(self, step: Request[Any] | Pause) -> Any:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            response = self._http.request(**connection.arguments(step, self._timeout_s))
        except httpx.HTTPError as exc:
            raise connection.told(exc, self.url) from exc
        return step.read(response)
