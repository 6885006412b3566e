"""What the commit thread writes: one dataclass a kind of change, applied in order, many to a transaction."""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.commands import Idempotency
from worker.core.module import Module
from worker.core.task import Task


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a task's story: when (microseconds since the epoch), what (past tense), state and reason after it."""

    at_us: int
    event: str
    state: str
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class InsertTask:
    """A new task with its first note; `stdin_name` as in AddTask. A taken Idempotency-Key makes it a Replay."""

    task: Task
    note: Note
    stdin_name: str = ""
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class UpdateTask:
    """A task's new status, with the notes of every transition since the last one, oldest first."""

    task: Task
    notes: tuple[Note, ...]
    fsync_output: bool = False  # its stdout and stderr are complete: they reach the disk before the row does
    spec_changed: bool = False  # a fetch by URL has named the module: the spec is written again too
    default: bool = False  # it runs for the first time and asked for it: its function's default is this revision now


@dataclass(frozen=True, slots=True)
class InsertModule:
    """`token` is charged for the module's bytes; who uploads a known module again is not."""

    module: Module
    blob_name: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class DropModule:
    digest: str


@dataclass(frozen=True, slots=True)
class SetDefault:
    """The function's default revision is this one now, or none; `generation` is the one that this makes."""

    function: str
    revision: str | None
    generation: int


@dataclass(frozen=True, slots=True)
class SetTrouble:
    """Why a revision's runners can't start, for as long as they back off; None: they can."""

    task_id: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class ExpireTasks:
    """Remove ended tasks, the oldest end first, up to `limit` of them: those that ended before `before_us`, and as many
    as it takes to keep `keep_tasks` and `keep_output_bytes` of their output. Answered by Expired."""

    before_us: int
    now_us: int
    keep_tasks: int
    keep_output_bytes: int
    keep_module_bytes: int
    limit: int


Change = InsertTask | UpdateTask | InsertModule | DropModule | SetDefault | SetTrouble | ExpireTasks


@dataclass(frozen=True, slots=True)
class Applied:
    """The change is on disk. `created` is False where the module was known already."""

    created: bool = True


@dataclass(frozen=True, slots=True)
class Expired(Applied):
    """The rows of `task_ids` are gone, and their files aren't wanted any more; `more`: the limit cut it short.

    `excess_module_bytes` is what modules take too much; if that is more than 0, `modules` are all of them, least used
    first: (digest, bytes, last use).
    """

    task_ids: tuple[str, ...] = ()
    more: bool = False
    excess_module_bytes: int = 0
    modules: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """InsertTask found its Idempotency-Key taken: by `task_id`, with the same body or not. Nothing was inserted."""

    task_id: str
    same_body: bool


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """The disk refused: `code` is `storage_full` or `internal`. Nothing of the change is in the table."""

    code: str
    detail: str


Result = Applied | Replay | WriteFailed
