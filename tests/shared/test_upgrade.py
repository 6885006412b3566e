"""A table that an older version wrote is opened, after a backup, with everything that was in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import old_data
from tests.shared.old_data import AGAIN, HELLO, KEYED, LOST, SUM, TASKS, TRAPPED, WAITS
from worker.core.changes import Expired, ExpireTasks
from worker.core.task import Entry, Kind, Reason, State
from worker.shared.schema import MIGRATIONS, backup_path
from worker.shared.table import TableReader, TableWriter, TaskFilter, TokenUsage

MODULES_BYTES = 154 + 204 + 423


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return old_data.make(tmp_path)


@pytest.fixture
def writer(path: Path) -> Iterator[TableWriter]:
    opened = TableWriter(path, reserve_bytes=0)
    yield opened
    opened.close()


def dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    lines = [*connection.iterdump(), f"version {connection.execute('PRAGMA user_version').fetchone()[0]}"]
    connection.close()
    return lines


def test_the_backup_is_the_table_as_it_was(path: Path) -> None:
    before = dump(path)
    TableWriter(path, reserve_bytes=0).close()
    assert before == dump(backup_path(path, 1))
    assert f"version {len(MIGRATIONS)}" == dump(path)[-1]


def test_every_task_is_there_as_it_was(writer: TableWriter, reader: TableReader) -> None:
    tasks, _ = reader.tasks(TaskFilter())
    found = {task.id: (task.status.state, task.status.reason, task.spec.retry_max) for task in tasks}
    assert found == {
        HELLO: (State.COMPLETED, Reason.EXIT, 0),
        SUM: (State.COMPLETED, Reason.EXIT, 0),
        TRAPPED: (State.FAILED, Reason.TRAP, 0),
        KEYED: (State.COMPLETED, Reason.EXIT, 0),
        LOST: (State.RUNNING, None, 0),
        AGAIN: (State.RUNNING, None, 1),
        WAITS: (State.PENDING, None, 0),
    }
    assert [LOST, AGAIN, WAITS] == [task.id for task in reader.live()]


def test_what_was_asked_for_and_what_came_of_it_is_read(writer: TableWriter, reader: TableReader) -> None:
    added, hello, waits = reader.task(SUM), reader.task(HELLO), reader.task(WAITS)
    assert added is not None
    assert hello is not None
    assert waits is not None
    assert Entry("add", (("i32", 40), ("i32", 2)), b"[40,2]") == added.spec.entry
    assert ((("i32", 42),), Kind.JOB, None) == (added.status.result, added.spec.kind, added.spec.service)
    assert ((("LANG", "C"),), ("--fast",), (("team", "a"),)) == (hello.spec.env, hello.spec.args, hello.spec.labels)
    assert (10, 3) == (waits.spec.stdin_bytes, waits.spec.priority)
    assert ["accepted", "slot_assigned", "runner_started", "ended"] == [note.event for note in reader.notes(TRAPPED)]


def test_counts_lists_keys_and_modules_go_on(path: Path, writer: TableWriter, reader: TableReader) -> None:
    assert {State.COMPLETED: 3, State.FAILED: 1, State.RUNNING: 2, State.PENDING: 1, State.SCHEDULED: 0} == (
        reader.counts()
    )
    assert [HELLO] == [task.id for task in reader.tasks(TaskFilter(label=("team", "a")))[0]]
    assert TokenUsage(open_tasks=3, stored_bytes=MODULES_BYTES + 10 + 12 + 12) == reader.usage("")
    assert 3 == len(reader.modules()[0])
    assert ([], []) == reader.routes()
    at_the_time = TableReader(path, wall_us=lambda: old_data.KEYED_AT_US + 1)
    assert (KEYED, old_data.BODY_SHA256) == at_the_time.replay("", "again")
    at_the_time.close()


def test_retention_finds_what_ended_before_there_was_any(writer: TableWriter, reader: TableReader) -> None:
    change = ExpireTasks(
        2**60, 0, keep_tasks=10, keep_output_bytes=2**60, keep_module_bytes=MODULES_BYTES - 1, limit=10
    )
    (found,) = writer.apply([change])
    assert isinstance(found, Expired)
    assert ((HELLO, SUM, TRAPPED, KEYED), 1) == (found.task_ids, found.excess_module_bytes)
    assert {LOST, AGAIN, WAITS} == reader.known(list(TASKS))
