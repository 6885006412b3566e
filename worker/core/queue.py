"""The tasks that have their artifact and wait for a slot: highest priority first, then first come first served."""

from __future__ import annotations

import heapq


class ReadyQueue:
    """A heap with lazy removal: a stopped task's entry is passed over when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._waiting: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, task_id: str, priority: int, order: int) -> None:
        """`priority` 0 to 9, 9 first; `order` is the task's place in the line of its priority."""
        self._waiting[task_id] = (-priority, order)
        heapq.heappush(self._heap, (-priority, order, task_id))
        if len(self._heap) > 64 + 4 * len(self._waiting):  # tasks stopped behind a head that can't move
            self._heap = [(*place, waiting) for waiting, place in self._waiting.items()]
            heapq.heapify(self._heap)

    def remove(self, task_id: str) -> None:
        self._waiting.pop(task_id, None)

    def peek(self) -> str | None:
        """The task whose turn it is, None when nobody waits."""
        while self._heap:
            priority, order, task_id = self._heap[0]
            if self._waiting.get(task_id) == (priority, order):
                return task_id
            heapq.heappop(self._heap)
        return None
