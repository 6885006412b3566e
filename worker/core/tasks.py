"""All tasks that are alive, and the part of their way that jobs and services share: module, then artifact.

    enter -> (fetch) -> artifact -> its owner's `prepared`

Whoever owns a kind of task (`Jobs`, `Services`) goes on from there. The tasks that changed are fetched by
`take_changed`.
"""

from __future__ import annotations

from typing import Protocol

from worker.core import lifecycle
from worker.core.changes import Note
from worker.core.clock import Now
from worker.core.effects import Effect
from worker.core.events import Ended, ModuleFetched, Recovered, TaskEvent
from worker.core.live import Live
from worker.core.needs import Needs
from worker.core.pool import Pool
from worker.core.task import Kind, Reason, State, Task


class Owner(Protocol):
    """Who takes a kind of task from its artifact to its end."""

    def prepared(self, live: Live, now: Now) -> None:
        """The task's artifact is at hand."""

    def unprepared(self, live: Live, detail: str, now: Now) -> None:
        """The task's artifact can't be made."""

    def forget(self, live: Live) -> None:
        """The task is final."""


class Tasks:
    """`modules` are the digests that need no fetch, the node's own set."""

    def __init__(self, pool: Pool, effects: list[Effect], modules: set[str]) -> None:
        self.live: dict[str, Live] = {}
        self.needs = Needs(effects, modules)
        self.owners: dict[Kind, Owner] = {}
        self._pool = pool
        self._changed: dict[str, Live] = {}
        self._pending = 0
        self._next_order = 0

    @property
    def waiting(self) -> int:
        """How many tasks wait for a module, an artifact or a slot."""
        return self._pending

    def enter(self, task: Task, now: Now) -> Live:
        """The task is alive from here on."""
        live = Live(task, self._next_order, now.monotonic_us)
        self._next_order += 1
        self.live[task.id] = live
        self._pending += task.status.state is State.PENDING
        return live

    def wait(self, live: Live, now: Now) -> None:
        """A pending task starts its way."""
        task = live.task
        most = self._pool.most_per_runner
        if task.spec.limits.memory_bytes > most:
            detail = f"needs {task.spec.limits.memory_bytes} bytes of memory; a runner may have {most} on this node"
            self.step(live, Ended(Reason.REFUSED, detail=detail), now)
        elif not self.needs.fetch(task):
            self.want_artifact(live, now)

    def go_back(self, live: Live, now: Now) -> None:
        """The worker lost the task's runner: it begins again."""
        self.step(live, Recovered(), now)
        live.runner_id, live.queued_at_us = None, now.monotonic_us

    def fetched(self, task_id: str, event: ModuleFetched, now: Now) -> None:
        """The task's module came by its URL, and is in the table."""
        if not self.needs.fetched(task_id):
            return
        live = self.live[task_id]
        expected = live.task.spec.digest
        if expected is not None and expected != event.digest:
            detail = f"the URL gave {event.digest}, and the task names {expected}"
            self.step(live, Ended(Reason.FETCH_FAILED, detail=detail), now)
            return
        live.spec_changed = True
        self.step(live, event, now)
        self.want_artifact(live, now)

    def refused(self, task_id: str, reason: Reason, detail: str, now: Now) -> None:
        """What the task needs can't be had: it ends before it ran."""
        self.needs.fetched(task_id)
        if (live := self.live.get(task_id)) is not None:
            self.step(live, Ended(reason, detail=detail), now)

    def artifact_ready(self, digest: str, now: Now) -> None:
        self.needs.artifacts.add(digest)
        for task_id in self.needs.prepared(digest):
            live = self.live[task_id]
            self._owner(live).prepared(live, now)

    def artifact_failed(self, digest: str, detail: str, now: Now) -> None:
        for task_id in sorted(self.needs.prepared(digest)):
            live = self.live[task_id]
            self._owner(live).unprepared(live, detail, now)

    def want_artifact(self, live: Live, now: Now) -> None:
        """Have the task's artifact made, where it isn't at hand."""
        if self.needs.prepare(live.task.id, live.task.spec.digest or ""):
            self._owner(live).prepared(live, now)

    def has_artifact(self, live: Live) -> bool:
        return live.task.spec.digest in self.needs.artifacts

    def uses(self, digest: str) -> bool:
        """Whether a live task needs the module."""
        return any(live.task.spec.digest == digest for live in self.live.values())

    def step(self, live: Live, event: TaskEvent, now: Now) -> None:
        """What happened to the task; one that is final by it is forgotten."""
        before = live.task.status.state
        live.task, notes = lifecycle.step(live.task, event, now)
        self._pending += (live.task.status.state is State.PENDING) - (before is State.PENDING)
        live.notes.extend(notes)
        if notes:
            self._changed[live.task.id] = live
        if live.task.final:
            del self.live[live.task.id]
            self.needs.forget(live.task)
            self._owner(live).forget(live)

    def note(self, live: Live, note: Note) -> None:
        """Something for the task's story that changes nothing else of it."""
        live.notes.append(note)
        self._changed[live.task.id] = live

    def take_changed(self) -> list[Live]:
        """The tasks that changed since the last call; their notes are the caller's to take."""
        changed = list(self._changed.values())
        self._changed.clear()
        return changed

    def _owner(self, live: Live) -> Owner:
        return self.owners[live.task.spec.kind]
