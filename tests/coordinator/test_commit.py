"""The commit thread: the loop never waits for the disk, and everything that was submitted is answered, in order."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shared.samples import deploy
from worker.coordinator.commit import CommitThread
from worker.core.changes import Applied, InsertTask, Note, SetDefault, WriteFailed
from worker.core.task import Kind, State, Task, TaskSpec
from worker.shared.faults import no_fault
from worker.shared.table import TableReader, TableWriter

DEADLINE_S = 10.0


def _insert(number: int) -> InsertTask:
    task_id = f"{number:08x}-0000-7000-8000-{number:012x}"
    return InsertTask(Task(task_id, "", TaskSpec(Kind.JOB, "n", None), number), Note(number, "accepted", State.PENDING))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.sqlite"


@pytest.fixture
def make_commit(path: Path) -> Iterator[Callable[..., CommitThread]]:
    made: list[CommitThread] = []

    def make(*, transaction: Callable[[str], None] = no_fault, **options: object) -> CommitThread:
        made.append(CommitThread(TableWriter(path, reserve_bytes=0, fault=transaction), **options))
        return made[-1]

    yield make
    for commit in made:
        if not commit._closing:
            commit.close()


def _results(commit: CommitThread, count: int) -> list:
    deadline = time.monotonic() + DEADLINE_S
    results: list = []
    while len(results) < count and time.monotonic() < deadline:
        select.select([commit], [], [], 0.1)
        results += commit.results()
    assert count == len(results)
    return results


class Gate:
    """A disk that answers when it is told to."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, name: str) -> None:
        if name == self.point:
            self.reached.set()
            assert self.open.wait(DEADLINE_S)


def test_what_is_submitted_is_on_disk_when_its_result_comes(make_commit, path: Path) -> None:
    commit = make_commit()
    commit.submit([_insert(1)], "one")
    assert [("one", Applied())] == _results(commit, 1)
    reader = TableReader(path)
    assert 1 == reader.counts()[State.PENDING]
    reader.close()


def test_what_is_on_disk_is_announced_before_anybody_is_told(make_commit) -> None:
    gate, announced = Gate("commit.acknowledging"), []
    commit = make_commit(announce=lambda *told: announced.append(told), fault=gate)
    commit.submit([_insert(1)], 1)
    assert gate.reached.wait(DEADLINE_S)
    assert ([(1, False)], []) == (announced, commit.results())
    gate.open.set()
    _results(commit, 1)
    commit.submit([deploy(2), _insert(2)], 2)
    _results(commit, 2)
    commit.submit([SetDefault("f", None, 0), _insert(3)], 3)
    _results(commit, 2)
    assert [(1, False), (2, True)] == announced[:2]


def test_what_the_disk_refused_is_announced_as_what_was_there_before(make_commit) -> None:
    announced: list[tuple[int, bool]] = []
    commit = make_commit(announce=lambda *told: announced.append(told))
    commit.submit([_insert(1)], 1)
    _results(commit, 1)
    commit.submit([_insert(1)], 1)
    assert [WriteFailed] == [type(result) for _, result in _results(commit, 1)]
    assert [(1, False)] * 2 == announced


def test_results_come_in_the_order_of_submission_each_with_its_token(make_commit) -> None:
    commit = make_commit(max_batch=7)
    for number in range(50):
        commit.submit([_insert(number), _insert(number)], number)
    results = _results(commit, 100)
    assert [number for number in range(50) for _ in range(2)] == [token for token, _ in results]
    assert [Applied, WriteFailed] * 50 == [type(result) for _, result in results]


def test_it_is_readable_only_while_there_are_results(make_commit) -> None:
    commit = make_commit()
    assert [] == select.select([commit], [], [], 0)[0]
    commit.submit([_insert(1)], 1)
    assert [commit] == select.select([commit], [], [], DEADLINE_S)[0]
    _results(commit, 1)
    assert [] == select.select([commit], [], [], 0)[0]
    assert [] == commit.results()


def test_a_slow_disk_keeps_nobody_from_submitting_and_what_waits_is_one_transaction(make_commit) -> None:
    gate, begun = Gate("table.synced"), []

    def transaction(point: str) -> None:
        begun.append(point)
        gate(point)

    commit = make_commit(transaction=transaction)
    commit.submit([_insert(0)], 0)
    assert gate.reached.wait(DEADLINE_S)
    for number in range(1, 41):
        commit.submit([_insert(number)], number)
    assert [] == commit.results()
    assert 41 == len(commit)
    gate.open.set()
    assert [(number, Applied()) for number in range(41)] == _results(commit, 41)
    assert 2 == begun.count("table.begun")
    assert 0 == len(commit)


def test_a_batch_has_a_longest_size(make_commit) -> None:
    gate, taken = Gate("commit.taken"), []

    def fault(point: str) -> None:
        taken.append(point)
        gate(point)

    commit = make_commit(max_batch=10, fault=fault)
    commit.submit([_insert(number) for number in range(35)], None)
    gate.open.set()
    _results(commit, 35)
    assert 4 == taken.count("commit.taken")


def test_closing_writes_what_waits_and_gives_the_table_back(make_commit, path: Path) -> None:
    gate = Gate("table.synced")
    commit = make_commit(transaction=gate)
    commit.submit([_insert(0)], 0)
    assert gate.reached.wait(DEADLINE_S)
    for number in range(1, 20):
        commit.submit([_insert(number)], number)
    gate.open.set()
    assert [(number, Applied()) for number in range(20)] == commit.close()
    assert [] == [thread.name for thread in threading.enumerate() if thread.name == "commit"]
    TableWriter(path).close()


def test_a_disk_that_refuses_fails_that_batch_and_the_next_goes_on(make_commit) -> None:
    broken = [True]

    def fault(point: str) -> None:
        if point == "commit.taken" and broken.pop():
            raise OSError(5, "Input/output error")

    broken.insert(0, False)
    commit = make_commit(fault=lambda point: fault(point) if broken else None)
    commit.submit([_insert(1)], 1)
    [(_, failed)] = _results(commit, 1)
    assert (WriteFailed, "internal") == (type(failed), failed.code)
    commit.submit([_insert(2)], 2)
    assert [(2, Applied())] == _results(commit, 1)


def test_an_error_within_a_transaction_is_tried_again_change_by_change(make_commit) -> None:
    failures = iter([True])

    def transaction(point: str) -> None:
        if point == "table.synced" and next(failures, False):
            raise OSError(5, "Input/output error")

    commit = make_commit(transaction=transaction)
    commit.submit([_insert(1), _insert(2)], 1)
    assert [(1, Applied()), (1, Applied())] == _results(commit, 2)


@pytest.mark.parametrize("point", ["commit.taken", "commit.acknowledging", "commit.acknowledged"])
def test_killed_at_its_own_points_it_has_lost_nothing_that_was_acknowledged(path: Path, point: str) -> None:
    answered, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(answered)
            passed = 0

            def fault(name: str) -> None:
                nonlocal passed
                passed += name == point
                if passed == 3:
                    os.kill(os.getpid(), signal.SIGKILL)

            commit = CommitThread(TableWriter(path, reserve_bytes=0), fault=fault)
            for number in range(100):
                commit.submit([_insert(number)], number)
                _results(commit, 1)
                os.write(write_end, b".")
        finally:
            os._exit(1)
    os.close(write_end)
    acknowledged = 0
    while data := os.read(answered, 100):
        acknowledged += len(data)
    os.close(answered)
    assert -signal.SIGKILL == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    reader = TableReader(path)
    there = reader.counts()[State.PENDING]
    reader.close()
    assert (2 if point == "commit.taken" else 3) == there
    assert acknowledged in (2, there)
