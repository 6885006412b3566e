"""A table is made, migrated after a backup, or refused with a reason; never changed by who can't read it."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from tests.shared.samples import insert, make_task, task_id
from worker.errors import SchemaTooNew, TableCorrupt, TableError, TableNotOurs
from worker.shared.schema import MIGRATIONS, backup_path, open_for_reading, open_for_writing
from worker.shared.table import TableReader, TableWriter

_NEXT = (*MIGRATIONS, ("ALTER TABLE tasks ADD COLUMN later INTEGER", "UPDATE tasks SET later = 7"))
_BROKEN = (*MIGRATIONS, ("ALTER TABLE tasks ADD COLUMN later INTEGER", "UPDATE absent SET later = 7"))


def _version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.sqlite"
    writer = TableWriter(path, reserve_bytes=0)
    writer.apply([insert(1)])
    writer.close()
    return path


def test_a_new_table_has_the_newest_version_and_is_its_owners_alone(table: Path) -> None:
    assert len(MIGRATIONS) == _version(table)
    assert 0o600 == stat.S_IMODE(table.stat().st_mode)


def test_the_durability_is_what_was_asked_for(tmp_path: Path) -> None:
    for durability, level in (("full", 2), ("normal", 1)):
        connection = open_for_writing(tmp_path / durability, durability)
        assert level == connection.execute("PRAGMA synchronous").fetchone()[0]
        assert "wal" == connection.execute("PRAGMA journal_mode").fetchone()[0]
        connection.close()


def test_an_older_table_is_migrated_and_a_backup_of_it_is_kept(table: Path) -> None:
    connection = open_for_writing(table, "full", _NEXT)
    assert [(task_id(1), 7)] == connection.execute("SELECT id, later FROM tasks").fetchall()
    connection.close()
    assert len(_NEXT) == _version(table)

    kept = backup_path(table, len(MIGRATIONS))
    assert len(MIGRATIONS) == _version(kept)
    assert 0o600 == stat.S_IMODE(kept.stat().st_mode)
    reader = TableReader(kept)
    assert make_task(1) == reader.task(task_id(1))
    reader.close()


def test_a_migration_that_fails_changes_nothing(table: Path) -> None:
    with pytest.raises(TableError, match="no such table: absent"):
        open_for_writing(table, "full", _BROKEN)
    assert len(MIGRATIONS) == _version(table)
    reader = TableReader(table)
    assert make_task(1) == reader.task(task_id(1))
    reader.close()


def test_a_half_backup_of_a_killed_migration_is_in_nobodys_way(table: Path) -> None:
    half = backup_path(table, len(MIGRATIONS)).with_name(backup_path(table, len(MIGRATIONS)).name + ".half")
    half.write_bytes(b"half")
    open_for_writing(table, "full", _NEXT).close()
    assert not half.exists()
    assert len(MIGRATIONS) == _version(backup_path(table, len(MIGRATIONS)))


@pytest.mark.parametrize("opening", [lambda path: open_for_writing(path, "full"), open_for_reading])
def test_a_newer_table_is_refused_and_left_as_it_is(table: Path, opening) -> None:
    open_for_writing(table, "full", _NEXT).close()
    before = table.read_bytes()
    with pytest.raises(SchemaTooNew, match="start the version that wrote it") as refused:
        opening(table)
    assert (len(_NEXT), len(MIGRATIONS)) == (refused.value.found, refused.value.supported)
    assert before == table.read_bytes()


def test_a_writer_that_was_refused_holds_no_lock(table: Path, tmp_path: Path) -> None:
    open_for_writing(table, "full", _NEXT).close()
    for _ in range(2):
        with pytest.raises(SchemaTooNew):
            TableWriter(table)
    with pytest.raises(TableError, match="data directory"):
        TableWriter(tmp_path / "nothing" / "table.sqlite")


def test_a_reader_does_not_migrate(table: Path) -> None:
    with pytest.raises(TableError, match="migrated"):
        open_for_reading(table, _NEXT)
    assert len(MIGRATIONS) == _version(table)


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(TableNotOurs, match="another program"):
        open_for_writing(path, "full")


def test_a_damaged_file_is_refused_with_what_to_do(table: Path) -> None:
    table.write_bytes(b"\x00garbage" * 4096)
    with pytest.raises(TableCorrupt, match="repair"):
        open_for_writing(table, "full")


def test_a_table_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="data directory"):
        open_for_reading(tmp_path / "nothing" / "table.sqlite")
    with pytest.raises(TableError, match="data directory"):
        open_for_writing(tmp_path / "nothing" / "table.sqlite", "full")
