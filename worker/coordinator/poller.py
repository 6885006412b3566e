"""Which file descriptors the loop listens to, and who is called when one is ready. Epoll, and nothing beside it."""

from __future__ import annotations

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Poller:
    """A table of fd -> callback over one epoll. A callback takes the event mask."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}

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

    def poll(self, timeout_s: float | None) -> None:
        """Wait, then call whoever is ready, but for those that an earlier call of the same round has removed."""
        for fd, events in self._epoll.poll(-1 if timeout_s is None else timeout_s):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)

    def hears(self, fd: int) -> bool:
        """Whether somebody is called when this is ready."""
        return fd in self._callbacks

    def fds(self) -> dict[int, str]:
        """Its own descriptors, and what they are."""
        return {self._epoll.fileno(): "the loop's epoll"}

    def close(self) -> None:
        self._epoll.close()
