"""Points in monotonic time at which the core wants to be called again."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple


class Timer(NamedTuple):
    """What a timer is for: `kind` names the handler, `subject` the task or runner."""

    kind: str
    subject: str | int


class Timers:
    """One due time a timer; setting it again moves it. Cancelled entries are dropped when their time comes."""

    def __init__(self) -> None:
        self._due: dict[Timer, int] = {}
        self._heap: list[tuple[int, str, str, Timer]] = []

    def set(self, timer: Timer, due_us: int) -> None:
        self._due[timer] = due_us
        heapq.heappush(self._heap, (due_us, timer.kind, str(timer.subject), timer))
        if len(self._heap) > 64 + 4 * len(self._due):  # a cancelled timer far ahead must not hold its place for ever
            self._heap = [(due, t.kind, str(t.subject), t) for t, due in self._due.items()]
            heapq.heapify(self._heap)

    def set_earlier(self, timer: Timer, due_us: int) -> None:
        """Set it, unless it is due before that anyway."""
        if due_us < self._due.get(timer, due_us + 1):
            self.set(timer, due_us)

    def cancel(self, timer: Timer) -> None:
        self._due.pop(timer, None)

    def __iter__(self) -> Iterator[Timer]:
        return iter(self._due)

    def next_due_us(self) -> int | None:
        """When the earliest timer is due, None without one."""
        while self._heap and self._due.get(self._heap[0][3]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, monotonic_us: int) -> Iterator[Timer]:
        """The timers whose time has come, earliest first. One at a time: what a handler cancels doesn't come."""
        while (at := self.next_due_us()) is not None and at <= monotonic_us:
            timer = heapq.heappop(self._heap)[3]
            del self._due[timer]
            yield timer
