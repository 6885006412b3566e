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


Command = AddTask | StopTask | AddModule | DeleteModule | WatchTask | ReadStats


@dataclass(frozen=True, slots=True)
class Done:
    """The command was carried out (and is on disk). `created` is False where nothing new was made.

    AddTask: `task_id` is the new task's, or with `created` False the one that the Idempotency-Key replays.
    ReadStats: `body` is the JSON document.
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
