"""The ledger: one update of a task under way at a time, nothing lost when the disk refuses, answers after the disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.core_builders import START, make_module, make_task, task_in
from worker.core.changes import Applied, Change, DropModule, InsertModule, Note, Replay, Result, UpdateTask, WriteFailed
from worker.core.clock import Now
from worker.core.commands import Done
from worker.core.effects import Commit, Effect
from worker.core.ledger import LAZY, RETRY, RETRY_US, Ledger, Settled
from worker.core.task import State, Status, Task
from worker.core.timers import Timers

FULL = WriteFailed("storage_full", "no room")
LATER = Now(START.wall_us + RETRY_US, START.monotonic_us + RETRY_US)


class Desk:
    """A ledger, its timers, and what it asked to commit."""

    def __init__(self, lazy_us: int = 0) -> None:
        self.timers = Timers()
        self.effects: list[Effect] = []
        self.ledger = Ledger(self.timers, self.effects, lazy_us)

    def flush(self, now: Now = START) -> list[Commit]:
        self.ledger.flush(now)
        return self.commits()

    def commits(self) -> list[Commit]:
        taken = [effect for effect in self.effects if isinstance(effect, Commit)]
        self.effects.clear()
        return taken


@pytest.fixture
def desk() -> Desk:
    return Desk()


def note(event: str) -> Note:
    return Note(1, event, "pending")


def answer(origin: str) -> tuple[tuple[str, Done], ...]:
    return ((origin, Done()),)


@pytest.mark.parametrize("change", [InsertModule(make_module(), "blob"), DropModule("sha256:00")])
@pytest.mark.parametrize("result", [Applied(), Replay("t0", True), FULL])
def test_a_change_that_is_no_update_is_settled_by_the_first_word_of_the_disk(
    desk: Desk, change: Change, result: Result
) -> None:
    desk.ledger.write(change, answer("a"))
    (commit,) = desk.commits()
    assert (change, 1) == (commit.change, len(desk.ledger))
    assert Settled(change, result, answer("a")) == desk.ledger.settle(commit.ticket, result, START)
    assert (0, []) == (len(desk.ledger), list(desk.timers))


def test_every_commit_has_a_ticket_of_its_own(desk: Desk) -> None:
    for number in range(3):
        desk.ledger.write(DropModule(str(number)))
    assert [1, 2, 3] == [commit.ticket for commit in desk.commits()]


def test_an_update_waits_for_the_flush_and_carries_all_notes_since_the_last(desk: Desk) -> None:
    desk.ledger.update(make_task(), (note("a"),))
    desk.ledger.update(task_in(State.SCHEDULED), (note("b"), note("c")), spec_changed=True)
    assert ([], 1) == (desk.commits(), len(desk.ledger))
    (commit,) = desk.flush()
    notes = (note("a"), note("b"), note("c"))
    assert UpdateTask(task_in(State.SCHEDULED), notes, spec_changed=True) == commit.change
    assert [] == desk.flush()


def test_the_spec_is_written_once(desk: Desk) -> None:
    desk.ledger.update(make_task(), (note("a"),), spec_changed=True)
    (first,) = desk.flush()
    desk.ledger.settle(first.ticket, Applied(), START)
    desk.ledger.update(make_task(), (note("b"),))
    assert [UpdateTask(make_task(), (note("b"),))] == [commit.change for commit in desk.flush()]


@pytest.mark.parametrize(("began", "synced"), [(None, False), (7, True)])
def test_the_output_of_a_final_task_that_began_is_synced(desk: Desk, began: int | None, synced: bool) -> None:
    task = task_in(State.FAILED)
    task = replace(task, status=replace(task.status, started_at_us=began))
    desk.ledger.update(task, ())
    assert [UpdateTask(task, (), fsync_output=synced)] == [commit.change for commit in desk.flush()]


def test_the_output_of_a_task_that_runs_is_not_synced(desk: Desk) -> None:
    desk.ledger.update(task_in(State.RUNNING), ())
    assert [UpdateTask(task_in(State.RUNNING), ())] == [commit.change for commit in desk.flush()]


def test_what_happens_while_an_update_is_under_way_goes_into_the_next(desk: Desk) -> None:
    desk.ledger.update(make_task(), (note("a"),))
    (first,) = desk.flush()
    desk.ledger.update(task_in(State.SCHEDULED), (note("b"),))
    desk.ledger.update(task_in(State.RUNNING), (note("c"),))
    assert [] == desk.flush()
    settled = desk.ledger.settle(first.ticket, Applied(), START)
    assert Settled(first.change, Applied(), ()) == settled
    assert [UpdateTask(task_in(State.RUNNING), (note("b"), note("c")))] == [c.change for c in desk.flush()]


def test_tasks_do_not_wait_for_each_other(desk: Desk) -> None:
    desk.ledger.update(make_task("t1"), ())
    desk.flush()
    desk.ledger.update(make_task("t2"), ())
    assert [UpdateTask(make_task("t2"), ())] == [commit.change for commit in desk.flush()]


def test_a_refused_update_is_offered_again_with_nothing_lost(desk: Desk) -> None:
    desk.ledger.update(make_task(), (note("a"),), spec_changed=True)
    assert desk.ledger.attach("t1", answer("one"))
    (first,) = desk.flush()
    desk.ledger.update(task_in(State.SCHEDULED), (note("b"),))
    assert desk.ledger.attach("t1", answer("two"))
    assert desk.ledger.settle(first.ticket, FULL, START) is None
    assert [] == desk.flush()
    assert (START.monotonic_us + RETRY_US, [RETRY]) == (desk.timers.next_due_us(), list(desk.timers))
    (second,) = desk.flush(LATER)
    assert UpdateTask(task_in(State.SCHEDULED), (note("a"), note("b")), spec_changed=True) == second.change
    settled = desk.ledger.settle(second.ticket, Applied(), LATER)
    assert Settled(second.change, Applied(), answer("one") + answer("two")) == settled
    assert 0 == len(desk.ledger)


def test_after_a_refusal_all_updates_wait_and_insertions_do_not(desk: Desk) -> None:
    desk.ledger.update(make_task("t1"), ())
    (first,) = desk.flush()
    desk.ledger.settle(first.ticket, FULL, START)
    desk.ledger.update(make_task("t2"), ())
    assert [] == desk.flush()
    desk.ledger.write(DropModule("x"))
    assert [DropModule("x")] == [commit.change for commit in desk.commits()]
    assert {"t1", "t2"} == {c.change.task.id for c in desk.flush(LATER) if isinstance(c.change, UpdateTask)}


def test_an_answer_goes_with_the_update_that_waits(desk: Desk) -> None:
    desk.ledger.update(make_task(), (note("a"),))
    (first,) = desk.flush()
    desk.ledger.update(task_in(State.SCHEDULED), (note("b"),))
    assert desk.ledger.attach("t1", answer("one"))
    assert Settled(first.change, Applied(), ()) == desk.ledger.settle(first.ticket, Applied(), START)
    (second,) = desk.flush()
    assert Settled(second.change, Applied(), answer("one")) == desk.ledger.settle(second.ticket, Applied(), START)


def test_an_answer_goes_with_the_update_under_way_where_nothing_came_after_it(desk: Desk) -> None:
    desk.ledger.update(make_task(), (note("a"),))
    (first,) = desk.flush()
    assert desk.ledger.attach("t1", answer("one"))
    assert [] == desk.flush()
    assert Settled(first.change, Applied(), answer("one")) == desk.ledger.settle(first.ticket, Applied(), START)


def test_an_answer_is_not_taken_where_all_is_on_disk(desk: Desk) -> None:
    desk.ledger.update(make_task(), ())
    (first,) = desk.flush()
    desk.ledger.settle(first.ticket, Applied(), START)
    assert not desk.ledger.attach("t1", answer("one"))


def test_the_end_is_held_until_its_row_is_on_disk(desk: Desk) -> None:
    assert not desk.ledger.holds_end_of("t1")
    desk.ledger.update(task_in(State.RUNNING), ())
    assert not desk.ledger.holds_end_of("t1")
    (first,) = desk.flush()
    desk.ledger.update(task_in(State.FAILED), ())
    assert desk.ledger.holds_end_of("t1")
    desk.ledger.settle(first.ticket, Applied(), START)
    (second,) = desk.flush()
    assert desk.ledger.holds_end_of("t1")
    desk.ledger.settle(second.ticket, Applied(), START)
    assert not desk.ledger.holds_end_of("t1")


# -- a lazy one ------------------------------------------------------------------------------------------------------

LAZY_US = 50


def after(us: int) -> Now:
    return Now(START.wall_us + us, START.monotonic_us + us)


@pytest.fixture
def lazy() -> Desk:
    return Desk(LAZY_US)


def test_a_change_that_nobody_waits_for_waits_a_moment(lazy: Desk) -> None:
    lazy.ledger.update(task_in(State.SCHEDULED), (note("a"),))
    assert ([], 1, START.monotonic_us + LAZY_US) == (lazy.flush(), len(lazy.ledger), lazy.timers.next_due_us())
    lazy.ledger.update(task_in(State.RUNNING), (note("b"),))
    assert [] == lazy.flush(after(LAZY_US - 1))
    assert [LAZY] == list(lazy.timers.pop_due(after(LAZY_US).monotonic_us))
    changes = [commit.change for commit in lazy.flush(after(LAZY_US))]
    assert [UpdateTask(task_in(State.RUNNING), (note("a"), note("b")))] == changes


def test_the_moment_begins_anew_with_the_next_change(lazy: Desk) -> None:
    lazy.ledger.update(task_in(State.SCHEDULED), ())
    lazy.flush()
    (first,) = lazy.flush(after(LAZY_US))
    lazy.ledger.settle(first.ticket, Applied(), after(LAZY_US))
    lazy.ledger.update(task_in(State.RUNNING), ())
    assert [] == lazy.flush(after(LAZY_US + 1))
    assert [] == lazy.flush(after(2 * LAZY_US))
    assert 1 == len(lazy.flush(after(2 * LAZY_US + 1)))


def test_the_first_that_waits_says_when_the_ledger_wakes(lazy: Desk) -> None:
    lazy.ledger.update(task_in(State.SCHEDULED, "t1"), ())
    lazy.flush()
    lazy.ledger.update(task_in(State.SCHEDULED, "t2"), ())
    lazy.flush(after(10))
    assert START.monotonic_us + LAZY_US == lazy.timers.next_due_us()
    assert ["t1"] == [c.change.task.id for c in lazy.flush(after(LAZY_US)) if isinstance(c.change, UpdateTask)]


@pytest.mark.parametrize("task", [task_in(State.FAILED), make_task(status=Status(state=State.RUNNING, stopping=True))])
def test_an_end_and_an_order_do_not_wait(lazy: Desk, task: Task) -> None:
    lazy.ledger.update(task_in(State.SCHEDULED), (note("a"),))
    assert [] == lazy.flush()
    lazy.ledger.update(task, (note("b"),))
    assert [(note("a"), note("b"))] == [c.change.notes for c in lazy.flush() if isinstance(c.change, UpdateTask)]


def test_a_change_that_somebody_waits_for_does_not_wait(lazy: Desk) -> None:
    lazy.ledger.update(task_in(State.SCHEDULED), ())
    assert [] == lazy.flush()
    assert lazy.ledger.attach("t1", answer("one"))
    assert 1 == len(lazy.flush())
