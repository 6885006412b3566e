"""Retention in the core: when a batch goes to the disk, what goes with it, and what is never taken."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.core_builders import DIGEST, OTHER_DIGEST, SECOND_US, Driver, make_module, make_spec, of
from worker.core.changes import Applied, DropModule, Expired, ExpireTasks, WriteFailed
from worker.core.clock import Now
from worker.core.commands import AddModule, AddTask, Done
from worker.core.effects import Answer, Commit, RemoveModule, RemoveOutputs
from worker.core.retention import BATCH, CLOCK_JUMP_US, IDLE_US, PACE_US, RETENTION, SOON_US, RetentionSettings

MANY = 10**9
DAY_US = 86_400 * SECOND_US
SETTINGS = RetentionSettings(age_us=7 * DAY_US, tasks=100, output_bytes=MANY, module_bytes=500)
LONG_AGO = 5


@pytest.fixture
def driver() -> Driver:
    """It holds what it is asked to commit, and its first batch is on its way."""
    made = Driver(retention=SETTINGS)
    made.holding = True
    made.pass_time(SOON_US)
    return made


def asked(driver: Driver) -> list[ExpireTasks]:
    """The batches that are on their way."""
    return [commit.change for commit in driver.held if isinstance(commit.change, ExpireTasks)]


def answer(driver: Driver, result: Any) -> list[object]:
    """The disk's answer to the batch on its way; what comes of it, commits too."""
    (commit,) = (commit for commit in driver.held if isinstance(commit.change, ExpireTasks))
    driver.held.remove(commit)
    driver.commit(commit, result)
    return driver.take()


def drops(driver: Driver) -> list[str]:
    return [commit.change.digest for commit in driver.held if isinstance(commit.change, DropModule)]


def full(*modules: tuple[str, int, int], excess: int = 100) -> Expired:
    return Expired(False, excess_module_bytes=excess, modules=modules)


def test_it_looks_soon_after_the_start_and_asks_for_what_the_settings_say(driver: Driver) -> None:
    assert [ExpireTasks(driver.now.wall_us - 7 * DAY_US, driver.now.wall_us, 100, MANY, 500, BATCH)] == asked(driver)


def test_without_settings_nothing_is_ever_asked_for() -> None:
    driver = Driver()
    driver.run()
    driver.exit(1)
    driver.pass_time(30 * DAY_US)
    assert set() == driver.timers


def test_one_batch_is_on_its_way_at_a_time(driver: Driver) -> None:
    driver.pass_time(10 * IDLE_US)
    assert 1 == len(asked(driver))


def test_the_files_go_when_the_rows_have_gone(driver: Driver) -> None:
    assert [RemoveOutputs(("t1", "t2"))] == answer(driver, Expired(True, ("t1", "t2")))


def test_while_there_is_more_the_next_batch_leaves_the_disk_a_pause(driver: Driver) -> None:
    answer(driver, Expired(True, ("t1",), more=True))
    driver.pass_time(PACE_US - 1)
    assert [] == asked(driver)
    driver.pass_time(1)
    assert 1 == len(asked(driver))


@pytest.mark.parametrize("result", [Expired(False), WriteFailed("storage_full", "full")])
def test_when_there_is_nothing_more_or_the_disk_refuses_it_waits(driver: Driver, result: Any) -> None:
    answer(driver, result)
    driver.pass_time(IDLE_US - 1)
    assert [] == asked(driver)
    driver.pass_time(1)
    assert 1 == len(asked(driver))


def test_an_end_that_is_on_disk_makes_it_look_soon(driver: Driver) -> None:
    answer(driver, Expired(False))
    driver.holding = False
    runner_id = driver.run()
    driver.report(runner_id)
    driver.exit(runner_id)
    driver.holding = True
    driver.pass_time(SOON_US)
    assert 1 == len(asked(driver))


def test_a_draining_worker_does_not_ask_any_more(driver: Driver) -> None:
    driver.node.drain(driver.now)
    answer(driver, Expired(True, ("t1",), more=True))
    driver.pass_time(10 * IDLE_US)
    assert ([], True) == (asked(driver), driver.node.idle)


def test_a_clock_that_jumps_ahead_makes_nothing_too_old_for_an_hour(driver: Driver) -> None:
    answer(driver, Expired(False))
    driver.now = Now(driver.now.wall_us + 1000 * DAY_US, driver.now.monotonic_us)
    driver.pass_time(IDLE_US)
    assert [0] == [change.before_us for change in asked(driver)]
    answer(driver, Expired(False))
    driver.pass_time(CLOCK_JUMP_US)
    assert [driver.now.wall_us - 7 * DAY_US] == [change.before_us for change in asked(driver)]


def test_the_least_used_modules_go_until_there_is_room(driver: Driver) -> None:
    answer(driver, full((DIGEST, 100, LONG_AGO), (OTHER_DIGEST, 100, LONG_AGO)))
    assert [DIGEST] == drops(driver)
    assert {OTHER_DIGEST} == driver.node.modules
    driver.holding = False
    driver.release()
    assert [RemoveModule(DIGEST)] == driver.take()


def test_a_module_that_was_used_a_moment_ago_stays(driver: Driver) -> None:
    now_us = driver.now.wall_us
    answer(driver, full((DIGEST, 100, now_us - SETTINGS.module_grace_us + 1), (OTHER_DIGEST, 100, now_us)))
    assert [] == drops(driver)


def test_a_module_that_a_live_task_uses_stays(driver: Driver) -> None:
    driver.holding = False
    found = asked(driver)
    held, driver.held = driver.held, []
    driver.run()
    driver.held, driver.holding = held, True
    assert found == asked(driver)
    answer(driver, full((DIGEST, 100, LONG_AGO), (OTHER_DIGEST, 100, LONG_AGO)))
    assert [OTHER_DIGEST] == drops(driver)


def test_a_module_of_a_task_that_is_on_its_way_to_the_disk_stays(driver: Driver) -> None:
    driver.add("t1", make_spec())
    answer(driver, full((DIGEST, 100, LONG_AGO)))
    assert [] == drops(driver)


def test_a_module_that_goes_already_is_not_dropped_twice(driver: Driver) -> None:
    answer(driver, full((DIGEST, 100, LONG_AGO)))
    driver.pass_time(IDLE_US)
    answer(driver, full((DIGEST, 100, LONG_AGO)))
    assert [DIGEST] == drops(driver)


def test_a_task_is_not_added_to_a_module_that_goes_and_the_module_can_come_again(driver: Driver) -> None:
    answer(driver, full((DIGEST, 100, LONG_AGO)))
    (refused,) = driver.ask(AddTask("t1", "token", make_spec()))
    assert "module_unknown" == refused.code  # type: ignore[union-attr]
    driver.node.command("client", AddModule(make_module(), "blob"), driver.now)
    driver.settle()
    driver.release(Applied())
    assert [Done()] == [effect.reply for effect in driver.take() if isinstance(effect, Answer)]
    assert DIGEST in driver.node.modules


def test_a_drop_that_the_disk_refuses_leaves_the_module_where_it_was(driver: Driver) -> None:
    answer(driver, full((DIGEST, 100, LONG_AGO)))
    driver.release(WriteFailed("storage_full", "full"))
    assert ([], {DIGEST, OTHER_DIGEST}) == (of(RemoveModule, driver.take()), driver.node.modules)


def test_its_timer_is_one(driver: Driver) -> None:
    answer(driver, Expired(False))
    assert [RETENTION] == list(driver.node.timers)
    assert [] == of(Commit, driver.take())
