"""A task that isn't final yet, with what its record doesn't keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.core.changes import Note
from worker.core.task import Task
from worker.core.verdict import Report


@dataclass(slots=True)
class Live:
    """Points in time are monotonic microseconds; `order` is that of arrival."""

    task: Task
    order: int
    queued_at_us: int
    runner_id: int | None = None
    scheduled_at_us: int = 0
    started_at_us: int | None = None
    report: Report | None = None
    bye: bool = False
    notes: list[Note] = field(default_factory=list)
    spec_changed: bool = False
    default: bool = False  # the row that says that it runs makes its revision its function's default
