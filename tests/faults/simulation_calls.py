"""The listeners, and the calls that wait on them: what the kernel would do, and that nothing is asked of it twice."""

from __future__ import annotations

from typing import Any

from worker.core.effects import (
    CloseListener,
    Effect,
    OpenListener,
    RetireServer,
    SampleCalls,
    ShutListener,
    WatchCalls,
)

CALL, RETIRE = "call", "retire"


class Calls:
    """Each listener's queue, by the id of its service. `runners` is the world's."""

    def __init__(self, runners: dict[int, Any]) -> None:
        self.queues: dict[str, list[str]] = {}
        self.shut: set[str] = set()
        self.watched: set[str] = set()
        self._runners = runners

    def clear(self) -> None:
        """The coordinator died: nobody listens."""
        self.queues.clear()
        self.shut.clear()
        self.watched.clear()

    @property
    def open(self) -> list[str]:
        """Whose calls are taken."""
        return [task_id for task_id in self.queues if task_id not in self.shut]

    @property
    def untold(self) -> list[str]:
        """Who is to be told that calls wait."""
        return [task_id for task_id in self.queues if task_id in self.watched and self.queues[task_id]]

    def perform(self, effect: Effect, sampled: Any, asked: Any) -> bool:
        """Whether the effect is one of these. `sampled` is told what SampleCalls asks for, `asked` who is to end."""
        match effect:
            case OpenListener(task):
                assert task.id not in self.queues, "a listener where there is one"
                self.queues[task.id] = []
            case ShutListener(task_id):
                assert task_id in self.open
                self.shut.add(task_id)
                self.watched.discard(task_id)
            case CloseListener(task_id):
                del self.queues[task_id]
                self.shut.discard(task_id)
                self.watched.discard(task_id)
            case WatchCalls(task_id):
                assert task_id in self.open
                assert task_id not in self.watched, "a watch where there is one"
                self.watched.add(task_id)
            case RetireServer(task_id):
                assert task_id in self.open
                asked(task_id, self._retire(task_id))
            case SampleCalls(task_ids):
                assert task_ids
                for task_id in task_ids:
                    assert task_id in self.queues
                    self._sample(task_id, sampled)
            case _:
                return False
        return True

    def _retire(self, task_id: str) -> int | None:
        """The id of the runner that is told by its record; None: whoever takes the message first."""
        mine = [runner for runner in self._runners.values() if runner.service == task_id]
        busy = [runner for runner in mine if runner.deadline_us and not runner.told]
        if busy and (self.queues[task_id] or all(runner.deadline_us for runner in mine)):
            busy[0].told = True
            return int(busy[0].id)
        self.queues[task_id].append(RETIRE)
        return None

    def take_unseen(self, runner: Any, deadline_us: int) -> None:
        """A call comes and an idle runner takes it, before anybody is told that it waits."""
        assert not self.queues[runner.service]
        runner.deadline_us = deadline_us

    @property
    def to_look_at(self) -> list[str]:
        """Whose records show that something goes on, or went on."""
        busy = {runner.service for runner in self._runners.values() if runner.deadline_us or runner.calls}
        return [task_id for task_id in self.queues if task_id in busy]

    def _sample(self, task_id: str, sampled: Any) -> None:
        mine = [runner for runner in self._runners.values() if runner.service == task_id]
        busy = {runner.id: runner.deadline_us for runner in mine if runner.deadline_us}
        sampled(task_id, len(self.queues[task_id]), busy, sum(runner.calls for runner in mine))
