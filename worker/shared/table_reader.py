"""The task table as API workers and `doctor` read it: fresh with every call, in no one's way.

Each method is one SELECT, read to its end before it returns, so that no snapshot stays open: the writer never waits for
a reader, and the write-ahead log can always be reset. A file that was replaced underneath is opened again (whoever
replaces it removes the old `-wal` and `-shm` first: SQLite would play the old log into the new file).
"""

# ruff: noqa: S608 - every part of these statements is a constant of this file, every value is bound
from __future__ import annotations

import base64
import binascii
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.core.changes import Note
from worker.core.functions import FunctionRow
from worker.core.module import Module
from worker.core.task import Kind, State, Task, TaskSpec
from worker.errors import BadCursor, TableError
from worker.shared.records import unpack_interface, unpack_spec, unpack_status
from worker.shared.routes import Route
from worker.shared.schema import IDEMPOTENCY_US, open_for_reading, translate

_TASK_COLUMNS = "t.id, t.token, t.created_us, s.spec, t.status"
_NOTE_COLUMNS = "e.at_us, e.event, e.state, e.reason, e.detail"
_MODULE_COLUMNS = "digest, size_bytes, interface, created_us"
_ROUTE_COLUMNS = "f.name, f.default_revision, f.generation, r.revision, r.task_id, r.routed, r.trouble, s.spec"
_ROUTE_TABLES = """functions f LEFT JOIN revisions r ON r.function = f.name
    LEFT JOIN tasks t ON t.id = r.task_id LEFT JOIN specs s ON s.serial = t.serial"""

_LIVE = "('pending', 'scheduled', 'running')"
_IDS_AT_ONCE = 500

_Row = tuple[Any, ...]
_Specs = dict[str, tuple[bytes, TaskSpec]]  # by task id: a spec as it is stored, and unpacked


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks, newest first. `label` is (key, value); `after` a cursor that an earlier page gave as its `next`."""

    state: State | None = None
    kind: Kind | None = None
    function: str | None = None
    label: tuple[str, str] | None = None
    limit: int = 50
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of some task's story; `seq` grows over all tasks and is never used twice."""

    seq: int
    task_id: str
    note: Note


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What a token has: tasks that aren't final, and the bytes of its modules and of its tasks' blobs."""

    open_tasks: int = 0
    stored_bytes: int = 0


class TableReader:
    """A reading connection to the table at `path`; one thread uses it at a time.

    Every method raises TableError where the table is missing, damaged, or of another version.
    """

    def __init__(self, path: str | Path, *, wall_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._path = Path(path)
        self._wall_us = wall_us
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._route_specs: _Specs = {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def task(self, task_id: str) -> Task | None:
        rows = self._select(f"SELECT {_TASK_COLUMNS} FROM tasks t JOIN specs s USING (serial) WHERE t.id = ?", task_id)
        return _task(rows[0]) if rows else None

    def notes(self, task_id: str) -> list[Note]:
        """The task's story, oldest first."""
        return [
            Note(*row)
            for row in self._select(
                f"SELECT {_NOTE_COLUMNS} FROM events e "
                "WHERE e.serial = (SELECT serial FROM tasks WHERE id = ?) ORDER BY e.seq",
                task_id,
            )
        ]

    def tasks(self, wanted: TaskFilter) -> tuple[list[Task], str | None]:
        """One page, and the cursor of the next or None. Tasks added between two pages neither shift nor repeat any.

        Raises:
            BadCursor: `after` is none that a page gave.
        """
        sql, parameters = _page_query(wanted)
        rows = self._select(sql, *parameters, wanted.limit + 1)
        page = [_task(row) for row in rows[: wanted.limit]]
        more = len(rows) > wanted.limit
        return page, (_cursor(page[-1].created_at_us, page[-1].id) if more and page else None)

    def live(self) -> list[Task]:
        """Every task that isn't final, in the order of their commits, whatever the clock said: what a new coordinator
        takes up."""
        rows = self._select(
            f"SELECT {_TASK_COLUMNS} FROM tasks t INDEXED BY tasks_by_state CROSS JOIN specs s USING (serial) "
            f"WHERE t.state IN {_LIVE} ORDER BY t.serial"
        )
        return [_task(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many tasks are in each state, every state named."""
        counted = dict.fromkeys(State, 0)
        for state, tasks in self._select("SELECT state, sum(tasks) FROM counters GROUP BY state"):
            counted[State(state)] = tasks
        return counted

    def usage(self, token: str) -> TokenUsage:
        rows = self._select("SELECT open_tasks, stored_bytes FROM tokens WHERE token = ?", token)
        return TokenUsage(*rows[0]) if rows else TokenUsage()

    def replay(self, token: str, key: str) -> tuple[str, str] | None:
        """(task id, SHA-256 of the body) that an Idempotency-Key stands for, while it is kept."""
        rows = self._select(
            "SELECT task_id, body_sha256 FROM idempotency WHERE token = ? AND key = ? AND created_us > ? "
            "AND EXISTS (SELECT 1 FROM tasks WHERE id = task_id)",
            *(token, key, self._wall_us() - IDEMPOTENCY_US),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def events(self, after_seq: int, limit: int) -> list[Event]:
        """The story of all tasks behind `after_seq`, oldest first."""
        rows = self._select(
            f"SELECT e.seq, t.id, {_NOTE_COLUMNS} FROM events e CROSS JOIN tasks t USING (serial) "
            "WHERE e.seq > ? ORDER BY e.seq LIMIT ?",
            *(after_seq, limit),
        )
        return [Event(row[0], row[1], Note(*row[2:])) for row in rows]

    def module(self, digest: str) -> Module | None:
        rows = self._select(f"SELECT {_MODULE_COLUMNS} FROM modules WHERE digest = ?", digest)
        return _module(rows[0]) if rows else None

    def modules(self, limit: int = 50, after: str | None = None) -> tuple[list[Module], str | None]:
        """One page of modules, newest first, and the cursor of the next or None. Raises: BadCursor."""
        behind, parameters = _behind("created_us", "digest", after)
        rows = self._select(
            f"SELECT {_MODULE_COLUMNS} FROM modules INDEXED BY modules_by_created WHERE 1 {behind} "
            "ORDER BY created_us DESC, digest DESC LIMIT ?",
            *(*parameters, limit + 1),
        )
        page = [_module(row) for row in rows[:limit]]
        return page, (_cursor(page[-1].created_at_us, page[-1].digest) if len(rows) > limit and page else None)

    def routes(self) -> tuple[list[FunctionRow], list[Route]]:
        """All functions and all revisions, by name, as they were at one moment.

        A spec is unpacked once: whoever asks again after a change finds most of them as they were.
        """
        rows = self._select(f"SELECT {_ROUTE_COLUMNS} FROM {_ROUTE_TABLES} ORDER BY f.name, r.revision")
        known, self._route_specs = self._route_specs, {}
        return _routes(rows, known, self._route_specs)

    def function(self, name: str) -> tuple[FunctionRow, list[Route]] | None:
        """One function with its revisions; None where there never was one."""
        sql = f"SELECT {_ROUTE_COLUMNS} FROM {_ROUTE_TABLES} WHERE f.name = ? ORDER BY r.revision"
        functions, routes = _routes(self._select(sql, name))
        return (functions[0], routes) if functions else None

    def functions(self, limit: int = 50, after: str | None = None) -> tuple[list[FunctionRow], list[Route], str | None]:
        """One page of functions by name, all their revisions, and the cursor of the next page or None.

        Raises:
            BadCursor: `after` is none that a page gave.
        """
        behind = "" if after is None else _position(after)[1]
        rows = self._select(
            f"SELECT {_ROUTE_COLUMNS} FROM {_ROUTE_TABLES} "
            "WHERE f.name IN (SELECT name FROM functions WHERE name > ? ORDER BY name LIMIT ?) "
            "ORDER BY f.name, r.revision",
            *(behind, limit + 1),
        )
        functions, routes = _routes(rows)
        if len(functions) <= limit:
            return functions, routes, None
        page, beyond = functions[:limit], functions[limit].name
        return page, [route for route in routes if route.function != beyond], _cursor(0, page[-1].name)

    def known(self, task_ids: list[str]) -> set[str]:
        """Those of the ids that are tasks'."""
        found: set[str] = set()
        for first in range(0, len(task_ids), _IDS_AT_ONCE):
            ids = task_ids[first : first + _IDS_AT_ONCE]
            found.update(row[0] for row in self._select(f"SELECT id FROM tasks WHERE id IN ({_places(ids)})", *ids))
        return found

    def standing(self) -> tuple[dict[str, State], dict[State, int]]:
        """At one moment: the state of every task that isn't final, and how many the counters say there are of each."""
        rows = self._select(
            f"SELECT id, state, 0 FROM tasks INDEXED BY tasks_by_state WHERE state IN {_LIVE} "
            f"UNION ALL SELECT NULL, state, sum(tasks) FROM counters WHERE state IN {_LIVE} GROUP BY state"
        )
        states = {task_id: State(state) for task_id, state, _ in rows if task_id is not None}
        return states, {State(state): tasks for task_id, state, tasks in rows if task_id is None}

    def digests(self) -> list[str]:
        """Of all modules."""
        return [digest for (digest,) in self._select("SELECT digest FROM modules")]

    def _select(self, sql: str, *parameters: object) -> list[_Row]:
        try:
            return self._fresh().execute(sql, parameters).fetchall()
        except sqlite3.Error as exc:
            self.close()  # whatever it was, the next call starts anew
            raise translate(self._path, exc) from exc

    def _fresh(self) -> sqlite3.Connection:
        try:
            found = os.stat(self._path)
        except OSError as exc:
            self.close()
            raise TableError(f"{self._path} can't be read ({exc.strerror}): is the data directory there?") from exc
        identity = (found.st_dev, found.st_ino)
        if self._connection is not None and identity != self._identity:
            self.close()
        if self._connection is None:
            self._connection = open_for_reading(self._path)
            self._identity = identity
        return self._connection


def _places(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _page_query(wanted: TaskFilter) -> tuple[str, list[object]]:
    """The SELECT of one page, over the index that narrows it most; the others only test the rows that it walks."""
    parameters: list[object] = []
    conditions = ["1"]
    if wanted.label is not None:
        source, stamp = "labels l CROSS JOIN tasks t ON t.serial = l.serial", "l"
        conditions.append("l.key = ? AND l.value = ?")
        parameters += wanted.label
    else:
        index = "tasks_by_created"
        if wanted.function is not None:
            index = "tasks_by_function"
        elif wanted.state is not None:
            index = "tasks_by_state"
        elif wanted.kind is Kind.SERVICE:
            index = "tasks_services"
        source, stamp = f"tasks t INDEXED BY {index}", "t"
    if wanted.function is not None:
        conditions.append("t.function = ?")
        parameters.append(wanted.function)
    if wanted.state is not None:
        conditions.append("t.state = ?")
        parameters.append(wanted.state.value)
    if wanted.kind is not None:
        # Written out, because a partial index is only used for a condition that is its own.
        conditions.append("t.kind = 'service'" if wanted.kind is Kind.SERVICE else "t.kind = 'job'")
    behind, position = _behind(f"{stamp}.created_us", f"{stamp}.id", wanted.after)
    sql = (
        f"SELECT {_TASK_COLUMNS} FROM {source} CROSS JOIN specs s ON s.serial = t.serial "
        f"WHERE {' AND '.join(conditions)} {behind} ORDER BY {stamp}.created_us DESC, {stamp}.id DESC LIMIT ?"
    )
    return sql, parameters + position


def _behind(stamp: str, name: str, after: str | None) -> tuple[str, list[object]]:
    return ("", []) if after is None else (f"AND ({stamp}, {name}) < (?, ?)", list(_position(after)))


def _cursor(created_us: int, name: str) -> str:
    return base64.urlsafe_b64encode(f"{created_us}:{name}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        created, _, name = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").partition(":")
        created_us = int(created)
    except (ValueError, binascii.Error) as exc:
        raise BadCursor("`after` takes the `next` of an earlier page, unchanged") from exc
    if not (name and 0 <= created_us < 2**63):
        raise BadCursor("`after` takes the `next` of an earlier page, unchanged")
    return created_us, name


def _task(row: _Row) -> Task:
    task_id, token, created_us, spec, status = row
    return Task(task_id, token, unpack_spec(spec), created_us, unpack_status(status))


def _routes(
    rows: list[_Row], known: _Specs | None = None, seen: _Specs | None = None
) -> tuple[list[FunctionRow], list[Route]]:
    """Rows of _ROUTE_COLUMNS, ordered by function. Specs that are `known` aren't unpacked; all go into `seen`."""
    known, seen = known or {}, {} if seen is None else seen
    functions: dict[str, FunctionRow] = {}
    routes = []
    for name, default, generation, revision, task_id, routed, trouble, spec in rows:
        if name not in functions:
            functions[name] = FunctionRow(name, default, generation)
        if spec is not None:
            before = known.get(task_id)
            seen[task_id] = before if before is not None and before[0] == spec else (spec, unpack_spec(spec))
            routes.append(Route(name, revision, task_id, bool(routed), trouble, seen[task_id][1]))
    return list(functions.values()), routes


def _module(row: _Row) -> Module:
    digest, size_bytes, interface, created_us = row
    return Module(digest, size_bytes, *unpack_interface(interface), created_at_us=created_us)
