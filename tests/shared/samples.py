"""Tasks and changes for the tests of the shared seams."""

from __future__ import annotations

from worker.core.changes import InsertTask, Note
from worker.core.task import Kind, State, Status, Task, TaskSpec


def task_id(number: int) -> str:
    """A task id that sorts like its number."""
    return f"{number:08x}-0000-7000-8000-{number:012x}"


def make_task(number: int = 1, **fields: object) -> Task:
    """A task; `created_at_us`, `token`, `status` are its own, everything else is its spec's."""
    own = {name: fields.pop(name) for name in ("created_at_us", "token", "status") if name in fields}
    spec = {"kind": Kind.JOB, "name": f"job-{number}", "digest": None, **fields}
    defaults = {"created_at_us": 1_000_000 + number, "token": "", "status": Status()}
    return Task(id=task_id(number), spec=TaskSpec(**spec), **{**defaults, **own})


def note(state: State = State.PENDING, at_us: int = 1, event: str = "accepted") -> Note:
    return Note(at_us, event, state)


def insert(number: int = 1, **fields: object) -> InsertTask:
    return InsertTask(make_task(number, **fields), note())
