"""Who waits for which task's end, and until when."""

from __future__ import annotations

from collections.abc import Callable

from worker.core.effects import Origin
from worker.core.timers import Timer, Timers


class Watches:
    """A watch ends once: when the task has, when its time is up, or when whoever asked is gone."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._by_task: dict[str, set[Timer]] = {}
        self._origins: dict[Timer, tuple[str, Origin]] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._origins)

    def begin(self, task_id: str, origin: Origin, until_us: int) -> None:
        """`origin` waits for the task's end, to `until_us` (CLOCK_MONOTONIC) at most."""
        timer = Timer("watch", self._next)
        self._next += 1
        self._by_task.setdefault(task_id, set()).add(timer)
        self._origins[timer] = (task_id, origin)
        self._timers.set(timer, until_us)

    def end(self, timer: Timer) -> tuple[str, Origin]:
        """The watch is over: which task it was of, and whose."""
        task_id, origin = self._origins.pop(timer)
        self._timers.cancel(timer)
        watchers = self._by_task[task_id]
        watchers.discard(timer)
        if not watchers:
            del self._by_task[task_id]
        return task_id, origin

    def end_all(self, task_id: str) -> list[Origin]:
        """The task has ended: who waited for it, in the order in which they came."""
        return [self.end(timer)[1] for timer in sorted(self._by_task.get(task_id, ()))]

    def forget(self, gone: Callable[[Origin], bool]) -> None:
        """Those who asked are gone."""
        for timer, (_, origin) in list(self._origins.items()):
            if gone(origin):
                self.end(timer)
