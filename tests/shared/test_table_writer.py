"""The writer: a batch is all or nothing with its files, and one bad change fails alone."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from pathlib import Path

import pytest

from tests.shared.samples import insert, make_task, note, task_id
from worker.core.changes import Applied, DropModule, InsertModule, InsertTask, Replay, UpdateTask, WriteFailed
from worker.core.commands import Idempotency
from worker.core.module import Extern, Module
from worker.core.task import Kind, Limits, Reason, State, Status
from worker.errors import TableBusy
from worker.shared.blobs import Blobs
from worker.shared.schema import IDEMPOTENCY_US
from worker.shared.table import TableReader, TableWriter, TokenUsage

DIGEST = "sha256:" + "ab" * 32
KEY = Idempotency("key", "1" * 64)


@pytest.fixture
def blobs(writer: TableWriter) -> Blobs:
    return Blobs(writer.path.parent)


def _blob(blobs: Blobs, content: bytes = b"bytes") -> str:
    blob = blobs.new_temporary()
    blob.write(content)
    name = blob.finish()
    os.close(blob.fileno())
    return name


def _module(digest: str = DIGEST, created_at_us: int = 5, size_bytes: int = 5) -> Module:
    return Module(digest, size_bytes, (Extern("f", "func", "env"),), (Extern("_start", "func"),), created_at_us)


def _ended(number: int, state: State = State.COMPLETED, **fields: object) -> UpdateTask:
    status = Status(state=state, reason=Reason.EXIT, finished_at_us=99)
    return UpdateTask(make_task(number, status=status, **fields), (note(state, 2, "ended"),), fsync_output=True)


def _temporary(blobs: Blobs) -> list[str]:
    return os.listdir(blobs.temporary_path("0" * 32).parent)


def test_a_task_is_there_with_its_note_once_it_was_applied(writer: TableWriter, reader: TableReader) -> None:
    change = insert(1, labels=(("team", "a"),), args=("--fast",))
    assert [Applied()] == writer.apply([change])
    assert change.task == reader.task(task_id(1))
    assert [change.note] == reader.notes(task_id(1))


def test_an_update_writes_the_new_status_and_appends_its_notes(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1)])
    scheduled = make_task(1, status=Status(state=State.SCHEDULED, scheduled_at_us=7))
    notes = (note(State.SCHEDULED, 2, "slot_assigned"), note(State.SCHEDULED, 3, "other"))
    assert [Applied()] == writer.apply([UpdateTask(scheduled, notes)])
    assert scheduled == reader.task(task_id(1))
    assert [note(), *notes] == reader.notes(task_id(1))


def test_the_spec_is_written_once_unless_it_changed(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1)])
    fetched = make_task(1, digest=DIGEST)
    writer.apply([UpdateTask(fetched, ())])
    assert make_task(1) == reader.task(task_id(1))
    writer.apply([UpdateTask(fetched, (), spec_changed=True)])
    assert fetched == reader.task(task_id(1))


def test_event_seq_grows_with_every_note_and_is_known_again_after_a_restart(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    assert 0 == writer.event_seq
    writer.apply([insert(1), insert(2)])
    assert 2 == writer.event_seq
    writer.close()
    again = TableWriter(tmp_path / "table.sqlite", reserve_bytes=0)
    assert 2 == again.event_seq
    again.close()


def test_a_table_has_one_writer(writer: TableWriter) -> None:
    with pytest.raises(TableBusy, match="another worker"):
        TableWriter(writer.path)


# -- a bad change among good ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(insert(1), id="an id that is taken"),
        pytest.param(_ended(77), id="an update of nothing"),
        pytest.param(InsertTask(make_task(9), note(), stdin_name="0" * 32), id="a blob that is gone"),
        pytest.param(InsertTask(make_task(9), note(), stdin_name="../x"), id="a name that is none"),
        pytest.param(InsertModule(_module("sha256:x"), "0" * 32), id="a digest that is none"),
        pytest.param(insert(9, name="\ud800"), id="text that is no text"),
        pytest.param(insert(9, created_at_us=2**70), id="a number too large"),
    ],
)
def test_a_bad_change_fails_alone(writer: TableWriter, reader: TableReader, bad) -> None:
    writer.apply([insert(1)])
    results = writer.apply([insert(2), bad, insert(3)])
    assert [Applied(), "internal", Applied()] == [results[0], results[1].code, results[2]]
    assert {task_id(1), task_id(2), task_id(3)} == {task.id for task in reader.live()}
    assert 3 == reader.counts()[State.PENDING]


def test_a_final_task_never_changes_its_state_again(writer: TableWriter, reader: TableReader) -> None:
    writer.apply([insert(1), _ended(1)])
    results = writer.apply([_ended(1, State.FAILED)])
    assert isinstance(results[0], WriteFailed)
    assert State.COMPLETED is reader.task(task_id(1)).status.state


# -- files -----------------------------------------------------------------------------------------------------------


def test_stdin_has_its_final_name_with_the_row_and_goes_with_the_tasks_end(writer: TableWriter, blobs: Blobs) -> None:
    change = InsertTask(make_task(1, stdin_bytes=5), note(), _blob(blobs, b"input"))
    assert [Applied()] == writer.apply([change])
    assert b"input" == blobs.stdin_path(task_id(1)).read_bytes()
    writer.apply([_ended(1, stdin_bytes=5)])
    assert not blobs.stdin_path(task_id(1)).exists()


def test_a_failed_insertion_leaves_no_file(writer: TableWriter, blobs: Blobs) -> None:
    results = writer.apply([InsertTask(make_task(1, name="\ud800"), note(), _blob(blobs))])
    assert isinstance(results[0], WriteFailed)
    assert [] == _temporary(blobs)
    assert not blobs.stdin_path(task_id(1)).exists()


def test_a_second_task_of_the_same_id_does_not_take_the_firsts_stdin(writer: TableWriter, blobs: Blobs) -> None:
    writer.apply([InsertTask(make_task(1), note(), _blob(blobs, b"first"))])
    results = writer.apply([InsertTask(make_task(1), note(), _blob(blobs, b"second"))])
    assert isinstance(results[0], WriteFailed)
    assert b"first" == blobs.stdin_path(task_id(1)).read_bytes()
    assert [] == _temporary(blobs)


def test_a_module_is_there_with_its_bytes(writer: TableWriter, reader: TableReader, blobs: Blobs) -> None:
    assert [Applied()] == writer.apply([InsertModule(_module(), _blob(blobs, b"wasm!"))])
    assert _module() == reader.module(DIGEST)
    assert b"wasm!" == blobs.module_path(DIGEST).read_bytes()


def test_a_known_module_is_not_made_again(writer: TableWriter, reader: TableReader, blobs: Blobs) -> None:
    writer.apply([InsertModule(_module(), _blob(blobs), "t")])
    assert [Applied(created=False)] == writer.apply([InsertModule(_module(created_at_us=9), _blob(blobs), "u")])
    assert [] == _temporary(blobs)
    assert _module() == reader.module(DIGEST)
    assert (TokenUsage(0, 5), TokenUsage()) == (reader.usage("t"), reader.usage("u"))


def test_a_known_module_whose_file_was_lost_gets_it_back(writer: TableWriter, blobs: Blobs) -> None:
    writer.apply([InsertModule(_module(), _blob(blobs))])
    blobs.module_path(DIGEST).unlink()
    writer.apply([InsertModule(_module(), _blob(blobs, b"again"))])
    assert b"again" == blobs.module_path(DIGEST).read_bytes()


def test_a_dropped_module_goes_with_its_bytes(writer: TableWriter, reader: TableReader, blobs: Blobs) -> None:
    writer.apply([InsertModule(_module(), _blob(blobs))])
    assert [Applied()] == writer.apply([DropModule(DIGEST)])
    assert None is reader.module(DIGEST)
    assert not blobs.module_path(DIGEST).exists()
    assert [Applied(created=False)] == writer.apply([DropModule(DIGEST)])


def test_a_module_dropped_and_added_in_one_batch_keeps_its_new_bytes(writer: TableWriter, blobs: Blobs) -> None:
    writer.apply([InsertModule(_module(), _blob(blobs))])
    writer.apply([DropModule(DIGEST), InsertModule(_module(), _blob(blobs, b"new"))])
    assert b"new" == blobs.module_path(DIGEST).read_bytes()


def test_a_batch_that_is_tried_again_finds_its_files(writer: TableWriter, blobs: Blobs) -> None:
    """The good change's blob was renamed before the bad one failed the transaction."""
    good = InsertTask(make_task(1), note(), _blob(blobs, b"input"))
    results = writer.apply([good, _ended(77)])
    assert Applied() == results[0]
    assert b"input" == blobs.stdin_path(task_id(1)).read_bytes()


def test_the_last_use_of_a_module_is_kept_to_the_minute(writer: TableWriter, blobs: Blobs) -> None:
    def last_used() -> int:
        connection = sqlite3.connect(writer.path)
        try:
            return connection.execute("SELECT last_used_us FROM modules").fetchone()[0]
        finally:
            connection.close()

    writer.apply([InsertModule(_module(), _blob(blobs))])
    writer.apply([insert(1, digest=DIGEST, created_at_us=1000)])
    assert 5 == last_used()
    writer.apply([insert(2, digest=DIGEST, created_at_us=100_000_000)])
    assert 100_000_000 == last_used()


# -- counters and quotas ---------------------------------------------------------------------------------------------


def test_counts_and_usage_follow_every_change(writer: TableWriter, reader: TableReader, blobs: Blobs) -> None:
    assert dict.fromkeys(State, 0) == reader.counts()
    writer.apply(
        [
            insert(1, token="t", stdin_bytes=100),
            insert(2, token="t"),
            insert(3, token="u", kind=Kind.SERVICE),
            InsertModule(_module(size_bytes=1000), _blob(blobs), "t"),
        ]
    )
    assert {**dict.fromkeys(State, 0), State.PENDING: 3} == reader.counts()
    assert (TokenUsage(2, 1100), TokenUsage(1, 0)) == (reader.usage("t"), reader.usage("u"))

    blobs.output_paths(task_id(1))[0].write_bytes(b"x" * 30)
    running = make_task(2, token="t", status=Status(state=State.RUNNING))
    writer.apply([_ended(1, token="t", stdin_bytes=100), UpdateTask(running, ())])
    assert {**dict.fromkeys(State, 0), State.PENDING: 1, State.RUNNING: 1, State.COMPLETED: 1} == reader.counts()
    assert TokenUsage(1, 1030) == reader.usage("t")

    writer.apply([DropModule(DIGEST)])
    assert TokenUsage(1, 30) == reader.usage("t")


def test_no_runner_makes_its_output_longer_than_its_task_may(
    writer: TableWriter, reader: TableReader, blobs: Blobs
) -> None:
    """Else one whose guest has broken out would push all other tasks out by retention."""
    limits = Limits(output_bytes=10)
    for number, size in ((1, 10), (2, 1 << 40)):
        writer.apply([insert(number, token="t", limits=limits)])
        stdout, _ = blobs.output_paths(task_id(number))
        stdout.touch()
        os.truncate(stdout, size)
        writer.apply([_ended(number, token="t", limits=limits)])
    assert TokenUsage(0, 20) == reader.usage("t")
    told = [reader.task(task_id(number)) for number in (1, 2)]
    assert [False, True] == [task and task.status.truncated for task in told]


def test_that_an_output_was_cut_is_told_though_its_end_had_to_be_written_twice(tmp_path: Path, blobs: Blobs) -> None:
    failing = ["table.synced"]

    def fault(point: str) -> None:
        if point in failing:
            failing.clear()
            raise OSError(errno.EIO, "for once")

    limits = Limits(output_bytes=10)
    writer = TableWriter(tmp_path / "another.sqlite", fault=fault, blobs=blobs)
    reader = TableReader(writer.path)
    try:
        failing.clear()
        writer.apply([insert(1, limits=limits)])
        blobs.output_paths(task_id(1))[0].write_bytes(bytes(11))
        failing.append("table.synced")
        assert [Applied()] == writer.apply([_ended(1, limits=limits)])
        task = reader.task(task_id(1))
        assert ([], True) == (failing, task and task.status.truncated)
    finally:
        reader.close()
        writer.close()


@pytest.mark.parametrize("seed", range(4))
def test_counters_are_what_counting_the_rows_would_give(writer: TableWriter, blobs: Blobs, seed: int) -> None:
    """Any mixture of changes, good and bad, in batches of any size, with retention deleting in between."""
    dice = random.Random(seed)
    connection = sqlite3.connect(writer.path, isolation_level=None)
    fields = [
        {"token": dice.choice("tu"), "kind": dice.choice(list(Kind)), "stdin_bytes": dice.choice([0, 10])}
        for _ in range(40)
    ]

    def change():
        number = dice.randrange(40)
        match dice.randrange(5):
            case 0 | 1:
                return insert(number, **fields[number])
            case 2 | 3:
                status = Status(state=dice.choice(list(State)))
                return UpdateTask(make_task(number, status=status, **fields[number]), (note(),), fsync_output=True)
        digest = f"sha256:{number % 4:064x}"
        if dice.randrange(2):
            return DropModule(digest)
        return InsertModule(_module(digest), _blob(blobs), dice.choice("tu"))

    for _ in range(40):
        writer.apply([change() for _ in range(dice.randrange(1, 9))])
        if dice.randrange(4) == 0:
            connection.execute("DELETE FROM tasks WHERE id = ?", (task_id(dice.randrange(40)),))
    counted = connection.execute("SELECT state, kind, count(*) FROM tasks GROUP BY state, kind").fetchall()
    assert sorted(counted) == connection.execute("SELECT * FROM counters WHERE tasks <> 0 ORDER BY 1, 2").fetchall()
    for token in "tu":
        expected = connection.execute(
            "SELECT (SELECT count(*) FROM tasks WHERE token = ?1 AND state NOT IN ('completed', 'failed')), "
            "(SELECT total(stored_bytes) FROM tasks WHERE token = ?1) "
            "+ (SELECT total(size_bytes) FROM modules WHERE token = ?1)",
            (token,),
        ).fetchone()
        kept = connection.execute("SELECT open_tasks, stored_bytes FROM tokens WHERE token = ?", (token,)).fetchone()
        assert expected == kept
    assert 0 < sum(row[2] for row in counted)
    connection.close()
    assert [] == _temporary(blobs)


def test_deleting_a_task_takes_all_that_belongs_to_it(writer: TableWriter, reader: TableReader) -> None:
    """Retention deletes rows of `tasks` and nothing else."""
    writer.apply([insert(1, labels=(("a", "b"),), token="t", stdin_bytes=3), insert(2, token="t")])
    connection = sqlite3.connect(writer.path)
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id(1),))
    connection.commit()
    rows = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("specs", "labels", "events")]
    connection.close()
    assert [1, 0, 1] == rows
    assert 1 == reader.counts()[State.PENDING]
    assert TokenUsage(1, 0) == reader.usage("t")


# -- idempotency -----------------------------------------------------------------------------------------------------


def test_a_key_is_kept_though_the_clock_was_set_back(writer: TableWriter) -> None:
    day_us = IDEMPOTENCY_US
    writer.apply([InsertTask(make_task(1, created_at_us=9 * day_us), note(), idempotency=KEY)])
    earlier = InsertTask(make_task(2, created_at_us=2 * day_us), note(), idempotency=KEY)
    assert [Replay(task_id(1), same_body=True)] == writer.apply([earlier])


def test_a_taken_key_replays_the_first_task(writer: TableWriter, reader: TableReader, blobs: Blobs) -> None:
    writer.apply([InsertTask(make_task(1), note(), idempotency=KEY)])
    again = InsertTask(make_task(2), note(), _blob(blobs), KEY)
    assert [Replay(task_id(1), same_body=True)] == writer.apply([again])
    assert [] == _temporary(blobs)
    assert None is reader.task(task_id(2))
    assert (task_id(1), "1" * 64) == TableReader(writer.path, wall_us=lambda: 10).replay("", "key")


def test_another_body_under_a_taken_key_is_told(writer: TableWriter) -> None:
    writer.apply([InsertTask(make_task(1), note(), idempotency=KEY)])
    other = InsertTask(make_task(2), note(), idempotency=Idempotency("key", "2" * 64))
    assert [Replay(task_id(1), same_body=False)] == writer.apply([other])


def test_twins_in_one_batch_make_one_task(writer: TableWriter, reader: TableReader) -> None:
    twins = [InsertTask(make_task(number), note(), idempotency=KEY) for number in (1, 2, 3)]
    first = task_id(1)
    assert [Applied(), Replay(first, True), Replay(first, True)] == writer.apply(twins)
    assert 1 == reader.counts()[State.PENDING]


def test_a_key_is_its_tokens_own(writer: TableWriter) -> None:
    mine, yours = (InsertTask(make_task(n, token=t), note(), idempotency=KEY) for n, t in ((1, "a"), (2, "b")))
    assert [Applied(), Applied()] == writer.apply([mine, yours])


def test_a_key_is_free_after_a_day(writer: TableWriter, reader: TableReader) -> None:
    first = InsertTask(make_task(1, created_at_us=1000), note(), idempotency=KEY)
    in_time = InsertTask(make_task(2, created_at_us=1000 + IDEMPOTENCY_US - 1), note(), idempotency=KEY)
    late = InsertTask(make_task(3, created_at_us=1000 + IDEMPOTENCY_US), note(), idempotency=KEY)
    assert [Applied(), Replay(task_id(1), True), Applied()] == writer.apply([first, in_time, late])


def test_expired_keys_are_removed_as_new_ones_come(writer: TableWriter) -> None:
    def keyed(number: int, created_at_us: int) -> InsertTask:
        return InsertTask(
            make_task(number, created_at_us=created_at_us), note(), idempotency=Idempotency(f"k{number}", "1" * 64)
        )

    writer.apply([keyed(number, number) for number in range(1, 20)])
    writer.apply([keyed(number, IDEMPOTENCY_US + 1000) for number in range(20, 23)])
    connection = sqlite3.connect(writer.path)
    assert 3 == connection.execute("SELECT count(*) FROM idempotency").fetchone()[0]
    connection.close()


def test_the_key_of_a_deleted_task_is_free(writer: TableWriter) -> None:
    writer.apply([InsertTask(make_task(1), note(), idempotency=KEY)])
    connection = sqlite3.connect(writer.path)
    connection.execute("DELETE FROM tasks")
    connection.commit()
    connection.close()
    assert [Applied()] == writer.apply([InsertTask(make_task(2), note(), idempotency=KEY)])
