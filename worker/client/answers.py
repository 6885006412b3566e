"""What a worker answers, typed. Members that a newer worker adds are kept in `document` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

FINAL = ("completed", "failed")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`document`: the whole of it, as it came."""

    document: dict[str, Any] = {}


class ModuleRef(msgspec.Struct, frozen=True):
    digest: str | None = None
    url: str | None = None


class Extern(msgspec.Struct, frozen=True):
    """An import (with its `module`) or export. `params` and `results` are a function's types."""

    name: str
    kind: str
    module: str | None = None
    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


class Module(Answer, frozen=True, kw_only=True):
    digest: str
    size_bytes: int
    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]
    created_at: datetime


class Event(msgspec.Struct, frozen=True):
    """One line of a task's story."""

    at: datetime
    event: str
    state: str
    reason: str | None = None
    detail: str | None = None


class FunctionRef(msgspec.Struct, frozen=True):
    name: str
    revision: str
    default: bool = False


class Runner(msgspec.Struct, frozen=True):
    pid: int
    uid: int
    layers: tuple[str, ...] = ()


class Task(Answer, frozen=True, kw_only=True):
    """A job or a service. `events` only where one task was asked for."""

    id: str
    kind: str
    name: str | None
    state: str
    previous_state: str | None
    reason: str | None
    module: ModuleRef
    function: FunctionRef | None
    labels: dict[str, str]
    trap_code: str | None
    signal: str | None
    exit_code: int | None
    result: tuple[Any, ...] | None
    detail: str | None
    truncated: bool
    fuel_used: int | None
    wall_us: int | None
    queue_us: int | None
    init_us: int | None
    run_us: int | None
    cpu_us: int | None
    peak_memory_bytes: int | None
    attempts: int
    runner: Runner | None
    created_at: datetime
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    events: tuple[Event, ...] = ()

    @property
    def final(self) -> bool:
        """Nothing of it changes any more."""
        return self.state in FINAL


class Runners(msgspec.Struct, frozen=True):
    idle: int = 0
    busy: int = 0
    starting: int = 0


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """Figures are None where the coordinator tells nothing."""

    revision: str
    task_id: str
    state: str
    routed: bool
    trouble: str | None
    module: ModuleRef
    created_at: datetime
    runners: Runners | None
    queued: int | None
    calls: int | None
    errors: dict[str, int] | None
    cold_starts: int | None
    run_us: dict[str, float | None] | None


class Function(Answer, frozen=True, kw_only=True):
    function: str
    default: str | None
    generation: int
    revisions: tuple[Revision, ...]


class Switched(Answer, frozen=True, kw_only=True):
    function: str
    default: str | None
    previous: str | None
    generation: int


class Stats(Answer, frozen=True, kw_only=True):
    """What a manager schedules by. Its parts are as `/openapi.json` says."""

    node: dict[str, Any]
    uptime_s: float
    tasks: dict[str, int]
    queue: dict[str, int]
    runners: dict[str, int]
    running: list[dict[str, Any]]
    calls: dict[str, Any] = {}
    functions: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}
    seal: dict[str, Any] = {}


Item = TypeVar("Item", bound=Answer)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A part of a list. `next`: what the following part is asked for by, None at the end."""

    items: tuple[Item, ...]
    next: str | None
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """What a guest answered to a call."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Typed = TypeVar("Typed", bound=Answer)


def read_answer(kind: type[Typed], document: dict[str, Any]) -> Typed:
    """`document` as `kind`. Raises: msgspec.ValidationError."""
    return msgspec.convert({**document, "document": document}, kind)
