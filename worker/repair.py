"""`galago-worker repair`: what can be read of a damaged task table, in a new one; the damaged one is kept beside it.

Rows are read one after another by their keys, and around what can't be read. Figures that are kept beside the rows are
counted anew, a module whose row is lost but whose file is whole is admitted again, and services that are alive are
routed again. The worker must be stopped.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import ModuleRefused
from runner.module import inspect
from worker.core.module import Extern, Module
from worker.core.task import FINAL, State
from worker.errors import TableError
from worker.shared.records import pack_interface, unpack_interface, unpack_spec, unpack_status
from worker.shared.schema import open_for_writing

# Counted anew from the rows; `sqlite_sequence` is SQLite's own and goes on from the highest key.
_DERIVED = ("counters", "tokens")
_SIDE_FILES = ("-wal", "-shm")
_INSERT_MODULE = """INSERT INTO modules (digest, size_bytes, created_us, last_used_us, token, interface)
    VALUES (?, ?, ?, ?, ?, ?)"""
_INSERT_REVISION = "INSERT OR IGNORE INTO revisions (function, revision, task_id, routed) VALUES (?, ?, ?, ?)"
# How far a hole in the keys is searched for its other side, in doubling steps.
_FARTHEST = 2**62


@dataclass(slots=True)
class Salvage:
    """What came of it: rows kept and places that could not be read, by table; where the damaged file is now."""

    damaged: Path
    kept: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    dropped_tasks: list[str] = field(default_factory=list)  # whose spec or status makes no sense any more
    modules_admitted: list[str] = field(default_factory=list)  # whose row was lost, and whose file was whole


def repair(path: Path) -> Salvage:
    """Replace the table at `path` by a new one with all that can be read of it.

    The new one takes the name only when it is whole and on disk; until then the old one stays where it is.

    Raises:
        TableError: there is no table, or the new one can't be written.
    """
    if not path.exists():
        raise TableError(f"{path} isn't there: there is nothing to repair")
    salvage = Salvage(path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"))
    fresh = path.with_name(path.name + ".repaired")
    _remove(fresh)
    with closing(open_for_writing(fresh, "full")) as target:
        # One file, whole, when it takes the name: no log beside it that a crash could part from it.
        target.execute("PRAGMA journal_mode=DELETE")
        target.execute("BEGIN IMMEDIATE")
        with closing(_open_damaged(path)) as source:
            for table in _tables(target):
                _copy(source, target, table, salvage)
        _drop_senseless(target, salvage)
        _route_again(target)
        _admit_again(target, path.parent, salvage)
        _count(target)
        target.execute("COMMIT")
    owner = path.stat()
    os.chown(fresh, owner.st_uid, owner.st_gid)  # root may mend what is the worker's
    for suffix in ("", *_SIDE_FILES):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{salvage.damaged}{suffix}")
    fresh.rename(path)
    _sync(path.parent)
    return salvage


def _open_damaged(path: Path) -> sqlite3.Connection:
    """For reading, its log played where that is whole; row by row it is found out what can be."""
    connection = sqlite3.connect(path, isolation_level=None)
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA query_only=1")
        connection.execute("PRAGMA cell_size_check=1")
    return connection


def _tables(target: sqlite3.Connection) -> list[str]:
    rows = target.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in rows if name not in _DERIVED]


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, table: str, salvage: Salvage) -> None:
    """Every row that can be read; a row that is there twice, or without what it must have, is left out."""
    columns = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
    places = ", ".join("?" * len(columns))
    kept = unreadable = 0
    for row in _rows(source, target, table, columns):
        if row is None:
            unreadable += 1
            continue
        with suppress(sqlite3.IntegrityError):
            target.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", row)  # noqa: S608
            kept += 1
    salvage.kept[table] = kept
    salvage.unreadable[table] = unreadable


def _rows(
    source: sqlite3.Connection, target: sqlite3.Connection, table: str, columns: list[str]
) -> Iterator[tuple[object, ...] | None]:
    """The rows of a table, and a None for each place that can't be read.

    A table with row ids is walked by them, past what is damaged; the others, which are small, in one go to the first
    damage from either end.
    """
    names = ", ".join(columns)
    keyed = _has_row_ids(target, table)
    if not keyed:
        for order in ("ASC", "DESC"):
            key = columns[0]
            try:
                yield from source.execute(f"SELECT {names} FROM {table} ORDER BY {key} {order}")  # noqa: S608
            except sqlite3.Error:
                yield None
                continue
            return
        return
    after, stride = -1, 1
    while after < _FARTHEST:
        try:
            query = f"SELECT rowid, {names} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 1"  # noqa: S608
            found = source.execute(query, (after,)).fetchone()
        except sqlite3.Error:
            if stride == 1:
                yield None
            after, stride = after + stride, stride * 2
            continue
        if found is None:
            return
        after, stride = found[0], 1
        yield found[1:]


def _has_row_ids(target: sqlite3.Connection, table: str) -> bool:
    (sql,) = target.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return "WITHOUT ROWID" not in sql


def _drop_senseless(target: sqlite3.Connection, salvage: Salvage) -> None:
    """Rows that a reader would stumble over: tasks without a spec, blobs that are none, what belongs to no task."""
    query = "SELECT t.serial, t.id, t.status, s.spec FROM tasks t LEFT JOIN specs s USING (serial)"
    for serial, task_id, status, spec in target.execute(query).fetchall():
        try:
            unpack_status(status)
            unpack_spec(spec)
        except Exception:  # noqa: BLE001 - damaged bytes: whatever decoding them runs into
            salvage.dropped_tasks.append(task_id)
            target.execute("DELETE FROM tasks WHERE serial = ?", (serial,))
    for digest, interface in target.execute("SELECT digest, interface FROM modules").fetchall():
        try:
            unpack_interface(interface)
        except Exception:  # noqa: BLE001 - as above
            target.execute("DELETE FROM modules WHERE digest = ?", (digest,))
    for table in ("specs", "labels", "events"):
        target.execute(f"DELETE FROM {table} WHERE serial NOT IN (SELECT serial FROM tasks)")  # noqa: S608
    target.execute("DELETE FROM idempotency WHERE task_id NOT IN (SELECT id FROM tasks)")


def _route_again(target: sqlite3.Connection) -> None:
    """Every service that isn't final is a revision of its function, and no other row is; one that runs can be called.

    A function's row that is lost takes its default and its generation with it: a manager sets them again.
    """
    live = {}
    query = "SELECT t.id, t.status, s.spec FROM tasks t JOIN specs s USING (serial) WHERE t.kind = 'service'"
    for task_id, status, spec in target.execute(query).fetchall():
        service, stands = unpack_spec(spec).service, unpack_status(status)
        if service is not None and stands.state not in FINAL:
            routed = stands.state is State.RUNNING and not stands.stopping
            live[task_id] = (service.function, service.revision, task_id, routed)
    for (task_id,) in target.execute("SELECT task_id FROM revisions").fetchall():
        if task_id not in live:
            target.execute("DELETE FROM revisions WHERE task_id = ?", (task_id,))
    target.executemany("INSERT OR IGNORE INTO functions (name) VALUES (?)", [(row[0],) for row in live.values()])
    target.executemany(_INSERT_REVISION, live.values())


def _admit_again(target: sqlite3.Connection, data_dir: Path, salvage: Salvage) -> None:
    """Give modules whose file is there under its right digest their rows back: the next start would remove them."""
    known = {digest for (digest,) in target.execute("SELECT digest FROM modules")}
    directory = data_dir / "blobs" / "modules"
    for file in sorted(directory.iterdir()) if directory.exists() else ():
        digest = f"sha256:{file.name}"
        if digest in known or not file.is_file():
            continue
        data = file.read_bytes()
        try:
            found = inspect(data)
        except ModuleRefused:
            continue
        if hashlib.sha256(data).hexdigest() == file.name:
            imports, exports = [
                tuple([Extern(one.name, one.kind, one.module, one.params, one.results) for one in side])
                for side in (found.imports, found.exports)
            ]
            at_us = int(file.stat().st_mtime) * 1_000_000
            interface = pack_interface(Module(digest, len(data), imports, exports, at_us))
            target.execute(_INSERT_MODULE, (digest, len(data), at_us, at_us, "", interface))
            salvage.modules_admitted.append(digest)


def _count(target: sqlite3.Connection) -> None:
    """What is kept in step with the rows by whoever writes them."""
    for table in _DERIVED:
        target.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
    target.execute("INSERT INTO counters (state, kind, tasks) SELECT state, kind, count(*) FROM tasks GROUP BY 1, 2")
    target.execute(
        """INSERT INTO tokens (token, open_tasks, stored_bytes)
        SELECT token, sum(open), sum(bytes) FROM (
            SELECT token, state NOT IN ('completed', 'failed') AS open, stored_bytes AS bytes FROM tasks
            UNION ALL SELECT token, 0, size_bytes FROM modules) GROUP BY token"""
    )


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", *_SIDE_FILES):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
