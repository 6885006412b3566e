"""Work that blocks on the disk, done on one thread beside the loop; its result comes back into the loop."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from worker.coordinator.poller import READ, Poller


class Background:
    """One thread, first come first served. `submit` never blocks; `then` is called in the loop with what came of it."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Callable[[Any], None], Any]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._under_way = 0
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        poller.add(self._wake, self._on_wake, READ)
        self._thread.start()

    def __len__(self) -> int:
        """How much was submitted and hasn't come back."""
        return self._under_way

    def fds(self) -> dict[int, str]:
        """Its own descriptors, and what they are."""
        return {self._wake: "the background's eventfd"}

    def submit(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """`then` is given what `work` returned, or the OSError that it raised."""
        self._under_way += 1
        self._work.put((work, then))

    def close(self) -> None:
        """Finish what was submitted, tell nobody, and end the thread."""
        self._work.put(None)
        self._thread.join()
        self._poller.remove(self._wake)
        os.close(self._wake)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, then = item
            try:
                result = work()
            except OSError as error:
                result = error
            self._done.put((then, result))
            os.eventfd_write(self._wake, 1)

    def _on_wake(self, _: int) -> None:
        os.eventfd_read(self._wake)
        while True:
            try:
                then, result = self._done.get_nowait()
            except queue.Empty:
                return
            self._under_way -= 1
            then(result)
