"""What the coordinator tells in `/functions`, `/stats` and `/metrics`: its core's view, and the figures of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from runner.probe import Finding
from worker.coordinator.call_figures import Figures
from worker.coordinator.metrics import Reading, RevisionReading
from worker.coordinator.stats import Load, RunningTask, Stats
from worker.coordinator.zygote import Zygote
from worker.core.node import Node
from worker.core.pool import RunnerState
from worker.core.revision import View
from worker.core.task import FINAL, State
from worker.shared.table import TableReader

# A reply to an API worker has 256 KiB at most; it asks for as many functions as will fit, and this is in case it erred.
MOST_BYTES = 224 * 1024
# In /stats, which is one reply: the rest is in /functions, page by page.
MOST_FUNCTIONS = 500


def document_of(view: View, figures: Figures) -> dict[str, Any]:
    """One revision as `/functions` shows it."""
    return {
        "task_id": view.task_id,
        "runners": runners_of(view),
        "queued": view.queued,
        "cold_starts": view.cold_starts,
        "broken": view.broken,
        "trouble": view.trouble,
        **figures.of(view.task_id).document(),
    }


def runners_of(view: View) -> dict[str, int]:
    return {"idle": view.idle, "busy": view.busy, "starting": view.starting}


class Reports:
    """Reads what is there when it is asked; keeps nothing."""

    def __init__(
        self,
        node: Node,
        reader: TableReader,
        figures: Figures,
        stats: Stats,
        zygote: Zygote,
        seal: Callable[[], Mapping[str, Finding]],
    ) -> None:
        self._node = node
        self._reader = reader
        self._figures = figures
        self._stats = stats
        self._zygote = zygote
        self._seal = seal

    def load(self) -> Load:
        """What is told of the tasks: ends from the table, the rest as the core has it now."""
        node = self._node
        counts = {state.value: number for state, number in self._reader.counts().items() if state in FINAL}
        counts |= {state.value: 0 for state in State if state not in FINAL}
        running = []
        for live in node.tasks.live.values():
            counts[live.task.status.state.value] += 1
            runner = live.task.status.runner
            if runner is not None and runner.pid:
                running.append(RunningTask(live.task.id, runner.pid, live.task.spec.limits.memory_bytes))
        for server in node.pool.runners.values():
            if server.state is RunnerState.SERVING and server.task_id in node.tasks.live:
                limits = node.tasks.live[server.task_id].task.spec.limits
                running.append(RunningTask(server.task_id, server.pid, limits.memory_bytes))
        return Load(counts, len(node.jobs.queue), node.pool.slots, node.pool.free, tuple(running))

    def functions(self, names: Iterable[str]) -> bytes:
        """`{function: {revision: {...}}}` of those that have revisions alive."""
        found: dict[str, dict[str, orjson.Fragment]] = {}
        left = MOST_BYTES
        for view in self._node.services.views(frozenset(names)):
            told = orjson.dumps(document_of(view, self._figures))
            left -= len(told) + len(view.function) + len(view.revision) + 10
            if left < 0:
                break
            found.setdefault(view.function, {})[view.revision] = orjson.Fragment(told)
        return orjson.dumps(found)

    def stats(self) -> bytes:
        """The body of `/stats`."""
        views = self._node.services.views()
        totals = {"calls": 0, "errors": 0, "waiting": self._node.services.waiting_calls, "cold_starts": 0}
        functions: dict[str, dict[str, int]] = {}
        for view in views:
            figures = self._figures.of(view.task_id)
            totals["calls"] += figures.calls
            totals["errors"] += figures.failed
            totals["cold_starts"] += view.cold_starts
            if view.function not in functions and len(functions) == MOST_FUNCTIONS:
                continue
            of = functions.setdefault(
                view.function, {"revisions": 0, "runners": 0, "queued": 0, "calls": 0, "errors": 0}
            )
            of["revisions"] += 1
            of["runners"] += view.idle + view.busy + view.starting
            of["queued"] += view.queued
            of["calls"] += figures.calls
            of["errors"] += figures.failed
        return self._stats.document(self.load(), {"calls": totals, "functions": functions})

    def reading(self) -> Reading:
        """Everything for `/metrics`, at one moment."""
        load, pool = self.load(), self._node.pool
        states = Counter(runner.state for runner in pool.runners.values())
        runners = {state.value: states[state] for state in RunnerState} | {"free": pool.free}
        used_bytes = pool.memory_bytes - pool.free_memory_bytes
        return Reading(
            version=self._stats.version,
            uptime_s=self._stats.uptime_s,
            tasks=load.by_state,
            queued_tasks=load.queue_length,
            runners=runners,
            memory_bytes={"used": used_bytes, "total": pool.memory_bytes},
            layers={name: finding.ok for name, finding in self._seal().items()},
            zygote_restarts=max(0, self._zygote.restarts),
            revisions=tuple(self._revision(view) for view in self._node.services.views()),
        )

    def _revision(self, view: View) -> RevisionReading:
        return RevisionReading(
            view.function,
            view.revision,
            runners_of(view),
            view.queued,
            view.cold_starts,
            self._figures.of(view.task_id).copy(),
        )
