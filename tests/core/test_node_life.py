"""The node and its disk, its restart and its drain: what runs goes on, and nothing of its story is lost."""

from __future__ import annotations

from tests.core.core_builders import (
    CREATED_US,
    DIGEST,
    SECOND_US,
    START,
    Driver,
    add,
    exited_ok,
    held_changes,
    make_module,
    make_task,
    task_in,
    warm_spec,
)
from worker.core.changes import UpdateTask, WriteFailed
from worker.core.commands import (
    AddModule,
    Command,
    DeleteModule,
    ReadAudit,
    ReadFunctions,
    ReadMetrics,
    ReadStats,
    Refused,
    ReportBroken,
    ReportCalls,
    StopTask,
    SwitchDefault,
    WatchTask,
)
from worker.core.effects import (
    Answer,
    AnswerAudit,
    AnswerFunctions,
    AnswerMetrics,
    AnswerStats,
    CloseRunner,
    InterruptJob,
)
from worker.core.ledger import RETRY_US
from worker.core.task import Reason, State

FULL = WriteFailed("storage_full", "no room")
ANSWERS = Answer | AnswerAudit | AnswerStats | AnswerFunctions | AnswerMetrics
UNTIL_US = START.monotonic_us + 60 * SECOND_US
NEW = make_module("sha256:" + "c" * 64)


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_a_task_that_changed_often_in_a_round_is_written_once(driver: Driver) -> None:
    driver.schedule("t1", warm_spec())
    driver.holding = True
    driver.node.runner_ready(1, 60_001, (), 1, driver.now)
    driver.node.job_started(1, 1, driver.now)
    driver.node.job_reported(1, 1, exited_ok(), driver.now)
    driver.take()
    (update,) = held_changes(driver)
    assert isinstance(update, UpdateTask)
    assert ["runner_started", "ended"] == [note.event for note in update.notes]
    assert State.COMPLETED == update.task.status.state


def test_a_short_jobs_whole_story_is_one_commit_where_the_ledger_is_lazy() -> None:
    driver = Driver(lazy_commit_us=50)
    driver.holding = True
    driver.node.jobs.admit(make_task(), driver.now)
    driver.artifact_ready()
    driver.begin(1)
    driver.pass_time(49)
    assert [] == held_changes(driver)
    driver.report(1)
    driver.exit(1)
    (update,) = held_changes(driver)
    assert isinstance(update, UpdateTask)
    assert ["slot_assigned", "runner_started", "ended"] == [note.event for note in update.notes]


def test_a_long_jobs_beginning_is_on_disk_after_a_moment_where_the_ledger_is_lazy() -> None:
    driver = Driver(lazy_commit_us=50)
    driver.run()
    assert State.PENDING == driver.rows.get("t1", make_task()).status.state
    driver.pass_time(50)
    assert (State.RUNNING, {"deadline"}) == (driver.status().state, driver.timers)


def test_a_full_disk_stops_no_task_and_loses_nothing_of_its_story(slow: Driver) -> None:
    slow.holding = False
    slow.schedule()
    slow.holding = True
    slow.begin(1)
    slow.release(FULL)
    slow.report(1)
    slow.exit(1)
    assert State.RUNNING == slow.status().state  # what the refused commit would have written, as the test keeps it
    slow.holding = True
    slow.pass_time(RETRY_US)
    (update,) = held_changes(slow)
    assert isinstance(update, UpdateTask)
    assert ["runner_started", "ended"] == [note.event for note in update.notes]
    slow.release()
    assert ((State.COMPLETED, Reason.EXIT), set(), {}) == (slow.ended(), slow.timers, slow.node.admission.open)


# -- restart, drain ---------------------------------------------------------------------------------------------------


def test_a_restored_node_counts_what_is_open_and_knows_its_modules() -> None:
    driver = Driver(modules=(), max_open_per_token=3)
    tasks = [make_task("t1"), task_in(State.RUNNING, "t2"), task_in(State.RUNNING, "t3", retry_max=1)]
    driver.node.restore(tasks, [DIGEST], START)
    assert ({"token": 3}, {DIGEST}) == (driver.node.admission.open, driver.node.modules)
    driver.settle()
    assert {"token": 2} == driver.node.admission.open
    assert {"t1", "t3"} == set(driver.node.tasks.live)


def test_a_draining_node_takes_no_task_and_is_idle_when_nothing_runs(driver: Driver) -> None:
    driver.run("cold")
    driver.run("warm", warm_spec())
    driver.report(2)
    driver.node.drain(driver.now)
    assert [CloseRunner(2)] == [effect for effect in driver.take() if isinstance(effect, CloseRunner)]
    assert ["draining"] == [reply.code for reply in driver.ask(add()) if isinstance(reply, Refused)]
    driver.exit(2)
    assert not driver.node.idle
    driver.report(1)
    driver.holding = True
    driver.exit(1)
    assert not driver.node.idle
    driver.release()
    assert driver.node.idle


def test_when_the_drains_time_is_up_what_has_a_runner_is_stopped() -> None:
    driver = Driver(slots=2)
    driver.run("runs")
    driver.schedule("starts")
    driver.add("waits")
    driver.node.drain(driver.now)
    driver.take()
    driver.node.stop_running(driver.now)
    driver.node.stop_running(driver.now)
    assert [InterruptJob(1)] == [effect for effect in driver.take() if isinstance(effect, InterruptJob)]
    assert (State.FAILED, Reason.STOPPED) == driver.ended("starts")
    assert (True, {"runs", "waits"}) == (driver.status("runs").stopping, set(driver.node.tasks.live))


def test_a_time_on_record_is_the_wall_clocks(driver: Driver) -> None:
    driver.schedule()
    assert START.wall_us == driver.status().scheduled_at_us
    assert CREATED_US < START.wall_us


def test_every_command_has_its_way(driver: Driver) -> None:
    commands: list[Command] = [
        add(),
        StopTask("t1"),
        WatchTask("t1", UNTIL_US),
        AddModule(NEW, "blob"),
        DeleteModule(NEW.digest),
        ReadStats(),
        ReadAudit(),
        SwitchDefault("f", "r", on=True),
        ReadFunctions(("f",)),
        ReadMetrics(),
        ReportCalls(()),
        ReportBroken("t1", 0, "no answer"),
    ]
    assert set(Command.__args__) == {type(command) for command in commands}
    for command in commands:
        replies = [e for e in driver.command(command) if isinstance(e, ANSWERS)]
        assert 1 == len(replies)
