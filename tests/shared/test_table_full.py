"""A full disk: new work is refused as such, running work ends on record, reading goes on, and room again is enough."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.samples import deploy, insert, make_service, make_task, note, task_id, update
from worker.core.changes import Applied, ExpireTasks, InsertTask, SetDefault, SetTrouble, UpdateTask, WriteFailed
from worker.core.functions import FunctionRow
from worker.core.task import State, Status
from worker.shared.blobs import Blobs
from worker.shared.reserve import Reserve
from worker.shared.table import TableReader, TableWriter

RESERVE_BYTES = 1024 * 1024


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)


def _fill(directory: Path) -> Path:
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                continue
        except OSError:
            return filler


@pytest.fixture
def writer(small: Path) -> Iterator[TableWriter]:
    made = TableWriter(small / "table.sqlite", reserve_bytes=RESERVE_BYTES)
    yield made
    made.close()


@pytest.fixture
def reader(writer: TableWriter) -> Iterator[TableReader]:
    made = TableReader(writer.path)
    yield made
    made.close()


def _insert_until_refused(writer: TableWriter, first: int) -> tuple[int, WriteFailed]:
    for number in range(first, first + 10_000):
        result = writer.apply([insert(number, args=("x" * 2000,))])[0]
        if isinstance(result, WriteFailed):
            return number, result
    raise AssertionError("it was never full")


@pytest.mark.root
def test_a_full_disk_refuses_the_new_ends_the_running_and_recovers(
    small: Path, writer: TableWriter, reader: TableReader
) -> None:
    assert [Applied()] * 20 == writer.apply([insert(number, args=("x" * 2000,)) for number in range(1, 21)])
    filler = _fill(small)
    refused, why = _insert_until_refused(writer, 21)
    assert "storage_full" == why.code
    before = refused - 1
    assert 20 <= before == reader.counts()[State.PENDING]

    ended = [make_task(n, args=("x" * 2000,), status=Status(state=State.FAILED)) for n in range(1, before + 1)]
    results = [writer.apply([UpdateTask(task, (note(State.FAILED),))])[0] for task in ended]
    assert [Applied()] * before == results
    assert before == reader.counts()[State.FAILED]
    assert ended[0] == reader.task(task_id(1))
    assert "storage_full" == writer.apply([insert(refused)])[0].code

    filler.unlink()
    assert [Applied()] == writer.apply([insert(refused)])
    assert {State.PENDING: 1, State.FAILED: before} == {s: n for s, n in reader.counts().items() if n}


@pytest.mark.root
def test_a_full_disk_keeps_no_service_from_its_end(small: Path, writer: TableWriter, reader: TableReader) -> None:
    task = make_service(1)
    assert [Applied()] * 3 == writer.apply([deploy(1), update(task, State.RUNNING), SetDefault("f", "r1", 1)])
    _fill(small)
    assert "storage_full" == _insert_until_refused(writer, 2)[1].code
    end = [SetTrouble(task.id, "it died"), SetDefault("f", None, 2), update(task, State.COMPLETED)]
    assert [Applied()] * 3 == writer.apply(end)
    assert ([FunctionRow("f", None, 2)], []) == reader.routes()


@pytest.mark.root
def test_retention_takes_nothing_of_the_reserve_and_goes_on_with_whatever_room_there_is(
    small: Path, writer: TableWriter, reader: TableReader
) -> None:
    for number in range(1, 41):
        ended = update(make_task(number), State.COMPLETED, finished_at_us=number)
        assert [Applied(), Applied()] == writer.apply([insert(number), ended])
    writer.apply([insert(100)])
    expire = ExpireTasks(2**60, 0, keep_tasks=0, keep_output_bytes=0, keep_module_bytes=0, limit=40)
    filler = _fill(small)
    refused = [result for result in (writer.apply([insert(n, args=("x" * 2000,))])[0] for n in range(200, 400))]
    assert isinstance(refused[-1], WriteFailed)
    assert isinstance(writer.apply([expire])[0], WriteFailed)
    assert "storage_full" == writer.apply([expire])[0].code
    assert [Applied()] == writer.apply([update(make_task(100), State.FAILED)])  # the reserve was there for it
    filler.unlink()
    (found,) = writer.apply([expire])
    assert (40, 0) == (len(found.task_ids), reader.counts()[State.COMPLETED])


@pytest.mark.root
def test_a_batch_on_a_full_disk_is_told_apart_change_by_change(small: Path, writer: TableWriter) -> None:
    assert [Applied()] == writer.apply([insert(1)])
    filler = _fill(small)
    ended = make_task(1, status=Status(state=State.COMPLETED))
    large = insert(2, args=("x" * 900_000,))
    results = writer.apply([large, UpdateTask(ended, (note(State.COMPLETED),))])
    assert ["storage_full", "Applied"] == [
        result.code if isinstance(result, WriteFailed) else type(result).__name__ for result in results
    ]
    filler.unlink()
    assert [Applied()] == writer.apply([large])


@pytest.mark.root
def test_a_blob_that_does_not_fit_raises_and_leaves_nothing(small: Path, writer: TableWriter) -> None:
    blobs = Blobs(small)
    with pytest.raises(OSError, match="No space left"), blobs.new_temporary() as blob:
        blob.write(b"x" * 8_000_000)
    assert [] == list((small / "blobs" / "tmp").iterdir())
    with blobs.new_temporary() as blob:
        blob.write(b"fits")
        assert [Applied()] == writer.apply([InsertTask(make_task(1, stdin_bytes=4), note(), blob.finish())])


@pytest.mark.root
def test_a_reserve_that_does_not_fit_takes_nothing(small: Path) -> None:
    reserve = Reserve(small / "reserve", 8 * 1024 * 1024)
    assert not reserve.take()
    assert 0 == (small / "reserve").stat().st_size
    assert not reserve.held


def test_a_reserve_is_given_back_and_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(path, 65536)
    assert reserve.take()
    assert 65536 <= path.stat().st_blocks * 512
    reserve.release()
    assert (False, 0) == (reserve.held, path.stat().st_blocks)
    assert reserve.take()


def test_without_a_data_directory_the_reserve_is_not_held(tmp_path: Path) -> None:
    assert not Reserve(tmp_path / "nothing" / "reserve", 1).take()
