"""Tasks and changes for the tests of the shared seams."""

from __future__ import annotations

from dataclasses import replace

from worker.core.changes import InsertTask, Note, UpdateTask
from worker.core.task import Handler, Kind, Service, State, Status, Task, TaskSpec


def task_id(number: int) -> str:
    """A task id that sorts like its number."""
    return f"{number:08x}-0000-7000-8000-{number:012x}"


def make_task(number: int = 1, **fields: object) -> Task:
    """A task; `created_at_us`, `token`, `status` are its own, everything else is its spec's."""
    own = {name: fields.pop(name) for name in ("created_at_us", "token", "status") if name in fields}
    spec = {"kind": Kind.JOB, "name": f"job-{number}", "digest": None, **fields}
    defaults = {"created_at_us": 1_000_000 + number, "token": "", "status": Status()}
    return Task(id=task_id(number), spec=TaskSpec(**spec), **{**defaults, **own})


def make_service(number: int = 1, function: str = "f", revision: str = "r1", **fields: object) -> Task:
    """A task that is `function`'s `revision`."""
    service = Service(function, revision, Handler("wagi"))
    return make_task(number, **{"kind": Kind.SERVICE, "service": service, **fields})


def note(state: State = State.PENDING, at_us: int = 1, event: str = "accepted") -> Note:
    return Note(at_us, event, state)


def insert(number: int = 1, **fields: object) -> InsertTask:
    return InsertTask(make_task(number, **fields), note())


def deploy(number: int = 1, function: str = "f", revision: str = "r1", **fields: object) -> InsertTask:
    return InsertTask(make_service(number, function, revision, **fields), note())


def update(task: Task, state: State, **status: object) -> UpdateTask:
    """The task is in `state` now."""
    changed = replace(task, status=Status(state=state, **status))
    return UpdateTask(changed, (note(state, 2, "changed"),))
