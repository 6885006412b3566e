"""Killed at any point, a batch is whole or absent, its files with it; what was acknowledged is never lost."""

from __future__ import annotations

import os
import random
import select
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shared.samples import make_task, note, task_id
from worker.core.changes import InsertTask, UpdateTask
from worker.core.task import State, Status
from worker.shared.blobs import Blobs
from worker.shared.table import TableReader, TableWriter

SIZE = 4  # tasks a batch; the first has an input, and ends in the batch after
POINTS = ("table.begun", "table.written", "table.synced", "table.committed")


def _write_for_ever(path: Path, acknowledge: Callable[[], None], fault: Callable[[str], None]) -> None:
    writer = TableWriter(path, "normal", reserve_bytes=0, fault=fault)
    blobs = Blobs(path.parent)
    for batch in range(10_000):
        first = batch * SIZE
        blob = blobs.new_temporary()
        blob.write(b"input")
        changes = [InsertTask(make_task(first, stdin_bytes=5), note(), blob.finish())]
        changes += [InsertTask(make_task(first + n), note()) for n in range(1, SIZE)]
        if batch:
            ended = make_task(first - SIZE, stdin_bytes=5, status=Status(state=State.COMPLETED))
            changes.append(UpdateTask(ended, (note(State.COMPLETED),), fsync_output=True))
        writer.apply(changes)
        acknowledge()
        blob.discard()


def _run_and_lose(path: Path, fault: Callable[[str], None], kill_after: int | None = None) -> int:
    """A child writes until `fault` kills it, or we do after so many acknowledgements; how many came."""
    acknowledged, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _write_for_ever(path, lambda: os.write(write_end, b"."), fault)
        finally:
            os._exit(1)
    os.close(write_end)
    count = 0
    while data := os.read(acknowledged, 1 if kill_after is not None else 1000):
        count += len(data)
        if count == kill_after:
            select.select([], [], [], random.Random(kill_after).random() / 500)  # somewhere within the next batches
            os.kill(child, signal.SIGKILL)
    os.close(acknowledged)
    assert -signal.SIGKILL == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return count


def _check(path: Path, acknowledged: int) -> int:
    """What a new coordinator finds is whole; the batches that are there."""
    reader = TableReader(path)
    assert acknowledged * SIZE <= sum(reader.counts().values())  # before anybody opened it for writing
    writer = TableWriter(path, reserve_bytes=0)
    blobs = Blobs(path.parent)
    blobs.sweep_temporary()
    blobs.sweep_orphans(frozenset(), frozenset(task.id for task in reader.live()))

    connection = sqlite3.connect(path)
    ids = [row[0] for row in connection.execute("SELECT id FROM tasks ORDER BY serial")]
    events = connection.execute("SELECT count(*) FROM events").fetchone()[0]
    assert "ok" == connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()

    assert 0 == len(ids) % SIZE
    batches = len(ids) // SIZE
    assert acknowledged <= batches <= acknowledged + 1
    assert [task_id(number) for number in range(len(ids))] == ids
    ended = max(0, batches - 1)
    assert (len(ids) - ended, ended) == (reader.counts()[State.PENDING], reader.counts()[State.COMPLETED])
    assert len(ids) + ended == events == writer.event_seq
    assert [] == os.listdir(path.parent / "blobs" / "tmp")
    inputs = [task_id((batches - 1) * SIZE)] if batches else []
    assert inputs == os.listdir(path.parent / "blobs" / "stdin")
    reader.close()
    writer.close()
    return batches


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_at_a_point_of_a_batch_it_is_whole_or_absent(tmp_path: Path, point: str, nth: int) -> None:
    passed = 0

    def fault(name: str) -> None:
        nonlocal passed
        if name == point:
            passed += 1
            if passed == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    acknowledged = _run_and_lose(tmp_path / "table.sqlite", fault)
    assert nth - 1 == acknowledged
    assert (nth if point == "table.committed" else nth - 1) == _check(tmp_path / "table.sqlite", acknowledged)


@pytest.mark.parametrize("kill_after", [1, 5, 17, 40])
def test_killed_at_any_moment_it_keeps_what_was_acknowledged(tmp_path: Path, kill_after: int) -> None:
    acknowledged = _run_and_lose(tmp_path / "table.sqlite", lambda _: None, kill_after)
    _check(tmp_path / "table.sqlite", acknowledged)
