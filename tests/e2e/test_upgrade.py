"""A worker on the data directory of another version: an older one's is taken up, a newer one's is refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Worker, fields, running
from tests.shared import old_data
from tests.shared.old_data import AGAIN, HELLO, LOST, SUM, WAITS
from worker.errors import ExitCode
from worker.shared.schema import MIGRATIONS, backup_path, open_for_writing

NOBODY = 65_534


def give_away(data_dir: Path) -> None:
    """As root the worker's directory is `--user`'s."""
    if os.geteuid() == 0:
        for path in (data_dir, *data_dir.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    data_dir = place / "data"
    data_dir.mkdir()
    old_data.make(data_dir)
    give_away(data_dir)
    with running(data_dir, "--retention-days", "36500") as started:
        yield started


def test_the_table_was_kept_before_it_was_migrated(worker: Worker) -> None:
    connection = sqlite3.connect(f"file:{backup_path(worker.data_dir / 'table.sqlite', 1)}?mode=ro", uri=True)
    assert (1,) == connection.execute("PRAGMA user_version").fetchone()
    connection.close()


def test_what_had_ended_reads_as_before(worker: Worker) -> None:
    assert ("completed", "exit", [42]) == fields(worker.task(SUM), "state", "reason", "result")
    assert b"hello world\n" == worker.stdout(HELLO)
    assert ("accepted", "slot_assigned", "runner_started", "ended") == tuple(
        event["event"] for event in worker.task(HELLO)["events"]
    )


def test_what_ran_is_lost_or_runs_again_and_what_waited_goes_on(worker: Worker) -> None:
    assert ("failed", "lost", 1) == fields(worker.await_end(LOST), "state", "reason", "attempts")
    again = worker.await_end(AGAIN)  # it sleeps for an hour, and has two seconds
    assert ("failed", "killed_deadline", 2) == fields(again, "state", "reason", "attempts")
    waited = worker.await_end(WAITS)
    assert ("completed", "exit") == fields(waited, "state", "reason")
    assert b"hello world\n" == worker.stdout(WAITS)


def test_a_newer_versions_data_is_refused_with_what_to_do_and_left_alone(place: Path) -> None:
    data_dir = place / "newer"
    data_dir.mkdir(mode=0o700)
    open_for_writing(data_dir / "table.sqlite", "normal", (*MIGRATIONS, ("CREATE TABLE later (x)",))).close()
    give_away(data_dir)
    before = (data_dir / "table.sqlite").read_bytes()
    command = [sys.executable, "-m", "worker", "serve", "--bind", "127.0.0.1:0", "--data-dir", str(data_dir)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    told = ended.stdout + ended.stderr
    newest = len(MIGRATIONS)
    assert f"has schema {newest + 1} and this version of the worker knows up to {newest}" in told
    assert "start the version that wrote it" in told
    assert (ExitCode.TABLE_REFUSED, 1) == (ended.returncode, told.count("coordinator started"))
    assert before == (data_dir / "table.sqlite").read_bytes()
