"""The reader: one page after another without gap or repeat, and always what was committed last."""

from __future__ import annotations

import itertools
import os
import sqlite3
from pathlib import Path

import pytest

from tests.shared.samples import insert, make_task, note, task_id
from worker.core.changes import Applied, InsertModule, UpdateTask
from worker.core.module import Module
from worker.core.task import Handler, Kind, Service, State, Status
from worker.errors import BadCursor, TableError
from worker.shared.table import Event, TableReader, TableWriter, TaskFilter


def _all_pages(reader: TableReader, limit: int, between=lambda: None, **wanted: object) -> list[str]:
    seen: list[str] = []
    after = None
    while True:
        page, after = reader.tasks(TaskFilter(limit=limit, after=after, **wanted))
        seen += [task.id for task in page]
        if after is None:
            return seen
        assert limit == len(page)
        between()


def test_what_is_not_there_is_none(reader: TableReader) -> None:
    assert (None, [], None, None) == (
        *(reader.task(task_id(1)), reader.notes(task_id(1))),
        *(reader.module("sha256:" + "0" * 64), reader.replay("", "key")),
    )
    assert ([], None) == reader.tasks(TaskFilter())
    assert ([], None) == reader.modules()


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 500])
def test_pages_are_newest_first_and_complete(writer: TableWriter, reader: TableReader, limit: int) -> None:
    """Several tasks are of the same microsecond, so that pages end among them."""
    writer.apply([insert(number, created_at_us=number // 3) for number in range(1, 11)])
    assert [task_id(number) for number in range(10, 0, -1)] == _all_pages(reader, limit)


def test_pages_have_no_gap_and_no_repeat_while_tasks_are_added(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(number) for number in range(1, 21)])
    fresh = itertools.count(100)
    seen = _all_pages(reader, 3, between=lambda: writer.apply([insert(next(fresh)), insert(next(fresh))]))
    assert [task_id(number) for number in range(20, 0, -1)] == seen


def _mixed() -> list[dict]:
    return [
        (
            {"kind": Kind.SERVICE, "service": Service(f"f{number % 2}", f"r{number}", Handler("wagi"))}
            if number % 5 == 0
            else {"kind": Kind.JOB, "name": f"f{number % 2}"}
        )
        | {"labels": (("team", "a" if number % 3 else "b"), ("n", str(number)))}
        | {"status": Status(state=list(State)[number % 5])}
        for number in range(30)
    ]


FILTERS = [
    {},
    {"state": State.COMPLETED},
    {"kind": Kind.SERVICE},
    {"kind": Kind.JOB},
    {"label": ("team", "b")},
    {"label": ("team", "nobody")},
    {"function": "f0"},
    {"state": State.FAILED, "kind": Kind.JOB, "label": ("team", "a")},
    {"state": State.PENDING, "kind": Kind.SERVICE, "function": "f0", "label": ("team", "a")},
]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
@pytest.mark.parametrize("limit", [2, 500])
def test_every_filter_finds_what_a_plain_loop_finds(
    writer: TableWriter, reader: TableReader, wanted: dict, limit: int
) -> None:
    tasks = [make_task(number, **fields) for number, fields in enumerate(_mixed())]
    writer.apply([insert(number, **fields) for number, fields in enumerate(_mixed())])
    expected = [
        task.id
        for task in reversed(tasks)
        if ("state" not in wanted or task.status.state == wanted["state"])
        and ("kind" not in wanted or task.spec.kind == wanted["kind"])
        and ("function" not in wanted or (task.spec.service and task.spec.service.function == wanted["function"]))
        and ("label" not in wanted or wanted["label"] in task.spec.labels)
    ]
    assert expected == _all_pages(reader, limit, **wanted)


@pytest.mark.parametrize(
    "combination",
    [
        dict(combination)
        for count in range(5)
        for combination in itertools.combinations(
            [("state", State.FAILED), ("kind", Kind.SERVICE), ("function", "f"), ("label", ("a", "b"))], count
        )
    ],
    ids=str,
)
def test_no_page_sorts_or_scans(reader: TableReader, writer: TableWriter, combination: dict) -> None:
    """Every combination walks an index in the order of the page: its cost is the page's, not the table's."""
    from worker.shared.table_reader import _cursor, _page_query

    for after in (None, _cursor(5, task_id(5))):
        sql, parameters = _page_query(TaskFilter(**combination, after=after))
        connection = sqlite3.connect(writer.path)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", (*parameters, 10))]
        connection.close()
        assert not [line for line in plan if "TEMP B-TREE" in line]
        first = plan[0]
        assert "INDEX" in first or "PRIMARY KEY" in first
        if after is not None:
            assert "created_us" in first


@pytest.mark.parametrize(
    "cursor", ["", "x", "=", "é", "AAAA", "MTI", "LTE6YQ", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTphYg", "a" * 999]
)
def test_a_cursor_that_no_page_gave_is_refused(reader: TableReader, cursor: str) -> None:
    with pytest.raises(BadCursor):
        reader.tasks(TaskFilter(after=cursor))
    with pytest.raises(BadCursor):
        reader.modules(after=cursor)


def test_live_is_every_task_that_is_not_final_oldest_first(writer: TableWriter, reader: TableReader) -> None:
    changes = [insert(number, status=Status(state=list(State)[number % 5])) for number in range(10)]
    writer.apply(changes)
    expected = [change.task for change in changes if not change.task.final]
    assert expected == reader.live()


def test_live_is_in_the_order_of_commits_whatever_the_clock_said(writer: TableWriter, reader: TableReader) -> None:
    for number, created_at_us in ((1, 5_000), (2, 1_000), (3, 3_000)):
        writer.apply([insert(number, created_at_us=created_at_us)])
    assert [task_id(1), task_id(2), task_id(3)] == [task.id for task in reader.live()]
    listed, _ = reader.tasks(TaskFilter(limit=3))
    assert [task_id(1), task_id(3), task_id(2)] == [task.id for task in listed], "lists go by what they show"


def test_events_of_all_tasks_come_in_order_behind_a_seq(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1), insert(2)])
    ended = note(State.COMPLETED, 9, "ended")
    writer.apply([UpdateTask(make_task(1, status=Status(state=State.COMPLETED)), (ended,))])
    assert [Event(2, task_id(2), note()), Event(3, task_id(1), ended)] == reader.events(1, 10)
    assert [Event(1, task_id(1), note())] == reader.events(0, 1)
    assert [] == reader.events(3, 10)


def test_modules_are_listed_newest_first(writer: TableWriter, reader: TableReader) -> None:
    from worker.shared.blobs import Blobs

    blobs = Blobs(writer.path.parent)
    modules = [Module(f"sha256:{number:064x}", number, (), (), number // 2) for number in range(7)]
    for module in modules:
        with blobs.new_temporary() as blob:
            assert [Applied()] == writer.apply([InsertModule(module, blob.finish())])
    seen, after = reader.modules(limit=3)
    while after is not None:
        page, after = reader.modules(limit=3, after=after)
        seen += page
    assert modules[::-1] == seen
    assert sorted(module.digest for module in modules) == sorted(reader.digests())


def test_a_reader_in_another_process_sees_each_commit_as_it_returns(writer: TableWriter) -> None:
    ask_read, ask_write = os.pipe()
    answer_read, answer_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ask_write)
            reader = TableReader(writer.path)
            while os.read(ask_read, 1):
                os.write(answer_write, b"%04d" % reader.counts()[State.PENDING])
        finally:
            os._exit(0)
    os.close(ask_read)
    for number in range(1, 51):
        writer.apply([insert(number)])
        os.write(ask_write, b"?")
        assert number == int(os.read(answer_read, 4))
    os.close(ask_write)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(answer_read)
    os.close(answer_write)


def test_a_reader_leaves_no_snapshot_open(writer: TableWriter, reader: TableReader) -> None:
    """The log is copied and reset although a reader is connected and has just read."""
    writer.apply([insert(1)])
    assert 1 == reader.counts()[State.PENDING]
    connection = sqlite3.connect(writer.path)
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.close()
    assert 0 == busy
    assert 0 == (writer.path.parent / "table.sqlite-wal").stat().st_size


def test_a_reader_opens_a_file_that_was_replaced(tmp_path: Path, writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1)])
    assert 1 == reader.counts()[State.PENDING]
    (tmp_path / "other").mkdir()
    other = TableWriter(tmp_path / "other" / "table.sqlite", reserve_bytes=0)
    other.apply([insert(2), insert(3)])
    other.close()
    writer.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{writer.path}{suffix}").unlink(missing_ok=True)
    other.path.replace(writer.path)
    assert [task_id(2), task_id(3)] == [task.id for task in reader.live()]


def test_a_reader_says_that_its_table_is_missing_and_finds_it_once_it_is_there(tmp_path: Path) -> None:
    reader = TableReader(tmp_path / "table.sqlite")
    with pytest.raises(TableError, match="data directory"):
        reader.counts()
    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    writer.apply([insert(1)])
    assert 1 == reader.counts()[State.PENDING]
    reader.close()
    writer.close()
