"""A model of the task table: what is on disk, and that nothing is ever written there that may not be."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from worker.core.changes import (
    Applied,
    Change,
    DropModule,
    InsertModule,
    InsertTask,
    Note,
    Replay,
    Result,
    SetDefault,
    SetTrouble,
    UpdateTask,
    WriteFailed,
)
from worker.core.functions import FunctionRow
from worker.core.lifecycle import ENDS_WITH, end_state, transitions
from worker.core.task import FINAL, Reason, Service, State, Task

FULL = WriteFailed("storage_full", "no room")


@dataclass
class Row:
    """A task's newest row and its whole story."""

    task: Task
    story: list[Note] = field(default_factory=list)


class Table:
    """Rows survive a crash of the node; nothing else does."""

    def __init__(self, modules: set[str]) -> None:
        self.rows: dict[str, Row] = {}
        self.modules = set(modules)
        self.files = set(modules)  # digests of which the bytes are there
        self.functions: dict[str, FunctionRow] = {}
        self.troubles: dict[str, str] = {}  # by the id of the task
        self.ran: set[str] = set()  # the services that were ever routed
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}

    def apply(self, change: Change, full: bool) -> Result:
        """What the commit thread would answer."""
        if full and not isinstance(change, DropModule):
            return FULL
        match change:
            case InsertTask():
                return self._insert(change)
            case UpdateTask():
                self._update(change)
            case InsertModule(module):
                known = module.digest in self.modules
                self.modules.add(module.digest)
                self.files.add(module.digest)
                return Applied(created=not known)
            case DropModule(digest):
                self.modules.discard(digest)
            case SetDefault():
                self._set_default(change)
            case SetTrouble(task_id, detail):
                self.troubles.pop(task_id, None)
                if detail is not None and not self.rows[task_id].task.final:
                    self.troubles[task_id] = detail
        return Applied()

    def unfinished(self) -> list[Task]:
        """What a new node is given: oldest first."""
        return [row.task for row in self.rows.values() if not row.task.final]

    def functions_in_order(self) -> list[FunctionRow]:
        return [self.functions[name] for name in sorted(self.functions)]

    def holder(self, function: str, revision: str | None) -> Task | None:
        """The task that keeps the revision alive."""
        for row in self.rows.values():
            service = row.task.spec.service
            if service and not row.task.final and (service.function, service.revision) == (function, revision):
                return row.task
        return None

    def _set_default(self, change: SetDefault) -> None:
        row = self.functions[change.function]
        assert (row.generation + 1, True) == (change.generation, change.revision != row.default)
        if change.revision is not None:
            holder = self.holder(change.function, change.revision)
            assert holder is not None, "a default that isn't alive"
            assert (State.RUNNING, False) == (holder.status.state, holder.status.stopping), (
                "a default that isn't routed"
            )
        self.functions[change.function] = FunctionRow(change.function, change.revision, change.generation)

    def _insert(self, change: InsertTask) -> Result:
        task, idempotency = change.task, change.idempotency
        if idempotency is not None:
            taken = self._keys.get((task.token, idempotency.key))
            if taken is not None:
                return Replay(taken[0], taken[1] == idempotency.body_sha256)
            self._keys[task.token, idempotency.key] = (task.id, idempotency.body_sha256)
        assert task.id not in self.rows, f"{task.id} was inserted twice"
        assert (State.PENDING, "accepted") == (task.status.state, change.note.event)
        if (service := task.spec.service) is not None:
            assert self.holder(service.function, service.revision) is None, "one revision twice"
            self.functions.setdefault(service.function, FunctionRow(service.function))
        self.rows[task.id] = Row(task, [change.note])
        return Applied()

    def _update(self, change: UpdateTask) -> None:
        row, task = self.rows[change.task.id], change.task
        assert not row.task.final, f"{change.task.id} is {row.task.status.state} and changes again"
        assert change.notes, f"{change.task.id} changed without a word"
        for note in change.notes:
            _check_step(row.story[-1], note)
            row.story.append(note)
        status = change.task.status
        assert (row.story[-1].state, row.story[-1].reason) == (status.state, status.reason)
        assert status.attempts == 1 + sum(note.event == "recovered" for note in row.story)
        runs_itself = status.state is State.RUNNING and task.spec.service is None
        assert (status.runner is not None) == runs_itself
        assert not (status.stopping and status.state is not State.RUNNING)
        if status.state is State.COMPLETED and status.reason is Reason.STOPPED:
            assert "stop_requested" in {note.event for note in row.story}, "stopped, and nobody asked for it"
        figures = [figure for figure in astuple(status.usage) if figure is not None]
        assert all(0 <= figure < 2**63 for figure in figures), "a figure that no table can hold"
        row.task = task
        if task.spec.service is not None:
            self._route(change, task.spec.service)
        if task.final:
            self.troubles.pop(task.id, None)

    def _route(self, change: UpdateTask, service: Service) -> None:
        """A service's first row as running makes it the default, if it asked for that; no other row does."""
        status = change.task.status
        routed = status.state is State.RUNNING and not status.stopping
        first = routed and change.task.id not in self.ran
        assert change.default == (first and service.default), f"{change.task.id}: default {change.default}"
        if routed:
            self.ran.add(change.task.id)
        row = self.functions[service.function]
        if change.default and row.default != service.revision:
            self.functions[row.name] = FunctionRow(row.name, service.revision, row.generation + 1)


def _check_step(before: Note, note: Note) -> None:
    """One line of a story may follow another by the lifecycle's tables alone."""
    state, after = State(before.state), State(note.state)
    assert state not in FINAL, f"{note.event} after the end"
    assert state is after or after in transitions()[state], f"{state} -> {after}"
    assert (after is State.PENDING) == (note.event in ("recovered", "module_fetched", "accepted"))
    assert (note.reason is not None) == (after in FINAL)
    if note.reason is not None:
        reason = Reason(note.reason)
        assert reason in ENDS_WITH[state], f"{state} ended with {reason}"
        assert end_state(state, reason) is after
