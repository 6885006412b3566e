"""The commit thread: the only place of the coordinator that waits for a disk.

    loop --submit--> [waiting] --everything that waits, one transaction--> TableWriter --results, eventfd--> loop
                                                                               `--announce--> page

While one batch is being written, what comes meanwhile gathers to be the next: under load a transaction carries many
changes, and alone a change waits for nobody.

It passes the points `commit.…` of `worker.shared.faults`: a test may kill the process there, sleep (a slow disk) or,
where a batch isn't written yet, raise (a disk that refuses).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress

from worker.core.changes import Change, Result, WriteFailed
from worker.shared.faults import Fault, no_fault
from worker.shared.table import TableWriter

# Longest batch: some 20 ms of work, so that a flood doesn't keep the first of it waiting.
MAX_BATCH = 256


class CommitThread:
    """Writes changes in the order of their submission. All methods are the loop's, and none of them waits but `close`.

    Args:
        writer: Used by the thread alone from now on; `close` closes it.
        announce: Called in the thread as soon as a batch is on disk, before anybody hears of it: with the number of the
            newest event, and whether routes have changed.
        max_batch: Changes in one transaction.
        fault: Called in the thread, at each point.
    """

    def __init__(
        self,
        writer: TableWriter,
        announce: Callable[[int, bool], None] = lambda event_seq, routes_changed: None,
        *,
        max_batch: int = MAX_BATCH,
        fault: Fault = no_fault,
    ) -> None:
        self._writer = writer
        self._announce = announce
        self._max_batch = max_batch
        self._fault = fault
        self._condition = threading.Condition()
        self._waiting: deque[tuple[Change, Hashable]] = deque()
        self._results: deque[tuple[Hashable, Result]] = deque()
        self._closing = False
        self._unanswered = 0
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable while `results` has something."""
        return self._event_fd

    def __len__(self) -> int:
        """How many changes were submitted and aren't among the results yet."""
        return self._unanswered

    def submit(self, changes: Sequence[Change], token: Hashable) -> None:
        """Have `changes` written, in order. `results` gives `token` back with each of them."""
        with self._condition:
            assert not self._closing, "nothing is submitted after close"
            self._waiting.extend((change, token) for change in changes)
            self._unanswered += len(changes)
            self._condition.notify()

    def results(self) -> list[tuple[Hashable, Result]]:
        """What was written, or refused, since the last call: (token, result) for each change, in submission order."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        results = []
        while self._results:
            results.append(self._results.popleft())
        self._unanswered -= len(results)
        return results

    def close(self) -> list[tuple[Hashable, Result]]:
        """Write what waits, end the thread and close the table: the last results."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        results = self.results()
        os.close(self._event_fd)
        self._writer.close()
        return results

    def _run(self) -> None:
        while batch := self._take():
            route_changes = self._writer.route_changes
            results = self._apply([change for change, _ in batch])
            routes_changed = self._writer.route_changes != route_changes
            self._fault("commit.announcing")
            self._announce(self._writer.event_seq, routes_changed)
            if routes_changed:
                self._fault("commit.routed")
            self._fault("commit.acknowledging")
            self._results.extend((token, result) for (_, token), result in zip(batch, results, strict=True))
            os.eventfd_write(self._event_fd, 1)
            self._fault("commit.acknowledged")

    def _take(self) -> list[tuple[Change, Hashable]]:
        """The next batch; empty at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._closing)
            size = min(len(self._waiting), self._max_batch)
            return [self._waiting.popleft() for _ in range(size)]

    def _apply(self, changes: list[Change]) -> Sequence[Result]:
        try:
            self._fault("commit.taken")
            return self._writer.apply(changes)
        except Exception as exc:  # noqa: BLE001 - a dead thread would leave every client waiting; each is told instead
            return [WriteFailed("internal", f"{type(exc).__name__}: {exc}"[:1000])] * len(changes)
