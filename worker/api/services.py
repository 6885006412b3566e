"""What the resources work with, given to each once. The protocols say how much of it they use; tests give fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from worker.api.admission import Admission
from worker.api.auth import Tokens
from worker.api.posted import Specs
from worker.config import Config
from worker.core.changes import Note
from worker.core.commands import Command, Reply
from worker.core.functions import FunctionRow
from worker.core.module import Module
from worker.core.task import State, Task
from worker.shared.blobs import Blobs
from worker.shared.routes import Route
from worker.shared.table import TaskFilter, TokenUsage

T = TypeVar("T")

# Longer than the coordinator needs to be found dead (2 s) and to be back (1 s).
COMMAND_TIMEOUT_S = 5.0


class Channel(Protocol):
    """`worker.shared.channel.Client`."""

    async def ask(self, command: Command, timeout_s: float) -> Reply: ...

    def close(self) -> None: ...


class Page(Protocol):
    """`worker.shared.page.PageReader`."""

    @property
    def route_generation(self) -> int: ...

    @property
    def draining(self) -> bool: ...

    @property
    def ready(self) -> bool: ...

    @property
    def coordinator_beat_us(self) -> int: ...

    @property
    def runners_total(self) -> int: ...

    @property
    def runners_free(self) -> int: ...

    @property
    def queued_tasks(self) -> int: ...

    @property
    def waiting_calls(self) -> int: ...


class Reader(Protocol):
    """`worker.shared.table.TableReader`."""

    def close(self) -> None: ...

    def task(self, task_id: str) -> Task | None: ...

    def notes(self, task_id: str) -> list[Note]: ...

    def tasks(self, wanted: TaskFilter) -> tuple[list[Task], str | None]: ...

    def counts(self) -> dict[State, int]: ...

    def usage(self, token: str) -> TokenUsage: ...

    def replay(self, token: str, key: str) -> tuple[str, str] | None: ...

    def module(self, digest: str) -> Module | None: ...

    def modules(self, limit: int = 50, after: str | None = None) -> tuple[list[Module], str | None]: ...

    def routes(self) -> tuple[list[FunctionRow], list[Route]]: ...

    def function(self, name: str) -> tuple[FunctionRow, list[Route]] | None: ...

    def functions(
        self, limit: int = 50, after: str | None = None
    ) -> tuple[list[FunctionRow], list[Route], str | None]: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall_us`: microseconds since the epoch; `monotonic_us`: CLOCK_MONOTONIC, one for all processes."""

    wall_us: Callable[[], int]
    monotonic_us: Callable[[], int]


class Lists:
    """Reads that may take milliseconds, in one thread with a reader of its own, so that the loop goes on."""

    def __init__(self, make: Callable[[], Reader]) -> None:
        self._reader = make()
        self._thread = ThreadPoolExecutor(1, "galago-lists")

    async def read(self, query: Callable[[Reader], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, query, self._reader)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._reader.close()


@dataclass(frozen=True, slots=True)
class Services:
    """One API worker's. `reader` is the loop's: for reads by key, which take some ten microseconds."""

    config: Config
    reader: Reader
    lists: Lists
    channel: Channel
    page: Page
    blobs: Blobs
    clock: Clock
    tokens: Tokens | None
    command_timeout_s: float = COMMAND_TIMEOUT_S
    admission: Admission = field(init=False)
    specs: Specs = field(init=False)

    def __post_init__(self) -> None:
        admission = Admission(self.reader.module)
        object.__setattr__(self, "admission", admission)
        object.__setattr__(self, "specs", Specs.by(self.config, admission))

    def close(self) -> None:
        self.channel.close()
        self.lists.close()
        self.reader.close()
