"""Functions and their revisions in the table: what is routed where, and when a reader has to look again."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.shared.samples import deploy, insert, make_service, task_id, update
from worker.core.changes import Applied, SetDefault, SetTrouble, WriteFailed
from worker.core.functions import FunctionRow
from worker.core.task import State
from worker.errors import BadCursor
from worker.shared.routes import Route
from worker.shared.schema import MIGRATIONS, open_for_writing
from worker.shared.table import TableReader, TableWriter


def _routes(reader: TableReader) -> dict[str, tuple[bool, str | None]]:
    return {f"{route.function}/{route.revision}": (route.routed, route.trouble) for route in reader.routes()[1]}


def test_a_deployed_service_is_a_revision_and_its_function_is_known(writer: TableWriter, reader: TableReader) -> None:
    assert ([], []) == reader.routes()
    writer.apply([deploy(1), deploy(2, revision="r2"), deploy(3, "a", "r1"), insert(4)])
    functions, routes = reader.routes()
    assert [FunctionRow("a"), FunctionRow("f")] == functions
    assert [("a", "r1", task_id(3)), ("f", "r1", task_id(1)), ("f", "r2", task_id(2))] == [
        (route.function, route.revision, route.task_id) for route in routes
    ]
    assert Route("f", "r2", task_id(2), False, None, make_service(2, revision="r2").spec) == routes[2]


def test_a_revision_is_routed_once_it_runs_and_until_it_is_stopped(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([deploy(1)])
    task, seen = make_service(1), []
    for change in (
        update(task, State.SCHEDULED),
        update(task, State.RUNNING),
        update(task, State.RUNNING),
        update(task, State.PENDING, attempts=2),  # the worker was restarted: callers wait until it runs again
        update(task, State.SCHEDULED, attempts=2),
        update(task, State.RUNNING, stopping=True),
        update(task, State.COMPLETED),
    ):
        before = writer.route_changes
        assert [Applied()] == writer.apply([change])
        seen.append((_routes(reader).get("f/r1"), writer.route_changes - before))
    routed, unrouted = (True, None), (False, None)
    assert [(unrouted, 0), (routed, 1), (routed, 0), (routed, 0), (routed, 0), (unrouted, 1), (None, 1)] == seen
    assert ([FunctionRow("f")], []) == reader.routes()


def test_the_default_and_its_generation_are_kept_for_ever(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([deploy(1), update(make_service(1), State.RUNNING), SetDefault("f", "r1", 1)])
    assert FunctionRow("f", "r1", 1) == reader.function("f")[0]
    writer.apply([SetDefault("f", None, 2), update(make_service(1), State.FAILED)])
    assert (FunctionRow("f", None, 2), []) == reader.function("f")
    writer.apply([deploy(2)])
    assert (FunctionRow("f", None, 2), ["r1"]) == (
        reader.function("f")[0],
        [route.revision for route in reader.function("f")[1]],
    )
    assert None is reader.function("g")


@pytest.mark.parametrize(
    ("before", "generation"),
    [
        ([], 1),
        ([SetDefault("f", None, 4)], 5),
        ([SetDefault("f", "r0", 4)], 5),
        ([SetDefault("f", "r1", 4)], 4),
    ],
)
def test_a_row_that_says_that_it_runs_makes_it_the_default(
    writer: TableWriter, reader: TableReader, before: list[SetDefault], generation: int
) -> None:
    writer.apply([deploy(1), *before])
    changes = writer.route_changes
    running = update(make_service(1), State.RUNNING)
    assert [Applied()] == writer.apply([replace(running, default=True)])
    assert writer.route_changes > changes
    assert FunctionRow("f", "r1", generation) == reader.function("f")[0]
    assert {"f/r1": (True, None)} == _routes(reader)


def test_nothing_of_a_row_that_fails_makes_a_default(writer: TableWriter, reader: TableReader) -> None:
    running = replace(update(make_service(1), State.RUNNING), default=True)
    (failed,) = writer.apply([running])  # there is no such task
    assert isinstance(failed, WriteFailed)
    assert ([], []) == reader.routes()


def test_trouble_is_told_for_as_long_as_it_lasts(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([deploy(1)])
    changes = []
    for detail in ("init failed", "init failed", None, None):
        writer.apply([SetTrouble(task_id(1), detail)])
        changes.append(writer.route_changes)
        assert {"f/r1": (False, detail)} == _routes(reader)
    assert [2, 2, 3, 3] == changes


def test_a_new_writer_knows_of_no_trouble(tmp_path: Path) -> None:
    for _ in range(2):
        writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
        reader = TableReader(writer.path)
        if not reader.routes()[1]:
            writer.apply([deploy(1), SetTrouble(task_id(1), "it died")])
            assert {"f/r1": (False, "it died")} == _routes(reader)
        else:
            assert {"f/r1": (False, None)} == _routes(reader)
        reader.close()
        writer.close()


def test_jobs_change_no_routes(writer: TableWriter) -> None:
    writer.apply([insert(1)])
    assert 0 == writer.route_changes


def test_a_change_that_fails_changes_no_routes(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([deploy(1)])
    before = writer.route_changes
    results = writer.apply([deploy(2, "g", name="\ud800"), deploy(3, "h")])
    assert Applied() == results[1]
    assert (["f", "h"], 1) == ([row.name for row in reader.routes()[0]], writer.route_changes - before)


def test_a_revision_deployed_anew_is_not_undone_by_the_late_row_of_the_old(
    writer: TableWriter, reader: TableReader
) -> None:
    """The end of the first is known to the core before it is on disk."""
    writer.apply([deploy(1), update(make_service(1), State.RUNNING)])
    writer.apply([deploy(2), update(make_service(2), State.RUNNING), update(make_service(1), State.COMPLETED)])
    assert [(task_id(2), True)] == [(route.task_id, route.routed) for route in reader.routes()[1]]


def test_a_module_fetched_late_changes_the_route_that_names_it(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([deploy(1)])
    before = writer.route_changes
    digest = "sha256:" + "ab" * 32
    change = update(make_service(1, digest=digest), State.PENDING)
    writer.apply([type(change)(change.task, change.notes, spec_changed=True)])
    assert (digest, 1) == (reader.routes()[1][0].spec.digest, writer.route_changes - before)


def test_a_spec_that_did_not_change_is_unpacked_once(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([deploy(1), deploy(2, revision="r2")])
    first, second = (route.spec for route in reader.routes()[1])
    change = update(make_service(2, revision="r2", digest="sha256:" + "ab" * 32), State.PENDING)
    writer.apply([replace(change, spec_changed=True), update(make_service(1), State.RUNNING)])
    again, changed = (route.spec for route in reader.routes()[1])
    assert (True, False, "sha256:" + "ab" * 32) == (again is first, changed is second, changed.digest)
    writer.apply([update(make_service(1), State.COMPLETED)])
    assert [changed] == [route.spec for route in reader.routes()[1]]
    assert [task_id(2)] == list(reader._route_specs)


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_functions_come_by_name_in_whole_pages(writer: TableWriter, reader: TableReader, limit: int) -> None:
    writer.apply([deploy(number, f"f{number % 5}", f"r{number}") for number in range(1, 13)])
    functions: list[str] = []
    revisions: list[str] = []
    after = None
    while True:
        page, routes, after = reader.functions(limit, after)
        assert {row.name for row in page} == {route.function for route in routes}
        functions += [row.name for row in page]
        revisions += [route.revision for route in routes]
        if after is None:
            break
        assert limit == len(page)
    assert [f"f{number}" for number in range(5)] == functions
    assert {f"r{number}" for number in range(1, 13)} == set(revisions)
    assert 12 == len(revisions)


def test_a_cursor_that_no_page_gave_is_refused(reader: TableReader) -> None:
    with pytest.raises(BadCursor):
        reader.functions(10, "!")


def test_a_table_of_the_version_without_functions_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    open_for_writing(path, "full", MIGRATIONS[:1]).close()
    writer = TableWriter(path, reserve_bytes=0)
    writer.apply([deploy(1)])
    writer.close()
    connection = sqlite3.connect(path)
    assert [("f", None, 0)] == connection.execute("SELECT * FROM functions").fetchall()
    assert [("f", "r1", task_id(1), 0, None)] == connection.execute("SELECT * FROM revisions").fetchall()
    connection.close()
