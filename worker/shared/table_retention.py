"""What retention writes and reads in the task table: a batch of ended tasks that goes, and the modules by last use.

How much output and how many bytes of modules the table names is asked once, when it is opened, and kept by the writer
from there on: the sums are over all rows.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from worker.core.changes import Expired, ExpireTasks
from worker.shared.schema import IDEMPOTENCY_US
from worker.shared.table_batch import Batch

# Every stored byte is some token's; what isn't a module's or waits as input is an ended task's output.
_OUTPUT_BYTES = """SELECT coalesce((SELECT sum(stored_bytes) FROM tokens), 0)
    - coalesce((SELECT sum(size_bytes) FROM modules), 0)
    - coalesce((SELECT sum(stored_bytes) FROM tasks INDEXED BY tasks_by_state
                WHERE state IN ('pending', 'scheduled', 'running')), 0)"""
_MODULE_BYTES = "SELECT coalesce(sum(size_bytes), 0) FROM modules"
_ENDED = "SELECT coalesce(sum(tasks), 0) FROM counters WHERE state IN ('completed', 'failed')"
_OLDEST = """SELECT serial, id, finished_us, stored_bytes FROM tasks INDEXED BY tasks_by_end
    WHERE finished_us IS NOT NULL ORDER BY finished_us LIMIT ?"""
_DELETE = "DELETE FROM tasks WHERE serial = ?"
_MODULES = "SELECT digest, size_bytes, last_used_us FROM modules ORDER BY last_used_us, digest"
EXPIRE_KEYS = """DELETE FROM idempotency WHERE (token, key) IN
    (SELECT token, key FROM idempotency WHERE created_us <= ? ORDER BY created_us LIMIT ?)"""


# A key whose task went replays nothing, and would stay in file and cache for the rest of its day. The oldest alone are
# looked at: what stays must not be walked each time.
_FREE_KEYS = """DELETE FROM idempotency WHERE (token, key) IN (SELECT token, key FROM
    (SELECT token, key, task_id FROM idempotency ORDER BY created_us LIMIT ?)
    WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE id = task_id))"""
_KEYS_A_TASK = 4  # looked at for each task of a batch


@dataclass(slots=True)
class Kept:
    """Bytes that the table names, as of the last COMMIT: output of ended tasks, and modules."""

    output_bytes: int
    module_bytes: int

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Kept:
        return cls(*(connection.execute(sql).fetchone()[0] for sql in (_OUTPUT_BYTES, _MODULE_BYTES)))

    def committed(self, batch: Batch) -> None:
        self.output_bytes += batch.output_bytes
        self.module_bytes += batch.module_bytes


def expire(connection: sqlite3.Connection, change: ExpireTasks, kept: Kept, batch: Batch) -> Expired:
    """Delete what goes; the trigger `task_deleted` counts, and takes along what belongs to a row."""
    batch.write(connection)  # what this transaction has counted and told of a row must be there before the row goes
    connection.execute(EXPIRE_KEYS, (change.now_us - IDEMPOTENCY_US, change.limit))
    gone = _goners(connection, change, kept, batch)
    connection.executemany(_DELETE, [(serial,) for serial, *_ in gone])
    connection.execute(_FREE_KEYS, (_KEYS_A_TASK * change.limit,))
    batch.output_bytes -= sum(stored_bytes for *_, stored_bytes in gone)
    excess = kept.module_bytes + batch.module_bytes - change.keep_module_bytes
    modules = tuple(connection.execute(_MODULES)) if excess > 0 else ()
    ids = tuple(task_id for _, task_id, *_ in gone)
    return Expired(bool(gone), ids, len(gone) == change.limit, max(0, excess), modules)


def _goners(
    connection: sqlite3.Connection, change: ExpireTasks, kept: Kept, batch: Batch
) -> list[tuple[int, str, int, int]]:
    """(serial, id, end, bytes) of the tasks that go, the oldest end first."""
    excess = connection.execute(_ENDED).fetchone()[0] - change.keep_tasks
    excess_bytes = kept.output_bytes + batch.output_bytes - change.keep_output_bytes
    gone = []
    for row in connection.execute(_OLDEST, (change.limit,)):
        _, _, finished_us, stored_bytes = row
        if finished_us >= change.before_us and excess <= 0 and excess_bytes <= 0:
            break
        gone.append(row)
        excess -= 1
        excess_bytes -= stored_bytes
    return gone
