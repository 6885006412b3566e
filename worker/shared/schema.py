"""The task table's schema: its version, how an older one becomes this one, and how a connection is opened.

tasks        one row a task: what lists filter by, and its status as a blob (rewritten with every change)
specs        what was asked for, as a blob, written once
labels       one row a label of a task, in the order of lists
events       one row a line of a task's story; `seq` never comes back, not even after a deletion
idempotency  Idempotency-Keys by token, kept IDEMPOTENCY_US
modules      one row a module, its imports and exports as a blob
counters     tasks by state and kind     } kept in the same transaction as the rows that they count,
tokens       open tasks and bytes        } so that neither needs a scan
functions    one row a function that ever had a revision: its default, and the generation, which is never reset
revisions    one row a service that isn't final: whether calls may go there, and what troubles it

`PRAGMA user_version` is the schema's version; MIGRATIONS[n] leads from version n to n + 1. A blob may gain fields with
defaults without a migration; a renamed or removed field needs one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from worker.errors import SchemaTooNew, TableCorrupt, TableError, TableNotOurs

APPLICATION_ID = 0x47616C57  # "GalW": tells our file from another program's
IDEMPOTENCY_US = 24 * 3600 * 1_000_000  # CONTRACT: kept 24 h
# A write-ahead log that a long reader made grow is cut back to this.
WAL_LIMIT_BYTES = 64 * 1024 * 1024
# Pages of 4 KiB after which a commit copies the log into the file (SQLite's default of 1,000 does it 4 times as often).
CHECKPOINT_PAGES = 4_000
BUSY_TIMEOUT_MS = 5_000  # somebody's sqlite3 shell, or a backup

_TABLES = """
CREATE TABLE tasks (
    serial INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    created_us INTEGER NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    function TEXT,
    digest TEXT,
    token TEXT NOT NULL,
    finished_us INTEGER,
    stored_bytes INTEGER NOT NULL,
    status BLOB NOT NULL
);
CREATE INDEX tasks_by_created ON tasks (created_us, id);
CREATE INDEX tasks_by_state ON tasks (state, created_us, id);
CREATE INDEX tasks_by_function ON tasks (function, created_us, id) WHERE function IS NOT NULL;
CREATE INDEX tasks_services ON tasks (created_us, id) WHERE kind = 'service';
CREATE TABLE specs (serial INTEGER PRIMARY KEY, spec BLOB NOT NULL);
CREATE TABLE labels (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    id TEXT NOT NULL,
    serial INTEGER NOT NULL,
    PRIMARY KEY (key, value, created_us, id)
) WITHOUT ROWID;
CREATE INDEX labels_by_task ON labels (serial);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    serial INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    detail TEXT
);
CREATE INDEX events_by_task ON events (serial);
CREATE TABLE idempotency (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    task_id TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (token, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_us);
CREATE TABLE modules (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    last_used_us INTEGER NOT NULL,
    token TEXT NOT NULL,
    interface BLOB NOT NULL
);
CREATE INDEX modules_by_created ON modules (created_us, digest);
CREATE TABLE counters (
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (state, kind)
) WITHOUT ROWID;
CREATE TABLE tokens (
    token TEXT PRIMARY KEY,
    open_tasks INTEGER NOT NULL DEFAULT 0,
    stored_bytes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""


# Retention deletes rows of `tasks` and of nothing else. What comes and changes is counted by the writer, once a batch.
_TRIGGERS = (
    """CREATE TRIGGER task_deleted AFTER DELETE ON tasks BEGIN
        UPDATE counters SET tasks = tasks - 1 WHERE state = OLD.state AND kind = OLD.kind;
        UPDATE tokens SET open_tasks = open_tasks - (OLD.state NOT IN ('completed', 'failed')),
            stored_bytes = stored_bytes - OLD.stored_bytes WHERE token = OLD.token;
        DELETE FROM specs WHERE serial = OLD.serial;
        DELETE FROM labels WHERE serial = OLD.serial;
        DELETE FROM events WHERE serial = OLD.serial;
    END""",
    """CREATE TRIGGER module_deleted AFTER DELETE ON modules BEGIN
        UPDATE tokens SET stored_bytes = stored_bytes - OLD.size_bytes WHERE token = OLD.token;
    END""",
)

# Version 1 knew no services, so there are no rows to make.
_FUNCTIONS = (
    """CREATE TABLE functions (
        name TEXT PRIMARY KEY,
        default_revision TEXT,
        generation INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    """CREATE TABLE revisions (
        function TEXT NOT NULL,
        revision TEXT NOT NULL,
        task_id TEXT NOT NULL UNIQUE,
        routed INTEGER NOT NULL DEFAULT 0,
        trouble TEXT,
        PRIMARY KEY (function, revision)
    ) WITHOUT ROWID""",
)

# For retention: who ended first goes first. Rows of tasks that live aren't in it.
_ENDS = ("CREATE INDEX tasks_by_end ON tasks (finished_us) WHERE finished_us IS NOT NULL",)

Migration = Sequence[str]
MIGRATIONS: tuple[Migration, ...] = ((*filter(str.strip, _TABLES.split(";")), *_TRIGGERS), _FUNCTIONS, _ENDS)


def open_for_writing(path: Path, durability: str, migrations: Sequence[Migration] = MIGRATIONS) -> sqlite3.Connection:
    """The one writing connection, at the newest schema: made, or migrated after a backup where it is older.

    Args:
        durability: "full" survives a loss of power, "normal" the death of any process.

    Raises:
        SchemaTooNew, TableNotOurs, TableCorrupt, TableError: it can't be used, and nothing was changed.
    """
    with translated(path):
        connection = _connect(f"file:{quote(str(path))}?mode=rwc")
    try:
        with translated(path):
            version = _check(connection, path, len(migrations))
            path.chmod(0o600)  # specs hold the guests' environments; the log's files take the same mode
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'full' else 'NORMAL'}")
            connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}")
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            connection.execute("PRAGMA cache_size=-16384")
            connection.execute("PRAGMA temp_store=MEMORY")
            if version < len(migrations):
                _migrate(connection, path, version, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> sqlite3.Connection:
    """A connection that can't write, at exactly the newest schema: the coordinator migrates, a reader never does.

    Raises:
        SchemaTooNew, TableNotOurs, TableCorrupt, TableError: no such table, or one that was not migrated yet.
    """
    with translated(path):
        connection = _connect(f"file:{quote(str(path))}?mode=ro")
    try:
        with translated(path):
            version = _check(connection, path, len(migrations))
            if version < len(migrations):
                raise TableError(f"{path} has schema {version}, to be migrated to {len(migrations)} by the coordinator")
            connection.execute("PRAGMA query_only=1")
            connection.execute("PRAGMA cache_size=-8192")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's refusals about the table at `path` become a TableError within."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translate(path, exc) from exc


def translate(path: Path, error: sqlite3.Error) -> TableError:
    """What an error of SQLite means for the table at `path`."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return TableCorrupt(str(path), str(error))
    if code == sqlite3.SQLITE_CANTOPEN:
        return TableError(f"{path} can't be opened ({error}): is the data directory there, and this user's?")
    return TableError(f"{path}: {error}")


def _connect(uri: str) -> sqlite3.Connection:
    # One thread uses a connection at a time, but not always the one that opened it (the commit thread does not).
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=64)
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    return connection


def _check(connection: sqlite3.Connection, path: Path, supported: int) -> int:
    """The file's version, 0 for a new one."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (tables or version):
        raise TableNotOurs(f"{path} belongs to another program: give the worker a data directory of its own")
    if version > supported:
        raise SchemaTooNew(str(path), version, supported)
    return version


def _migrate(connection: sqlite3.Connection, path: Path, version: int, migrations: Sequence[Migration]) -> None:
    """All steps in one transaction: a crash leaves the old schema, and the backup beside it."""
    if version:
        backup(connection, backup_path(path, version))
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    _sync_directory(path.parent)


def backup_path(path: Path, version: int) -> Path:
    """Where the table of schema `version` is kept when it is migrated."""
    return path.with_name(f"{path.name}.schema-{version}.backup")


def backup(connection: sqlite3.Connection, target: Path) -> None:
    """A whole copy of the table under `target`, on disk when this returns; never a half one under that name."""
    half = target.with_name(target.name + ".half")
    half.unlink(missing_ok=True)
    half.touch(0o600)
    copy = sqlite3.connect(half)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    descriptor = os.open(half, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    half.replace(target)
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
