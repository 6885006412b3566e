"""The one writer of the task table: batches of changes, each in one transaction with the files that belong to it.

The order within a batch, and what a crash between two steps leaves:
    rows written, temporary blobs renamed    no row (rolled back); an orphan blob, swept at the next start
    outputs and directories synced           the same
    COMMIT                                   everything
    what no row wants any more unlinked      everything; an orphan blob, swept at the next start
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from worker.core.changes import (
    Applied,
    Change,
    DropModule,
    ExpireTasks,
    InsertModule,
    InsertTask,
    Replay,
    Result,
    SetDefault,
    SetTrouble,
    UpdateTask,
    WriteFailed,
)
from worker.core.task import FINAL, Service, State, Task, TaskSpec
from worker.errors import BadName, TableBusy, TableError
from worker.shared.blobs import Blobs, sync_directory
from worker.shared.faults import Fault, no_fault
from worker.shared.records import pack_interface, pack_spec, pack_status
from worker.shared.reserve import RESERVE_BYTES, Reserve
from worker.shared.schema import IDEMPOTENCY_US, open_for_writing, translated
from worker.shared.table_batch import Batch
from worker.shared.table_retention import EXPIRE_KEYS, Kept, expire

# How stale a module's last use may be: retention counts in days, and a row rewritten for every task is not free.
_USE_GRAIN_US = 60 * 1_000_000
# Expired Idempotency-Keys removed with each new one: more than one, so that they can't pile up.
_EXPIRED_PER_KEY = 8
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)  # the second: no room for the log's index

_INSERT_TASK = """INSERT INTO tasks
    (id, created_us, state, kind, name, function, digest, token, finished_us, stored_bytes, status)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_SPEC = "INSERT INTO specs (serial, spec) VALUES (?, ?)"
_FIND_TASK = "SELECT serial, state, stored_bytes FROM tasks WHERE id = ?"
_UPDATE_TASK = "UPDATE tasks SET state = ?, finished_us = ?, stored_bytes = ?, status = ? WHERE serial = ?"
_UPDATE_SPEC = "UPDATE specs SET spec = ? WHERE serial = ?"
_UPDATE_DIGEST = "UPDATE tasks SET digest = ? WHERE serial = ?"
# A key whose task retention has removed is free again: there is nothing left to replay.
_FIND_KEY = """SELECT task_id, body_sha256 FROM idempotency
    WHERE token = ? AND key = ? AND created_us > ? AND EXISTS (SELECT 1 FROM tasks WHERE id = task_id)"""
_INSERT_KEY = """INSERT OR REPLACE INTO idempotency (token, key, task_id, body_sha256, created_us)
    VALUES (?, ?, ?, ?, ?)"""
_USE_MODULE = "UPDATE modules SET last_used_us = ? WHERE digest = ? AND last_used_us < ?"
_FIND_MODULE = "SELECT size_bytes FROM modules WHERE digest = ?"
_INSERT_MODULE = """INSERT INTO modules (digest, size_bytes, created_us, last_used_us, token, interface)
    VALUES (?, ?, ?, ?, ?, ?)"""
_DROP_MODULE = "DELETE FROM modules WHERE digest = ?"
_INSERT_FUNCTION = "INSERT OR IGNORE INTO functions (name) VALUES (?)"
# None stands in the way: the core gives a name to another task only when the last one's end is on disk. If one did, the
# newest would be the one that is alive.
_INSERT_REVISION = "INSERT OR REPLACE INTO revisions (function, revision, task_id) VALUES (?, ?, ?)"
_SET_ROUTED = "UPDATE revisions SET routed = ? WHERE task_id = ? AND routed <> ?"
_DROP_REVISION = "DELETE FROM revisions WHERE task_id = ?"
_SET_DEFAULT = """INSERT INTO functions (name, default_revision, generation) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET default_revision = excluded.default_revision, generation = excluded.generation"""
# As _SET_DEFAULT, of whatever generation it is by then.
_TAKE_DEFAULT = """INSERT INTO functions (name, default_revision, generation) VALUES (?1, ?2, 1)
    ON CONFLICT (name) DO UPDATE SET default_revision = ?2, generation = generation + 1
    WHERE default_revision IS NOT ?2"""
_SET_TROUBLE = "UPDATE revisions SET trouble = ? WHERE task_id = ? AND trouble IS NOT ?"
_FORGET_TROUBLES = "UPDATE revisions SET trouble = NULL WHERE trouble IS NOT NULL"


class _Refused(Exception):
    """A change that can't be written, whatever the disk says: a bug of the caller, or a blob that is gone."""


class TableWriter:
    """Opens the table for writing, once a machine.

    Args:
        path: The table's file; the blobs are beside it, below `blobs/`.
        durability: "full": what `apply` returned survives a loss of power. "normal": it survives the death of any
            process; power lost may take the last transactions, and inputs and outputs of the last tasks. The table
            stays whole, and so does every module that it names.
        fault: Told each point `table.…` that a batch passes, see `worker.shared.faults`.

    Raises:
        TableError: busy, too new, foreign, damaged or out of reach.
    """

    def __init__(
        self,
        path: str | Path,
        durability: str = "full",
        *,
        blobs: Blobs | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        fault: Fault = no_fault,
    ) -> None:
        self.path = Path(path)
        self.event_seq = 0  # of the newest event that is on disk
        self.route_changes = 0  # grows whenever routes that are on disk have changed
        self._full = durability == "full"
        self._fault = fault
        self._blobs = blobs or Blobs(self.path.parent, fault)
        self._lock_fd = _lock(self.path.with_name(self.path.name + ".lock"))
        try:
            self._blobs.create()
            self._connection = open_for_writing(self.path, durability)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._execute = self._connection.execute
        self._cut: set[str] = set()  # tasks whose output was cut, and whose end isn't committed
        try:
            with translated(self.path):
                newest = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
                self._kept = Kept.read(self._connection)
        except BaseException:
            self.close()
            raise
        self.event_seq = newest[0] if newest else 0
        with suppress(sqlite3.Error):  # a full disk; who begins anew backs off from nothing
            self._execute(_FORGET_TROUBLES)
        self._reserve = Reserve(self.path.with_name(self.path.name + ".reserve"), reserve_bytes)
        self._reserve.take()

    def close(self) -> None:
        """Give the table to the next writer. What was applied is there whether this is called or not."""
        self._connection.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def apply(self, changes: Sequence[Change]) -> list[Result]:
        """Write a batch in one transaction; where that fails, one by one, so that a bad change fails alone.

        Returns:
            One result a change, in order. Nothing of a change with WriteFailed is in the table; its temporary blob is
            gone too. Never raises for a full or broken disk.
        """
        if not self._reserve.take():
            # Only what lets running work end may use the last room.
            return [self._apply_one(change) for change in changes]
        try:
            return self._transact(changes)
        except Exception:  # noqa: BLE001 - whatever one change ran into, the others are tried without it
            self._roll_back()
            return [self._apply_one(change) for change in changes]

    def _apply_one(self, change: Change) -> Result:
        # The last two rewrite a row in its place, and a service's end needs them.
        ends_something = isinstance(change, UpdateTask | DropModule | SetDefault | SetTrouble)
        # Retention makes room, and may try with what is there; the reserve isn't for it.
        if not (ends_something or isinstance(change, ExpireTasks)) and not self._reserve.take():
            return self._fail(change, WriteFailed("storage_full", "the disk is full: only running work is recorded"))
        while True:
            try:
                return self._transact((change,))[0]
            except Exception as exc:  # noqa: BLE001 - told to whoever asked for this change
                self._roll_back()
                failed = _failure(exc)
                if failed.code == "storage_full" and ends_something and self._reserve.held:
                    self._reserve.release()
                    continue
                return self._fail(change, failed)

    def _transact(self, changes: Sequence[Change]) -> list[Result]:
        batch = Batch(self.event_seq)
        self._execute("BEGIN IMMEDIATE")
        self._fault("table.begun")
        results = [self._write(change, batch) for change in changes]
        batch.write(self._connection)
        self._fault("table.written")
        for directory in batch.directories:
            sync_directory(directory)
        self._fault("table.synced")
        self._execute("COMMIT")
        self._fault("table.committed")
        self.event_seq = batch.event_seq
        self.route_changes += batch.route_changes
        self._kept.committed(batch)
        self._cut -= batch.cut
        for path in batch.unwanted:
            with suppress(OSError):  # committed is committed; what stays is swept at the next start
                path.unlink()
        return results

    def _write(self, change: Change, batch: Batch) -> Result:
        match change:
            case InsertTask():
                return self._insert_task(change, batch)
            case UpdateTask():
                return self._update_task(change, batch)
            case InsertModule():
                return self._insert_module(change, batch)
            case DropModule():
                return self._drop_module(change, batch)
            case SetDefault(function, revision, generation):
                self._change_routes(batch, _SET_DEFAULT, function, revision, generation)
                return Applied()
            case SetTrouble(task_id, detail):
                self._change_routes(batch, _SET_TROUBLE, detail, task_id, detail)
                return Applied()
            case ExpireTasks():
                return expire(self._connection, change, self._kept, batch)

    def _insert_task(self, change: InsertTask, batch: Batch) -> Result:
        task = change.task
        if change.idempotency is not None:
            replay = self._take_key(change)
            if replay is not None:
                if change.stdin_name:
                    batch.unwanted.add(self._blobs.temporary_path(change.stdin_name))
                return replay
        spec, status = task.spec, task.status
        row = (
            *(task.id, task.created_at_us, status.state, spec.kind, spec.name, _function_name(spec), spec.digest),
            *(task.token, status.finished_at_us, spec.stdin_bytes, pack_status(status)),
        )
        serial = self._execute(_INSERT_TASK, row).lastrowid
        assert serial is not None, "an INSERT has a row id"
        self._execute(_INSERT_SPEC, (serial, pack_spec(spec)))
        batch.labels += [(key, value, task.created_at_us, task.id, serial) for key, value in spec.labels]
        if spec.service is not None:
            self._execute(_INSERT_FUNCTION, (spec.service.function,))
            self._change_routes(batch, _INSERT_REVISION, spec.service.function, spec.service.revision, task.id)
        batch.note(serial, (change.note,))
        batch.count(status.state, spec.kind, 1)
        batch.charge(task.token, int(not task.final), spec.stdin_bytes)
        self._use_module(spec.digest, task.created_at_us)
        if change.stdin_name:
            self._claim(change.stdin_name, self._blobs.stdin_path(task.id), batch, durable=self._full)
        return Applied()

    def _take_key(self, change: InsertTask) -> Replay | None:
        key = change.idempotency
        assert key is not None, "only called for a task with a key"
        task = change.task
        expired_us = task.created_at_us - IDEMPOTENCY_US
        taken = self._execute(_FIND_KEY, (task.token, key.key, expired_us)).fetchone()
        if taken is not None:
            return Replay(task_id=taken[0], same_body=taken[1] == key.body_sha256)
        self._execute(EXPIRE_KEYS, (expired_us, _EXPIRED_PER_KEY))
        self._execute(_INSERT_KEY, (task.token, key.key, task.id, key.body_sha256, task.created_at_us))
        return None

    def _update_task(self, change: UpdateTask, batch: Batch) -> Result:
        task, status = change.task, change.task.status
        found = self._execute(_FIND_TASK, (task.id,)).fetchone()
        if found is None:
            raise _Refused(f"task {task.id} is not in the table")
        serial, state, stored_before = found
        stored_bytes = stored_before
        if state in FINAL and status.state != state:
            raise _Refused(f"task {task.id} is {state}, which is final, and can't become {status.state}")
        if task.final and state not in FINAL:
            if change.fsync_output and self._cut_output(task, batch):
                status = replace(status, truncated=True)
            stored_bytes = self._end_files(task, change.fsync_output, batch)
            batch.output_bytes += stored_bytes
        self._execute(_UPDATE_TASK, (status.state, status.finished_at_us, stored_bytes, pack_status(status), serial))
        self._fault("table.updated")
        if change.spec_changed:
            self._execute(_UPDATE_SPEC, (pack_spec(task.spec), serial))
            self._execute(_UPDATE_DIGEST, (task.spec.digest, serial))
        if task.spec.service is not None:
            self._route(task, task.spec.service, change, batch)
        batch.note(serial, change.notes)
        if status.state != state:
            batch.count(state, task.spec.kind, -1)
            batch.count(status.state, task.spec.kind, 1)
        batch.charge(task.token, (state in FINAL) - task.final, stored_bytes - stored_before)
        if change.notes:
            self._use_module(task.spec.digest, change.notes[-1].at_us)
        return Applied()

    def _cut_output(self, task: Task, batch: Batch) -> bool:
        """Whether it was longer than it may be; a second try finds it cut by the first."""
        batch.cut.add(task.id)
        if self._blobs.cut_output(task.id, task.spec.limits.output_bytes):
            self._cut.add(task.id)
        return task.id in self._cut

    def _route(self, task: Task, service: Service, change: UpdateTask, batch: Batch) -> None:
        """Calls go to what runs, and on to what ran and is being started again: they wait for it."""
        if task.final:
            self._change_routes(batch, _DROP_REVISION, task.id)
        elif task.status.stopping:
            self._change_routes(batch, _SET_ROUTED, 0, task.id, 0)
        elif task.status.state is State.RUNNING:
            self._change_routes(batch, _SET_ROUTED, 1, task.id, 1)
            if change.default:
                self._change_routes(batch, _TAKE_DEFAULT, service.function, service.revision)
        batch.route_changes += change.spec_changed

    def _change_routes(self, batch: Batch, sql: str, *parameters: object) -> None:
        batch.route_changes += self._execute(sql, parameters).rowcount > 0

    def _end_files(self, task: Task, fsync_output: bool, batch: Batch) -> int:
        """A task's input goes when it has ended; the output of one that ran is brought to disk. The bytes it keeps."""
        if task.spec.stdin_bytes:
            batch.unwanted.add(self._blobs.stdin_path(task.id))
        if not fsync_output:
            return 0
        return self._blobs.sync_output(task.id) if self._full else self._blobs.output_bytes(task.id)

    def _use_module(self, digest: str | None, at_us: int) -> None:
        if digest is not None:
            self._execute(_USE_MODULE, (at_us, digest, at_us - _USE_GRAIN_US))

    def _insert_module(self, change: InsertModule, batch: Batch) -> Result:
        module = change.module
        path = self._blobs.module_path(module.digest)
        batch.unwanted.discard(path)  # dropped earlier in this batch, and wanted again
        at_us = module.created_at_us
        if self._execute(_FIND_MODULE, (module.digest,)).fetchone() is not None:
            self._use_module(module.digest, at_us)
            if path.exists():
                batch.unwanted.add(self._blobs.temporary_path(change.blob_name))
            else:
                self._claim(change.blob_name, path, batch, durable=True)  # its file was lost; here it is again
            return Applied(created=False)
        row = (module.digest, module.size_bytes, at_us, at_us, change.token, pack_interface(module))
        self._execute(_INSERT_MODULE, row)
        batch.charge(change.token, 0, module.size_bytes)
        batch.module_bytes += module.size_bytes
        self._claim(change.blob_name, path, batch, durable=True)
        return Applied()

    def _drop_module(self, change: DropModule, batch: Batch) -> Result:
        path = self._blobs.module_path(change.digest)
        found = self._execute(_FIND_MODULE, (change.digest,)).fetchone()
        if found is not None:
            self._execute(_DROP_MODULE, (change.digest,))
            batch.module_bytes -= found[0]
        batch.unwanted.add(path)
        return Applied(created=found is not None)

    def _claim(self, name: str, target: Path, batch: Batch, *, durable: bool) -> None:
        self._blobs.claim(name, target)
        if durable:
            batch.directories.add(target.parent)

    def _fail(self, change: Change, failed: WriteFailed) -> WriteFailed:
        """Nothing of the change stays: neither its temporary blob nor one that got its final name without a row."""
        match change:
            case InsertTask(stdin_name=name) if name:
                self._remove_unless(_FIND_TASK, change.task.id, self._blobs.stdin_path, name)
            case InsertModule(blob_name=name):
                self._remove_unless(_FIND_MODULE, change.module.digest, self._blobs.module_path, name)
        return failed

    def _remove_unless(self, find: str, key: str, path: Callable[[str], Path], temporary: str) -> None:
        with suppress(sqlite3.Error, OSError, BadName):  # what stays is swept at the next start
            self._blobs.drop_temporary(temporary)
            if self._execute(find, (key,)).fetchone() is None:
                path(key).unlink(missing_ok=True)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")


def _function_name(spec: TaskSpec) -> str | None:
    """What `?function=` filters by: for a service the function that it is a revision of."""
    return spec.service.function if spec.service is not None else None


def _failure(exc: Exception) -> WriteFailed:
    full = (isinstance(exc, OSError) and exc.errno in _FULL_ERRNOS) or (
        isinstance(exc, sqlite3.Error) and getattr(exc, "sqlite_errorcode", 0) in _FULL_CODES
    )
    return WriteFailed("storage_full" if full else "internal", f"{type(exc).__name__}: {exc}"[:1000])


def _lock(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise TableError(
            f"{path} can't be opened ({exc.strerror}): is the data directory there, and this user's?"
        ) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise TableBusy(f"{path} is locked: another worker uses this data directory") from exc
    return fd
