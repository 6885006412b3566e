"""The node: commands in, effects out; an answer comes when what it says is on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.core_builders import (
    SECOND_US,
    START,
    URL,
    Driver,
    add,
    answers,
    held_changes,
    make_module,
    make_spec,
    make_task,
    starts,
)
from worker.core.changes import Applied, InsertTask, Note, Replay, WriteFailed
from worker.core.commands import (
    Done,
    Idempotency,
    ReadStats,
    Refused,
    StopTask,
    WatchTask,
)
from worker.core.effects import (
    Answer,
    AnswerStats,
    InterruptJob,
    StartFetch,
)
from worker.core.ledger import RETRY_US
from worker.core.task import Reason, State
from worker.core.verdict import Exit

CRASH = Exit(signal="SIGSEGV")
FULL = WriteFailed("storage_full", "no room")
KEY = Idempotency("key", "body")
UNTIL_US = START.monotonic_us + 60 * SECOND_US
NEW = make_module("sha256:" + "c" * 64)


# -- adding -----------------------------------------------------------------------------------------------------------


def test_a_task_is_answered_when_its_row_is_on_disk(slow: Driver) -> None:
    assert [] == slow.command(add(stdin_name="blob", idempotency=KEY))
    task = replace(make_task(), created_at_us=START.wall_us)
    assert [InsertTask(task, Note(START.wall_us, "accepted", "pending"), "blob", KEY)] == held_changes(slow)
    assert {} == slow.node.tasks.live
    slow.release()
    assert [Answer("client", Done(task_id="t1"))] == answers(slow.take())
    assert {"t1"} == set(slow.node.tasks.live)


def test_a_slot_that_is_free_goes_out_before_a_wait_for_it_is_over(slow: Driver) -> None:
    """Both come in one turn of the loop: the row is on disk, and its time to wait has passed."""
    slow.artifact_ready()
    slow.command(add(spec=make_spec(queue_ms=0)))
    (commit,) = slow.held
    slow.node.committed(commit.ticket, Applied(), slow.now)
    slow.node.tick(slow.now)
    assert ["t1"] == starts(slow.take())


def test_a_task_that_the_disk_refused_is_refused_and_not_there(slow: Driver) -> None:
    slow.command(add())
    slow.release(FULL)
    assert [Answer("client", Refused("storage_full", "no room"))] == slow.take()
    assert ({}, {}) == (slow.node.tasks.live, slow.node.admission.open)


@pytest.mark.parametrize(
    ("same_body", "reply"),
    [
        (True, Done(created=False, task_id="t0")),
        (False, Refused("idempotency_mismatch", "this Idempotency-Key came with another body before")),
    ],
)
def test_a_key_that_was_used_gives_the_first_task_or_a_mismatch(slow: Driver, same_body: bool, reply: object) -> None:
    slow.command(add(idempotency=KEY))
    slow.release(Replay("t0", same_body))
    assert [Answer("client", reply)] == slow.take()  # type: ignore[arg-type]
    assert ({}, {}) == (slow.node.tasks.live, slow.node.admission.open)


def test_a_twin_while_the_first_is_being_written_is_told_to_ask_again(slow: Driver) -> None:
    slow.command(add("t1", idempotency=KEY), "first")
    (reply,) = slow.ask(add("t2", idempotency=KEY), "twin")
    assert isinstance(reply, Refused)
    assert "idempotency_in_progress" == reply.code
    assert [] == slow.ask(add("t3", idempotency=Idempotency("another", "body")))
    assert [] == slow.ask(add("t4", idempotency=KEY, token="another"))
    assert [] == slow.ask(add("t5"))


@pytest.mark.parametrize(
    ("settings", "spec", "code", "field"),
    [
        ({}, make_spec(digest="sha256:" + "c" * 64), "module_unknown", "module.digest"),
        ({}, make_spec(digest=None), "module_unknown", "module.digest"),
        ({"max_queued": 0}, make_spec(), "queue_full", None),
        ({"max_open_per_token": 0}, make_spec(), "queue_full", None),
    ],
)
def test_what_can_not_be_taken_is_refused_before_the_disk_hears_of_it(
    settings: dict[str, int], spec: object, code: str, field: str | None
) -> None:
    driver = Driver(**settings)  # type: ignore[arg-type]
    (reply,) = driver.ask(add(spec=spec))
    assert isinstance(reply, Refused)
    assert (code, field, {}) == (reply.code, reply.field, driver.node.admission.open)


def test_a_module_that_a_url_will_bring_need_not_be_here(driver: Driver) -> None:
    spec = make_spec(digest=NEW.digest, url=URL)
    assert [StartFetch] == [type(effect) for effect in driver.add(spec=spec) if not isinstance(effect, Answer)]


def test_those_being_written_count_as_waiting() -> None:
    driver = Driver(max_queued=2)
    driver.add("t1")
    driver.holding = True
    assert [] == driver.ask(add("t2"))
    assert ["queue_full"] == [reply.code for reply in driver.ask(add("t3")) if isinstance(reply, Refused)]


def test_those_that_run_do_not_count_as_waiting() -> None:
    driver = Driver(max_queued=1)
    driver.run("t1")
    assert [Done(task_id="t2")] == driver.ask(add("t2"))


def test_a_token_has_room_again_when_the_end_is_on_disk() -> None:
    driver = Driver(max_open_per_token=1)
    driver.add("t1")
    assert ["queue_full"] == [reply.code for reply in driver.ask(add("t2")) if isinstance(reply, Refused)]
    assert [Done(task_id="t3")] == driver.ask(add("t3", token="another"))
    driver.command(StopTask("t1"))
    assert [Done(task_id="t4")] == driver.ask(add("t4"))


def test_a_command_that_outlived_its_expiry_is_dropped(driver: Driver) -> None:
    assert [] == driver.command(add(expires_at_us=driver.now.monotonic_us))
    assert [Done(task_id="t2")] == driver.ask(add("t2", expires_at_us=driver.now.monotonic_us + 1))


def test_statistics_are_asked_for_and_not_worked_out_here(driver: Driver) -> None:
    assert [AnswerStats("client")] == driver.command(ReadStats())


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_is_answered_when_the_order_is_on_disk(driver: Driver) -> None:
    driver.run()
    driver.holding = True
    assert [InterruptJob(1)] == driver.command(StopTask("t1"))
    driver.release()
    assert [Answer("client", Done(task_id="t1"))] == driver.take()


def test_a_second_stop_waits_for_the_first_ones_record(driver: Driver) -> None:
    driver.run()
    driver.holding = True
    driver.command(StopTask("t1"), "first")
    assert [] == driver.ask(StopTask("t1"), "second")
    driver.release()
    done = Done(task_id="t1")
    assert [Answer("first", done), Answer("second", done)] == driver.take()
    assert [Answer("third", done)] == driver.command(StopTask("t1"), "third")


def test_a_stop_of_a_task_whose_end_is_not_on_disk_waits_for_it(driver: Driver) -> None:
    driver.run()
    driver.holding = True
    driver.report(1)
    driver.exit(1)
    assert [] == driver.command(StopTask("t1"))
    driver.release(FULL)
    assert [] == driver.take()
    driver.pass_time(RETRY_US)
    assert [Answer("client", Done(created=False, task_id="t1"))] == driver.take()


def test_a_stop_in_the_same_breath_as_the_end_waits_for_it_too(driver: Driver) -> None:
    driver.run()
    driver.holding = True
    driver.node.exited(1, CRASH, driver.now)
    assert [] == driver.command(StopTask("t1"))
    driver.release()
    assert [Answer("client", Done(created=False, task_id="t1"))] == driver.take()


def test_a_stop_of_a_final_or_unknown_task_is_answered_at_once(driver: Driver) -> None:
    assert [Done(created=False, task_id="t9")] == driver.ask(StopTask("t9"))


def test_a_stop_of_a_task_that_is_being_written_stops_it_when_it_is_there(slow: Driver) -> None:
    slow.command(add())
    assert [] == slow.command(StopTask("t1"), "stopper")
    slow.release()
    assert [Answer("client", Done(task_id="t1")), Answer("stopper", Done(task_id="t1"))] == answers(slow.take())
    assert (State.FAILED, Reason.STOPPED) == slow.ended()


def test_a_stop_of_a_task_that_was_not_written_after_all_is_answered(slow: Driver) -> None:
    slow.command(add())
    slow.command(StopTask("t1"), "stopper")
    slow.release(FULL)
    assert [Answer("client", Refused(FULL.code, FULL.detail)), Answer("stopper", Done(False, "t1"))] == slow.take()


# -- watching ---------------------------------------------------------------------------------------------------------


def test_a_watch_is_answered_when_the_end_is_on_disk(driver: Driver) -> None:
    driver.run()
    assert [] == driver.command(WatchTask("t1", UNTIL_US), "one")
    assert [] == driver.command(WatchTask("t1", UNTIL_US), "two")
    driver.report(1)
    driver.holding = True
    assert [] == driver.exit(1)
    assert [] == driver.command(WatchTask("t1", UNTIL_US), "three")
    driver.release()
    done = Done(task_id="t1")
    assert [Answer("one", done), Answer("two", done), Answer("three", done)] == driver.take()
    assert (set(), 0) == (driver.timers, len(driver.node.watches))


def test_a_watch_in_the_same_breath_as_the_end_waits_for_it(driver: Driver) -> None:
    driver.run()
    driver.holding = True
    driver.node.exited(1, CRASH, driver.now)
    assert [] == driver.command(WatchTask("t1", UNTIL_US))
    driver.release()
    assert [Answer("client", Done(task_id="t1"))] == driver.take()


def test_a_watch_ends_when_its_time_is_up(driver: Driver) -> None:
    driver.add()
    assert [] == driver.command(WatchTask("t1", driver.now.monotonic_us + 5))
    driver.pass_time(5)
    assert [Answer("client", Done(created=False, task_id="t1"))] == driver.take()
    assert 0 == len(driver.node.watches)


def test_one_who_asks_twice_is_answered_twice(driver: Driver) -> None:
    driver.add()
    for _ in range(2):
        driver.command(WatchTask("t1", UNTIL_US))
    driver.node.jobs.stop("t1", False, driver.now)
    assert [Answer("client", Done(task_id="t1"))] * 2 == answers(driver.take())


def test_a_watch_of_a_final_task_is_answered_at_once(driver: Driver) -> None:
    assert [Done(task_id="t9")] == driver.ask(WatchTask("t9", UNTIL_US))


def test_a_watch_of_a_task_that_is_being_written_waits_for_its_end(slow: Driver) -> None:
    slow.command(add())
    assert [] == slow.command(WatchTask("t1", UNTIL_US), "watcher")
    slow.release()
    assert [Answer("client", Done(task_id="t1"))] == answers(slow.take())
    slow.node.jobs.stop("t1", False, slow.now)
    assert [Answer("watcher", Done(task_id="t1"))] == answers(slow.take())


def test_nobody_watches_for_those_who_are_gone(slow: Driver) -> None:
    slow.command(add("t1"))
    slow.release()
    slow.holding = True
    slow.command(add("t2"))
    for task_id in ("t1", "t2"):
        for origin in ("gone", "stays"):
            slow.command(WatchTask(task_id, UNTIL_US), origin)
    slow.command(StopTask("t2"), "gone")
    slow.take()
    slow.node.forget(lambda origin: origin == "gone")
    slow.release()
    slow.node.jobs.stop("t1", False, slow.now)
    origins = [effect.origin for effect in slow.take() if isinstance(effect, Answer)]
    assert ["client", "gone", "stays", "stays"] == sorted(map(str, origins))
    assert (State.FAILED, Reason.STOPPED) == slow.ended("t2")
