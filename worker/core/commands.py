"""What an API worker asks of the coordinator, in the imperative, and what it is answered.

Every command carries `expires_at_us` (CLOCK_MONOTONIC, the same for all processes of a machine): a command that waited
past it is dropped unanswered, because its client was told `maybe` by then. 0 means never.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.module import Module
from worker.core.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An Idempotency-Key, scoped by token, with the SHA-256 (hex) of the raw body that it came with."""

    key: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class AddTask:
    """Record a task. `stdin_name` names a finished temporary blob that becomes `stdin/<task id>`, "" without one."""

    task_id: str
    token: str
    spec: TaskSpec
    stdin_name: str = ""
    idempotency: Idempotency | None = None
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class StopTask:
    """Stop a task; with `force` without any grace."""

    task_id: str
    force: bool = False
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class AddModule:
    """Record a module whose bytes lie in the temporary blob `blob_name`, and give them their final name."""

    module: Module
    blob_name: str
    token: str = ""
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class DeleteModule:
    digest: str
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class WatchTask:
    """Answer when the task is final, or when `until_us` (CLOCK_MONOTONIC) has come, whichever is first."""

    task_id: str
    until_us: int
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class ReadStats:
    """Answer with the statistics of DESIGN 9, as JSON bytes."""

    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class ReadAudit:
    """Answer with the audit, as JSON bytes: what is known compared with what is there."""

    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class SwitchDefault:
    """Make the revision the function's default, or with `on` False make it not the default (nothing else changes).

    `if_generation` is the generation that the asker knows, None where any will do. Done.body is the JSON
    `{function, default, previous, generation}`.
    """

    function: str
    revision: str
    on: bool
    if_generation: int | None = None
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class ReadFunctions:
    """Answer with what runs of these functions: JSON `{function: {revision: {runners, calls, ...}}}`."""

    functions: tuple[str, ...]
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class ReadMetrics:
    """Answer with a part of the metrics in Prometheus's text format; `part` 0 takes a new reading.

    Done.created says whether there is another part.
    """

    part: int = 0
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class CallFigures:
    """What one API worker saw of one revision's calls since its last report.

    `outcomes` counts by code: "ok", or one of the contract's. The three histograms count calls by the buckets of
    `worker.core.figures.BUCKETS_US`, one more for what is longer than the last; `*_us` are sums of microseconds.
    """

    task_id: str
    outcomes: tuple[tuple[str, int], ...] = ()
    fuel: int = 0
    queue: tuple[int, ...] = ()
    queue_us: int = 0
    init: tuple[int, ...] = ()
    init_us: int = 0
    run: tuple[int, ...] = ()
    run_us: int = 0


@dataclass(frozen=True, slots=True)
class ReportCalls:
    """What an API worker saw since it reported last: once a second, while there is something to tell."""

    figures: tuple[CallFigures, ...]
    expires_at_us: int = 0


@dataclass(frozen=True, slots=True)
class ReportBroken:
    """A runner of this service answered what is no answer, or sent more than it may: it has to die.

    `pid` is as the kernel told it (SCM_CREDENTIALS), 0 where it could not.
    """

    task_id: str
    pid: int
    detail: str
    expires_at_us: int = 0


Command = (
    AddTask
    | StopTask
    | AddModule
    | DeleteModule
    | WatchTask
    | ReadStats
    | ReadAudit
    | SwitchDefault
    | ReadFunctions
    | ReadMetrics
    | ReportCalls
    | ReportBroken
)


@dataclass(frozen=True, slots=True)
class Done:
    """The command was carried out (and is on disk). `created` is False where nothing new was made.

    AddTask: `task_id` is the new task's, or with `created` False the one that the Idempotency-Key replays.
    ReadStats, ReadAudit: `body` is the JSON document.
    """

    created: bool = True
    task_id: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """The command was not carried out. `code` is one of the contract's codes, `detail` says what would be right."""

    code: str
    detail: str
    field: str | None = None


Reply = Done | Refused
