"""What takes more than one request, written once for both clients: generators that ask for steps and get their ends.

A flow yields requests (and is sent their answers, or thrown a ClientError), pauses, and items for whoever listens.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from worker.client import requests
from worker.client.answers import Page, Task
from worker.client.errors import ClientError, Refused, StillGoing, Unreachable
from worker.client.requests import MAX_WAIT_S, Request

T = TypeVar("T")
# How often something is asked for that the worker doesn't tell by itself.
_FIRST_POLL_S, _LAST_POLL_S = 0.05, 0.5
# The worker answers at once when the task ends; what happens before that is seen within this.
_FOLLOW_S = 1
_RETRY_STATUS = 425


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """For whoever listens."""

    value: T


@dataclass(frozen=True, slots=True)
class Chunk:
    """More of what a task wrote: `stream` is `stdout` or `stderr`."""

    stream: str
    data: bytes


Flow = Generator[Request[Any] | Pause, Any, T]
Stream = Generator[Request[Any] | Pause | Item[T], Any, None]


@dataclass(frozen=True, slots=True)
class Retry:
    """When a request is made again: only one that was certainly not executed, and that may succeed later.

    Args:
        attempts: in all; 1 tries nothing again.
        first_s, most_s: the pauses double from the one to the other; one that the worker asks for and that is longer
            than `most_s` is the caller's to wait.
    """

    attempts: int = 4
    first_s: float = 0.1
    most_s: float = 5.0

    def pause_s(self, attempt: int, error: ClientError, chance: float) -> float | None:
        """How long to wait after a failed attempt (the first is 1); None: it stays failed. `chance`: 0 to 1."""
        wanted_s = _wanted_pause_s(error)
        if attempt >= self.attempts or wanted_s is None or wanted_s > self.most_s:
            return None
        longest_s = min(self.most_s, self.first_s * 2.0 ** (attempt - 1))
        return max(wanted_s, longest_s * (0.5 + chance / 2))


def _wanted_pause_s(error: ClientError) -> float | None:
    if error.executed != "no":
        return None
    if isinstance(error, Unreachable):
        return 0
    if isinstance(error, Refused):
        return 0 if error.status == _RETRY_STATUS else error.retry_after_s
    return None


def attempt(request: Request[T], retry: Retry) -> Flow[T]:
    """One request, with its repetitions."""
    made = 0
    while True:
        made += 1
        try:
            answer: T = yield request
        except ClientError as exc:
            pause_s = retry.pause_s(made, exc, random.random())  # noqa: S311 - spreads clients, hides nothing
            if pause_s is None:
                raise
        else:
            return answer
        yield Pause(pause_s)


def await_end(task_id: str, within_s: float | None, retry: Retry) -> Flow[Task]:
    """The task once it is final. Raises: StillGoing."""
    deadline_s = math.inf if within_s is None else time.monotonic() + within_s
    while True:
        left_s = deadline_s - time.monotonic()
        task = yield from attempt(requests.task(task_id, math.ceil(max(0, min(left_s, MAX_WAIT_S)))), retry)
        if task.final:
            return task
        if left_s <= 0:
            raise StillGoing(task_id, task.state, within_s or 0)


def await_running(task_id: str, within_s: float | None, retry: Retry) -> Flow[Task]:
    """The task once it runs, or is final. A service that is to be the default one is, then. Raises: StillGoing."""
    deadline_s = math.inf if within_s is None else time.monotonic() + within_s
    pause_s = _FIRST_POLL_S
    while True:
        task = yield from attempt(requests.task(task_id), retry)
        if task.final or task.state == "running":
            return task
        if time.monotonic() > deadline_s:
            raise StillGoing(task_id, task.state, within_s or 0)
        yield Pause(pause_s)
        pause_s = min(_LAST_POLL_S, pause_s * 1.5)


def follow_task(task_id: str, retry: Retry) -> Stream[Task]:
    """The task whenever its story got longer, to its end.

    It is asked for again and again; where the worker tells events by itself, this is the place to listen to them.
    """
    told = 0
    wait_s = 0
    while True:
        task = yield from attempt(requests.task(task_id, wait_s), retry)
        if len(task.events) > told or task.final:
            told = len(task.events)
            yield Item(task)
        if task.final:
            return
        wait_s = _FOLLOW_S


def follow_output(task_id: str, streams: Iterable[str], retry: Retry) -> Stream[Chunk]:
    """What the task has written and goes on to write, to its end.

    Sizes are asked for again and again, and a stream is read where it has grown; where the worker holds the answer open
    for what comes (`?follow=1`), this is the place to read that.
    """
    told = dict.fromkeys(streams, 0)
    wait_s = 0
    while True:
        task = yield from attempt(requests.task(task_id, wait_s), retry)
        for stream in told:
            size = yield from attempt(requests.output_size(task_id, stream), retry)
            if size > told[stream]:
                data = yield from attempt(requests.output(task_id, stream), retry)
                yield Item(Chunk(stream, data[told[stream] :]))
                told[stream] = len(data)
        if task.final:
            return
        wait_s = _FOLLOW_S


def every(ask: Callable[[str | None], Request[Page[Any]]], retry: Retry) -> Stream[Any]:
    """Each item of a list, page after page. `ask` makes the request for what follows `after`."""
    after: str | None = None
    while True:
        page = yield from attempt(ask(after), retry)
        for item in page.items:
            yield Item(item)
        after = page.next
        if after is None:
            return
