"""A damaged table is salvaged: what can be read is there again, what can't is told, and the damaged file is kept."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime

from tests.shared.samples import deploy, insert, make_service, task_id, update
from worker.core.changes import InsertModule
from worker.core.functions import FunctionRow
from worker.core.module import Extern, Module
from worker.core.task import State
from worker.errors import TableCorrupt, TableError
from worker.repair import repair
from worker.shared.blobs import Blobs
from worker.shared.table import TableReader, TableWriter, TaskFilter

TASKS = 400
PAGE_BYTES = 4096
WASM = bytes(wasmtime.wat2wasm('(module (func (export "f") (param i32) (result i64) i64.const 1))'))
DIGEST = f"sha256:{hashlib.sha256(WASM).hexdigest()}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table with TASKS tasks and one module."""
    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    blobs = Blobs(tmp_path)
    writer.apply([insert(number, token="t", labels=(("n", str(number)),)) for number in range(TASKS)])
    blob = blobs.new_temporary()
    blob.write(WASM)
    exports = (Extern("f", "func", "", ("i32",), ("i64",)),)
    writer.apply([InsertModule(Module(DIGEST, len(WASM), (), exports, 1), blob.finish(), "t")])
    blob.discard()
    writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.close()
    return writer.path


def _all_ids(path: Path) -> set[str]:
    reader, found, after = TableReader(path), set(), None
    while True:
        page, after = reader.tasks(TaskFilter(limit=500, after=after))
        found |= {task.id for task in page}
        if after is None:
            reader.close()
            return found


def _scribble(path: Path, pages: list[int]) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE_BYTES)
            file.write(random.Random(page).randbytes(PAGE_BYTES))


def test_an_undamaged_table_comes_out_whole(path: Path) -> None:
    before = TableReader(path)
    expected = before.task(task_id(7)), before.counts(), before.usage("t"), before.module(DIGEST)
    before.close()
    salvage = repair(path)
    after = TableReader(path)
    assert expected == (after.task(task_id(7)), after.counts(), after.usage("t"), after.module(DIGEST))
    after.close()
    assert TASKS == salvage.kept["tasks"]
    assert 0 == sum(salvage.unreadable.values())
    assert salvage.damaged.exists()


@pytest.mark.parametrize("seed", range(6))
def test_what_can_be_read_of_a_damaged_one_is_kept(path: Path, seed: int) -> None:
    pages = path.stat().st_size // PAGE_BYTES
    _scribble(path, random.Random(seed).sample(range(1, pages), 4))
    salvage = repair(path)
    ids = _all_ids(path)
    assert {task_id(number) for number in range(TASKS)} >= ids
    # The page that holds the root of a table takes the table with it; anything else takes some rows.
    assert salvage.kept["tasks"] - len(salvage.dropped_tasks) == len(ids)
    reader = TableReader(path)
    assert len(ids) == reader.counts()[State.PENDING]
    assert len(ids) == reader.usage("t").open_tasks
    reader.close()
    writer = TableWriter(path, reserve_bytes=0)  # and it is a table that can be written
    assert [True] == [result.created for result in writer.apply([insert(TASKS + 1)])]
    writer.close()


def test_a_hole_in_the_rows_is_stepped_over(path: Path) -> None:
    """A leaf page of the tasks, in the middle: what lies before and behind it is there again."""
    (found,) = [
        page for page in range(path.stat().st_size // PAGE_BYTES) if task_id(TASKS // 2).encode() in _leaf(path, page)
    ]
    _scribble(path, [found])
    assert repair(path).unreadable["tasks"]
    kept = _all_ids(path)
    assert {task_id(0), task_id(TASKS - 1)} <= kept
    assert task_id(TASKS // 2) not in kept


def _leaf(path: Path, page: int) -> bytes:
    """A page's bytes, where it is a leaf of a table and not of an index (SQLite's file format, 1.6)."""
    content = path.read_bytes()[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    return content if content[0] == 0x0D and b"job-" in content else b""


def test_a_module_whose_row_is_lost_is_admitted_again_from_its_file(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    Blobs(path.parent).module_path(f"sha256:{'0' * 64}").write_bytes(b"no module")
    with pytest.raises((TableCorrupt, TableError)):
        TableReader(path).counts()
    salvage = repair(path)
    assert [DIGEST] == salvage.modules_admitted
    reader = TableReader(path)
    module = reader.module(DIGEST)
    reader.close()
    assert module is not None
    assert (len(WASM), ("f", ("i32",), ("i64",))) == (
        module.size_bytes,
        (module.exports[0].name, module.exports[0].params, module.exports[0].results),
    )


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """`f` has a default that runs, one that is being stopped and one that ended; `g` has one that waits."""
    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    writer.apply([deploy(1), deploy(2, revision="r2"), deploy(3, revision="r3"), deploy(4, "g")])
    writer.apply([replace(update(make_service(1), State.RUNNING), default=True)])
    writer.apply([update(make_service(2, revision="r2"), State.RUNNING, stopping=True)])
    writer.apply([update(make_service(3, revision="r3"), State.FAILED)])
    writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.close()
    return writer.path


def _routes(path: Path) -> tuple[list[FunctionRow], list[tuple[str, str, str, bool]]]:
    reader = TableReader(path)
    functions, routes = reader.routes()
    reader.close()
    return functions, [(one.function, one.revision, one.task_id, one.routed) for one in routes]


REVISIONS = [("f", "r1", task_id(1), True), ("f", "r2", task_id(2), False), ("g", "r1", task_id(4), False)]


def test_functions_and_their_defaults_come_out_whole(services: Path) -> None:
    expected = _routes(services)
    assert ([FunctionRow("f", "r1", 1), FunctionRow("g")], REVISIONS) == expected
    repair(services)
    assert expected == _routes(services)


def test_services_whose_routes_are_lost_are_routed_again(services: Path) -> None:
    with closing(sqlite3.connect(services, isolation_level=None)) as connection:
        connection.execute("DELETE FROM revisions")
        connection.execute("DELETE FROM functions WHERE name = 'g'")
    repair(services)
    assert ([FunctionRow("f", "r1", 1), FunctionRow("g")], REVISIONS) == _routes(services)


def test_what_routes_are_left_of_no_service_that_lives_are_dropped(services: Path) -> None:
    with closing(sqlite3.connect(services, isolation_level=None)) as connection:
        for number, revision in ((3, "r3"), (77, "r77")):
            connection.execute("INSERT INTO revisions VALUES ('f', ?, ?, 1, NULL)", (revision, task_id(number)))
    repair(services)
    assert REVISIONS == _routes(services)[1]


def test_nothing_to_repair_is_told(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="nothing to repair"):
        repair(tmp_path / "table.sqlite")


def test_a_repair_that_was_killed_can_be_done_again(path: Path) -> None:
    path.with_name(path.name + ".repaired").write_bytes(b"half")
    assert TASKS == repair(path).kept["tasks"]
