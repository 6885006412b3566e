"""Which file descriptors the loop listens to, and who is called when one is ready or some time is over: one epoll."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Poller:
    """A table of fd -> callback over one epoll. A callback takes the event mask."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Before the fd is closed; one that isn't here is no error, since two ends of a story may both close it."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have `action` called once so much time is over. It can't be called off: it looks whether it is wanted yet."""
        heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._order), action))

    def poll(self, timeout_s: float | None) -> None:
        """Wait, then call whoever is ready, but for those that an earlier call of the same round has removed."""
        if self._later:
            due_s = max(0.0, self._later[0][0] - time.monotonic())
            timeout_s = due_s if timeout_s is None else min(timeout_s, due_s)
        for fd, events in self._epoll.poll(-1 if timeout_s is None else timeout_s):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
        now_s = time.monotonic()
        while self._later and self._later[0][0] <= now_s:
            heapq.heappop(self._later)[2]()

    def hears(self, fd: int) -> bool:
        """Whether somebody is called when this is ready."""
        return fd in self._callbacks

    def fds(self) -> dict[int, str]:
        """Its own descriptors, and what they are."""
        return {self._epoll.fileno(): "the loop's epoll"}

    def close(self) -> None:
        self._epoll.close()
