"""What waits for the disk: every commit under way, and who is answered when it is there.

A task has at most one update under way. What happens to it meanwhile is merged into the next one, and an update that
the disk refused (it is full) goes back into that merge and is offered again: the task goes on, nothing of its story is
lost, and rows are written in the order of what happened. An insertion that was refused is its client's to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.changes import Change, Note, Result, UpdateTask, WriteFailed
from worker.core.clock import Now
from worker.core.commands import Refused, Reply
from worker.core.effects import Commit, Effect, Origin
from worker.core.task import State, Task
from worker.core.timers import Timer, Timers

RETRY_US = 1_000_000
# Awake is all that these want to be: `flush` sees what is to be done.
RETRY = Timer("recommit", "")
LAZY = Timer("lazy", "")

Answers = tuple[tuple[Origin, Reply], ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A change that is on disk or was refused for good (`result` says which), and the answers that wait for it."""

    change: Change
    result: Result
    answers: Answers


def refusal(result: Result) -> Refused:
    """What a client is told of a change that the disk refused."""
    assert isinstance(result, WriteFailed)
    return Refused(result.code, result.detail)


@dataclass(slots=True)
class _Record:
    """A task as it is to be written: its newest status, and the notes and answers that no commit under way carries."""

    task: Task
    notes: tuple[Note, ...] = ()
    answers: Answers = ()
    spec_changed: bool = False
    default: bool = False
    under_way: _UnderWay | None = None
    changed_at_us: int = 0


@dataclass(slots=True)
class _UnderWay:
    change: Change
    answers: Answers = ()
    record: _Record | None = None


class Ledger:
    """The commits under way and the updates that wait for their turn.

    Args:
        lazy_us: how long a change may wait that nobody waits for, neither an end nor an order. A short job's whole
            story is then one commit instead of three; what is shown is late by that much.
    """

    def __init__(self, timers: Timers, effects: list[Effect], lazy_us: int = 0) -> None:
        self._lazy_us = lazy_us
        self._timers = timers
        self._effects = effects
        self._next_ticket = 1
        self._under_way: dict[int, _UnderWay] = {}
        self._records: dict[str, _Record] = {}
        self._dirty: dict[str, _Record] = {}
        self._refused_until_us = 0

    def __len__(self) -> int:
        """How many changes aren't on disk yet."""
        return len(self._under_way) + len(self._dirty)

    def holds_end_of(self, task_id: str) -> bool:
        """Whether the task is final here and its final row isn't on disk yet."""
        record = self._records.get(task_id)
        return record is not None and record.task.final

    def unsettled(self) -> set[str]:
        """Tasks of which the disk doesn't have the last word."""
        return set(self._records)

    def changes(self) -> list[Change]:
        """Those that are under way."""
        return [entry.change for entry in self._under_way.values()]

    def write(self, change: Change, answers: Answers = ()) -> None:
        """Commit `change`, then give the answers."""
        self._commit(_UnderWay(change, answers))

    def update(self, task: Task, notes: tuple[Note, ...], spec_changed: bool = False, default: bool = False) -> None:
        """The task has this status now, and these notes are new in its story.

        `default`: the row that says that it runs makes its revision the default; where it is stopped first, none does.
        """
        record = self._records.setdefault(task.id, _Record(task))
        record.task = task
        record.notes += notes
        record.spec_changed |= spec_changed
        record.default |= default
        self._dirty[task.id] = record

    def attach(self, task_id: str, answers: Answers) -> bool:
        """Give the answers once all that is known of the task is on disk; False where it is there already."""
        record = self._records.get(task_id)
        if record is None:
            return False
        carrier = record.under_way if record.under_way is not None and task_id not in self._dirty else record
        carrier.answers += answers
        return True

    def flush(self, now: Now) -> None:
        """Commit every changed task whose last update isn't under way still."""
        if now.monotonic_us < self._refused_until_us:
            return
        for task_id, record in list(self._dirty.items()):
            if record.under_way is not None or self._can_wait(record, now):
                continue
            task = record.task
            status = task.status
            change = UpdateTask(
                task,
                record.notes,
                fsync_output=task.final and status.started_at_us is not None,
                spec_changed=record.spec_changed,
                default=record.default and status.state is State.RUNNING and not status.stopping,
            )
            record.under_way = _UnderWay(change, record.answers, record)
            record.notes, record.answers, record.spec_changed, record.changed_at_us = (), (), False, 0
            record.default = False
            self._commit(record.under_way)
            del self._dirty[task_id]

    def settle(self, ticket: int, result: Result, now: Now) -> Settled | None:
        """The disk's answer to one commit; None where it will be tried again."""
        entry = self._under_way.pop(ticket)
        record = entry.record
        if record is None or not isinstance(entry.change, UpdateTask):
            return Settled(entry.change, result, entry.answers)
        record.under_way = None
        if isinstance(result, WriteFailed):
            record.notes = entry.change.notes + record.notes
            record.answers = entry.answers + record.answers
            record.spec_changed |= entry.change.spec_changed
            record.default |= entry.change.default
            self._dirty[record.task.id] = record
            self._refused_until_us = now.monotonic_us + RETRY_US
            self._timers.set(RETRY, self._refused_until_us)
            return None
        if record.task.id not in self._dirty:
            del self._records[record.task.id]
        return Settled(entry.change, result, entry.answers)

    def _can_wait(self, record: _Record, now: Now) -> bool:
        status = record.task.status
        if not self._lazy_us or record.task.final or record.answers or status.stopping:
            return False
        if record.task.spec.service is not None:  # callers wait for it
            return False
        record.changed_at_us = record.changed_at_us or now.monotonic_us
        due_us = record.changed_at_us + self._lazy_us
        if now.monotonic_us >= due_us:
            return False
        self._timers.set_earlier(LAZY, due_us)
        return True

    def _commit(self, entry: _UnderWay) -> None:
        self._under_way[self._next_ticket] = entry
        self._effects.append(Commit(self._next_ticket, entry.change))
        self._next_ticket += 1
