"""A task table of any size, made in seconds: copies of a real finished task, row by row what the writer writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

# A copy's created_us follows its number; ids are of version 7, so that they sort as real ones do.
_ID = "printf('%08x-%04x-7000-8000-%012x', n.i / 65536, n.i % 65536, n.i)"
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
_COPY_TASKS = f"""INSERT INTO tasks
    (serial, id, created_us, state, kind, name, function, digest, token, finished_us, stored_bytes, status)
    {_NUMBERS} SELECT :base + n.i, {_ID}, t.created_us - :total + n.i, t.state, t.kind, t.name, t.function, t.digest,
        t.token, t.finished_us, 0, t.status FROM n CROSS JOIN tasks t WHERE t.serial = :template"""
_COPY_SPECS = f"""INSERT INTO specs (serial, spec)
    {_NUMBERS} SELECT :base + n.i, s.spec FROM n CROSS JOIN specs s WHERE s.serial = :template"""
_COPY_EVENTS = f"""INSERT INTO events (serial, at_us, event, state, reason, detail)
    {_NUMBERS} SELECT :base + n.i, e.at_us, e.event, e.state, e.reason, e.detail
        FROM n CROSS JOIN events e ON e.serial = :template ORDER BY n.i, e.seq"""
_COUNT = "UPDATE counters SET tasks = tasks + ? WHERE state = ? AND kind = ?"


def task_id(number: int) -> str:
    """Of the copy with this number, from 1."""
    return f"{number // 65536:08x}-{number % 65536:04x}-7000-8000-{number:012x}"


def grow(path: Path, made: int, wanted: int, total: int) -> None:
    """Add copies of the table's first task, which has ended: from `made` of them to `wanted`.

    No worker may have the table open. A crash in between may damage it: nothing waits for the disk.

    Args:
        total: What it will be grown to at most: each is a microsecond older than the next, and all than the first.
    """
    if wanted <= made:
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-262144")
        serial, state, kind = connection.execute("SELECT min(serial), state, kind FROM tasks").fetchone()
        (last,) = connection.execute("SELECT max(serial) FROM tasks").fetchone()
        # Behind every real task, of which there may be new ones since it was grown last.
        given = {"first": made + 1, "last": wanted, "base": last - made, "total": total, "template": serial}
        connection.execute("BEGIN IMMEDIATE")
        for statement in (_COPY_TASKS, _COPY_SPECS, _COPY_EVENTS):
            connection.execute(statement, given)
        connection.execute(_COUNT, (wanted - made, state, kind))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
