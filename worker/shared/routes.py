"""Revisions of functions as the table has them: what calls are routed by."""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Route:
    """A service that isn't final.

    `routed`: calls may go there: it was running once, also if its runners are gone for now, and isn't being stopped.
    `trouble`: why its runners can't start, for as long as they back off.
    """

    function: str
    revision: str
    task_id: str
    routed: bool
    trouble: str | None
    spec: TaskSpec
