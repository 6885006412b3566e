"""What the changes of one transaction of the task table have in common; rows of their own are written as they come."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from worker.core.changes import Note

_INSERT_LABEL = "INSERT INTO labels (key, value, created_us, id, serial) VALUES (?, ?, ?, ?, ?)"
_INSERT_EVENT = "INSERT INTO events (seq, serial, at_us, event, state, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?)"
_COUNT = """INSERT INTO counters (state, kind, tasks) VALUES (?, ?, ?)
    ON CONFLICT (state, kind) DO UPDATE SET tasks = tasks + excluded.tasks"""
_CHARGE = """INSERT INTO tokens (token, open_tasks, stored_bytes) VALUES (?, ?, ?)
    ON CONFLICT (token) DO UPDATE SET
        open_tasks = open_tasks + excluded.open_tasks, stored_bytes = stored_bytes + excluded.stored_bytes"""


class Batch:
    """What one transaction has gathered: rows that go in together, and what to do with files around its COMMIT."""

    def __init__(self, event_seq: int) -> None:
        self.event_seq = event_seq
        self.route_changes = 0
        self.output_bytes = 0  # of ended tasks: how much more (or less) the table has of it by this transaction
        self.module_bytes = 0
        self.events: list[tuple[object, ...]] = []
        self.labels: list[tuple[object, ...]] = []
        self.directories: set[Path] = set()  # to be synced before the COMMIT
        self.unwanted: set[Path] = set()  # to be unlinked after it
        self.cut: set[str] = set()  # tasks whose output was looked at, and cut where it was too long
        self._counts: Counter[tuple[str, str]] = Counter()
        self._open: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def note(self, serial: int, notes: Sequence[Note]) -> None:
        for note in notes:
            self.event_seq += 1
            self.events.append((self.event_seq, serial, note.at_us, note.event, note.state, note.reason, note.detail))

    def count(self, state: str, kind: str, tasks: int) -> None:
        self._counts[state, kind] += tasks

    def charge(self, token: str, open_tasks: int, stored_bytes: int) -> None:
        self._open[token] += open_tasks
        self._bytes[token] += stored_bytes

    def write(self, connection: sqlite3.Connection) -> None:
        """What was gathered since the last time."""
        connection.executemany(_INSERT_EVENT, self.events)
        connection.executemany(_INSERT_LABEL, self.labels)
        connection.executemany(_COUNT, [(*key, tasks) for key, tasks in self._counts.items() if tasks])
        tokens = [(token, tasks, self._bytes[token]) for token, tasks in self._open.items()]
        connection.executemany(_CHARGE, [row for row in tokens if row[1] or row[2]])
        for written in (self.events, self.labels, self._counts, self._open, self._bytes):
            written.clear()
