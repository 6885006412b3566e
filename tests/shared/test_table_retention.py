"""Retention in the table: the oldest end goes first, with all that belongs to it, and every count stays right."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.shared.samples import insert, make_task, note, task_id, update
from worker.core.changes import Applied, DropModule, Expired, ExpireTasks, InsertModule, UpdateTask
from worker.core.commands import Idempotency
from worker.core.module import Module
from worker.core.task import State, Status
from worker.shared.blobs import Blobs
from worker.shared.schema import IDEMPOTENCY_US
from worker.shared.table import TableReader, TableWriter, TokenUsage

KEEP_ALL = ExpireTasks(
    before_us=0, now_us=0, keep_tasks=10**6, keep_output_bytes=2**60, keep_module_bytes=2**60, limit=10
)
DIGESTS = tuple("sha256:" + 32 * pair for pair in ("aa", "bb", "cc"))
OUTPUT = b"12345"


def end(writer: TableWriter, number: int, at_us: int, state: State = State.COMPLETED, output: bytes = OUTPUT) -> None:
    """Task `number` comes, writes `output` and ends at `at_us`."""
    Blobs(writer.path.parent).output_paths(task_id(number))[0].write_bytes(output)
    task = make_task(number, labels=(("team", "a"),))
    ended = replace(task, status=Status(state, finished_at_us=at_us))
    changes = [insert(number, labels=(("team", "a"),)), UpdateTask(ended, (note(state),), fsync_output=True)]
    assert [Applied(), Applied()] == writer.apply(changes)


def expire(writer: TableWriter, **change: int) -> Expired:
    (result,) = writer.apply([replace(KEEP_ALL, **change)])
    assert isinstance(result, Expired)
    return result


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(map(task_id, numbers))


def rows(path: Path) -> dict[str, int]:
    """How many rows each table has that belong to tasks."""
    connection = sqlite3.connect(path)
    tables = ("tasks", "specs", "labels", "events")
    found = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    connection.close()
    return found


def add_module(writer: TableWriter, digest: str, size_bytes: int, at_us: int) -> None:
    blob = Blobs(writer.path.parent).new_temporary()
    blob.write(bytes(size_bytes))
    name = blob.finish()
    blob.release()
    assert [Applied()] == writer.apply([InsertModule(Module(digest, size_bytes, (), (), at_us), name)])


def test_nothing_goes_while_nothing_is_too_much(writer: TableWriter) -> None:
    end(writer, 1, at_us=10)
    assert Expired(False) == expire(writer)


def test_what_ended_too_long_ago_goes_and_not_what_was_only_added_then(writer: TableWriter) -> None:
    for number, at_us in ((1, 30), (2, 10), (3, 20)):
        end(writer, number, at_us)
    writer.apply([insert(4)])
    assert ids(2, 3) == expire(writer, before_us=30).task_ids
    assert ids(1) == expire(writer, before_us=10**9).task_ids
    assert () == expire(writer, before_us=10**9).task_ids


def test_too_many_go_oldest_end_first_whatever_their_end(writer: TableWriter) -> None:
    for number in range(1, 6):
        end(writer, number, 10 * number, State.FAILED if number % 2 else State.COMPLETED)
    writer.apply([insert(9)])
    assert ids(1, 2, 3) == expire(writer, keep_tasks=2).task_ids


def test_too_much_output_goes_with_its_tasks(writer: TableWriter) -> None:
    for number in range(1, 6):
        end(writer, number, 10 * number)
    assert ids(1, 2) == expire(writer, keep_output_bytes=15).task_ids
    assert ids(3) == expire(writer, keep_output_bytes=14).task_ids
    assert () == expire(writer, keep_output_bytes=10).task_ids


def test_bytes_of_modules_and_of_waiting_input_are_no_output_after_a_restart_either(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    add_module(writer, DIGESTS[0], 1000, 5)
    writer.apply([insert(7, stdin_bytes=500)])
    end(writer, 1, 10)
    writer.close()
    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    try:
        assert () == expire(writer, keep_output_bytes=5).task_ids
        assert ids(1) == expire(writer, keep_output_bytes=4).task_ids
    finally:
        writer.close()


def test_a_batch_is_as_long_as_it_may_be_and_says_that_there_is_more(writer: TableWriter) -> None:
    for number in range(1, 5):
        end(writer, number, 10 * number)
    assert (ids(1, 2, 3), True) == (lambda found: (found.task_ids, found.more))(expire(writer, keep_tasks=0, limit=3))
    assert (ids(4), False) == (lambda found: (found.task_ids, found.more))(expire(writer, keep_tasks=0, limit=3))


def test_a_row_takes_along_what_is_its_own_and_the_counts_follow(writer: TableWriter, reader: TableReader) -> None:
    for number in (1, 2):
        end(writer, number, 10 * number)
    writer.apply([insert(3)])
    before = writer.event_seq
    expire(writer, keep_tasks=1)
    assert {"tasks": 2, "specs": 2, "labels": 1, "events": 3} == rows(writer.path)
    assert (1, 1) == (reader.counts()[State.COMPLETED], reader.counts()[State.PENDING])
    assert TokenUsage(open_tasks=1, stored_bytes=len(OUTPUT)) == reader.usage("")
    assert None is reader.task(task_id(1))
    expire(writer, keep_tasks=0)
    end(writer, 4, 40)
    assert before + 2 == writer.event_seq  # of the deleted none comes again


def test_what_ends_and_goes_in_one_transaction_is_counted_rightly(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1)])
    ended = update(make_task(1), State.COMPLETED, finished_at_us=5)
    assert Expired(True, ids(1)) == writer.apply([ended, replace(KEEP_ALL, before_us=10)])[1]
    assert {"tasks": 0, "specs": 0, "labels": 0, "events": 0} == rows(writer.path)
    assert set(reader.counts().values()) == {0}
    assert TokenUsage() == reader.usage("")


def test_a_transaction_that_is_rolled_back_has_removed_nothing(tmp_path: Path) -> None:
    refused: list[str] = []

    def refuse(point: str) -> None:
        if point == "table.synced" and refused:
            raise OSError("the disk refuses")

    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0, fault=refuse)
    try:
        end(writer, 1, 10)
        refused.append("from now on")
        assert not isinstance(writer.apply([replace(KEEP_ALL, keep_output_bytes=0)])[0], Expired)
        refused.clear()
        assert ids(1) == expire(writer, keep_output_bytes=4).task_ids
        assert () == expire(writer, keep_output_bytes=0).task_ids
    finally:
        writer.close()


def test_an_idempotency_key_of_a_task_that_went_is_free(writer: TableWriter, reader: TableReader) -> None:
    key = Idempotency("key", "1" * 64)
    first = replace(insert(1), idempotency=key)
    ended = update(make_task(1), State.COMPLETED, finished_at_us=5)
    assert [Applied(), Applied()] == writer.apply([first, ended])
    expire(writer, before_us=10)
    assert [Applied()] == writer.apply([replace(insert(2), idempotency=key)])
    assert None is reader.task(task_id(1))


def test_keys_go_with_their_tasks_and_those_of_others_stay(writer: TableWriter) -> None:
    for number in (1, 2):
        writer.apply([replace(insert(number), idempotency=Idempotency(f"key-{number}", "1" * 64))])
    writer.apply([update(make_task(1), State.COMPLETED, finished_at_us=5)])
    expire(writer, before_us=10)
    connection = sqlite3.connect(writer.path)
    assert [("key-2",)] == connection.execute("SELECT key FROM idempotency").fetchall()
    connection.close()


def test_keys_that_are_too_old_go_though_no_new_one_comes(writer: TableWriter) -> None:
    writer.apply([replace(insert(1), idempotency=Idempotency("key", "1" * 64))])
    expire(writer, now_us=1_000_001 + IDEMPOTENCY_US)
    connection = sqlite3.connect(writer.path)
    assert (0,) == connection.execute("SELECT count(*) FROM idempotency").fetchone()
    connection.close()


def test_modules_are_told_by_last_use_when_they_are_too_much(writer: TableWriter) -> None:
    for digest, at_us in zip(DIGESTS, (30, 10, 20), strict=True):
        add_module(writer, digest, 100, at_us)
    assert Expired(False) == expire(writer, keep_module_bytes=300)
    found = expire(writer, keep_module_bytes=250)
    assert 50 == found.excess_module_bytes
    assert ((DIGESTS[1], 100, 10), (DIGESTS[2], 100, 20), (DIGESTS[0], 100, 30)) == found.modules
    writer.apply([DropModule(DIGESTS[1]), DropModule(DIGESTS[1])])
    assert Expired(False) == expire(writer, keep_module_bytes=250)


@pytest.mark.parametrize("numbers", [[], [1], [1, 2, 3]])
def test_the_reader_tells_which_ids_are_tasks(writer: TableWriter, reader: TableReader, numbers: list[int]) -> None:
    writer.apply([insert(number) for number in numbers])
    assert set(ids(*numbers)) == reader.known([*ids(1, 2, 3), ""])


def test_the_reader_tells_who_stands_where(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1), insert(2)])
    end(writer, 3, 10)
    writer.apply([update(make_task(2), State.RUNNING)])
    states, counted = reader.standing()
    assert {task_id(1): State.PENDING, task_id(2): State.RUNNING} == states
    assert {State.PENDING: 1, State.RUNNING: 1} == counted
