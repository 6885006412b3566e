"""The way of a job: fed with what happens, compared by the effects that come of it and by how the task ends on disk."""

from __future__ import annotations

import pytest

from tests.core.core_builders import (
    CLEAN,
    COMPLETED,
    CRASHED,
    DIGEST,
    KILLED,
    OTHER_DIGEST,
    SECOND_US,
    URL,
    Driver,
    make_spec,
    of,
    starts,
    with_limits,
)
from worker.core.effects import (
    CancelArtifact,
    CancelFetch,
    CloseRunner,
    KillRunner,
    PrepareArtifact,
    StartFetch,
    StartRunner,
)
from worker.core.events import ModuleFetched
from worker.core.runners import LINGER_US
from worker.core.task import Entry, Reason, RunnerInfo, State
from worker.core.verdict import Exit, Report

# -- the straight way -------------------------------------------------------------------------------------------------


def test_a_task_goes_from_artifact_to_runner_to_its_end(driver: Driver) -> None:
    assert [PrepareArtifact(DIGEST)] == of(PrepareArtifact, driver.add())
    (start,) = driver.artifact_ready()
    assert StartRunner(1, 0, driver.rows["t1"], 1) == start
    assert State.SCHEDULED == driver.status().state
    driver.begin(1)
    assert (State.RUNNING, RunnerInfo(4711, 60_001, ("seccomp",))) == (driver.status().state, driver.status().runner)
    assert [CloseRunner(1)] == driver.report(1)
    assert State.RUNNING == driver.status().state
    assert [] == driver.exit(1)
    assert COMPLETED == driver.ended()
    assert ({}, set(), 2) == (driver.node.tasks.live, driver.timers, driver.node.pool.free)


def test_the_usage_of_a_job_is_told_by_what_was_measured(driver: Driver) -> None:
    driver.add()
    driver.pass_time(300)
    driver.artifact_ready()
    driver.pass_time(50)
    driver.begin(1)
    driver.pass_time(1_000)
    driver.report(1)
    driver.exit(1)
    usage = driver.status().usage
    assert (300, 50, 12, 34, CLEAN.cpu_us, 1_350) == (
        usage.queue_us,
        usage.init_us,
        usage.fuel_used,
        usage.run_us,
        usage.cpu_us,
        usage.wall_us,
    )


def test_two_tasks_of_one_module_make_one_artifact(driver: Driver) -> None:
    assert [PrepareArtifact(DIGEST)] == of(PrepareArtifact, driver.add("t1") + driver.add("t2"))
    assert ["t1", "t2"] == starts(driver.artifact_ready())


def test_an_artifact_that_is_at_hand_is_not_asked_for(driver: Driver) -> None:
    driver.artifact_ready()
    assert ["t1"] == starts(driver.add())


def test_a_late_artifact_that_nobody_waits_for_starts_nothing(driver: Driver) -> None:
    assert [] == driver.artifact_ready()


def test_an_artifact_that_can_not_be_made_ends_all_that_wait_for_it(driver: Driver) -> None:
    for task_id in ("t1", "t2"):
        driver.add(task_id)
    driver.add("t3", make_spec(digest=OTHER_DIGEST))
    driver.node.artifact_failed(DIGEST, "too big", driver.now)
    assert [] == driver.take()
    assert {"t3"} == set(driver.node.tasks.live)
    assert [(State.FAILED, Reason.COMPILE_FAILED)] * 2 == [driver.ended("t1"), driver.ended("t2")]
    assert "too big" == driver.status("t1").detail


# -- by URL -----------------------------------------------------------------------------------------------------------


def test_a_module_by_url_is_fetched_then_compiled(driver: Driver) -> None:
    spec = make_spec(digest=None, url=URL, entry=Entry("add", None, b"[1]"))
    (fetch,) = of(StartFetch, driver.add(spec=spec))
    assert isinstance(fetch, StartFetch)
    assert spec == fetch.task.spec
    driver.node.tasks.fetched("t1", ModuleFetched(DIGEST, (("i32", 1),)), driver.now)
    assert [PrepareArtifact(DIGEST)] == driver.take()
    assert (DIGEST, Entry("add", (("i32", 1),), b"[1]")) == (
        driver.rows["t1"].spec.digest,
        driver.rows["t1"].spec.entry,
    )


def test_a_url_that_gives_another_module_than_the_task_names_fails_it(driver: Driver) -> None:
    driver = Driver(modules=(DIGEST,))
    assert [StartFetch] == [type(e) for e in of(StartFetch, driver.add(spec=make_spec(digest=OTHER_DIGEST, url=URL)))]
    driver.node.tasks.fetched("t1", ModuleFetched(DIGEST), driver.now)
    assert [] == driver.take()
    assert (State.FAILED, Reason.FETCH_FAILED) == driver.ended()


def test_a_url_that_gives_the_module_that_the_task_names_goes_on(driver: Driver) -> None:
    driver = Driver(modules=(DIGEST,))
    driver.add(spec=make_spec(digest=OTHER_DIGEST, url=URL))
    driver.node.tasks.fetched("t1", ModuleFetched(OTHER_DIGEST), driver.now)
    assert [PrepareArtifact(OTHER_DIGEST)] == driver.take()


def test_a_failed_fetch_ends_the_task(driver: Driver) -> None:
    driver.add(spec=make_spec(digest=None, url=URL))
    driver.node.refused("t1", Reason.FETCH_FAILED, "404", driver.now)
    assert [] == driver.take()
    assert (State.FAILED, Reason.FETCH_FAILED) == driver.ended()


def test_a_fetch_that_nobody_waits_for_any_more_changes_nothing(driver: Driver) -> None:
    driver.add(spec=make_spec(digest=None, url=URL))
    driver.node.jobs.stop("t1", False, driver.now)
    assert [CancelFetch("t1")] == driver.take()
    driver.node.tasks.fetched("t1", ModuleFetched(DIGEST), driver.now)
    driver.node.refused("t1", Reason.FETCH_FAILED, "404", driver.now)
    assert ([], (State.FAILED, Reason.STOPPED)) == (driver.take(), driver.ended())


def test_a_task_refused_after_it_got_a_runner_takes_it_along(driver: Driver) -> None:
    driver.schedule()
    driver.node.refused("t1", Reason.REFUSED, "its volume is gone", driver.now)
    assert [KillRunner(1)] == driver.take()[-1:]
    assert (State.FAILED, Reason.REFUSED) == driver.ended()


# -- the queue and the slots ------------------------------------------------------------------------------------------


def test_a_task_without_a_slot_waits_for_an_exit(driver: Driver) -> None:
    driver.artifact_ready()
    assert ["t1", "t2"] == starts(driver.add("t1") + driver.add("t2") + driver.add("t3"))
    driver.begin(1)
    assert [] == starts(driver.report(1))
    assert ["t3"] == starts(driver.exit(1))


def test_the_highest_priority_gets_the_next_slot() -> None:
    driver = Driver(slots=1)
    driver.run("t1")
    driver.add("low", make_spec(priority=1))
    driver.add("high", make_spec(priority=9))
    assert ["high"] == starts(driver.exit(1))


def test_a_task_whose_artifact_was_evicted_while_it_waited_asks_for_it_again() -> None:
    driver = Driver(slots=1)
    driver.run("t1")
    driver.add("t2")
    driver.add("t3", make_spec(digest=OTHER_DIGEST))
    driver.artifact_ready(OTHER_DIGEST)
    driver.node.artifact_evicted(DIGEST)
    effects = driver.exit(1)
    assert ([PrepareArtifact(DIGEST)], ["t3"]) == (of(PrepareArtifact, effects), starts(effects))
    driver.artifact_ready()
    assert ["t2"] == starts(driver.exit(2))


@pytest.mark.parametrize("spec", [make_spec(queue_ms=5), make_spec(queue_ms=5, digest=None, url=URL)])
def test_a_task_that_waits_longer_than_it_may_is_refused(driver: Driver, spec: object) -> None:
    driver.add(spec=spec)  # type: ignore[arg-type]
    driver.pass_time(4_999)
    assert {"queue"} == driver.timers
    driver.pass_time(1)
    assert ((State.FAILED, Reason.REFUSED), set()) == (driver.ended(), driver.timers)
    assert 1 == len([effect for effect in driver.take() if isinstance(effect, CancelFetch | CancelArtifact)])


def test_a_task_that_got_a_slot_waits_no_more(driver: Driver) -> None:
    driver.schedule(spec=make_spec(queue_ms=5))
    assert {"init"} == driver.timers


def test_a_task_that_may_not_wait_at_all_runs_where_all_is_at_hand(driver: Driver) -> None:
    driver.run(spec=make_spec(queue_ms=0))
    driver.pass_time(1)
    assert State.RUNNING == driver.status().state


def test_waiting_counts_the_pending(driver: Driver) -> None:
    driver.add("t1")
    driver.add("t2")
    assert 2 == driver.node.tasks.waiting
    driver.artifact_ready()
    assert 0 == driver.node.tasks.waiting


# -- the end of a runner of one job -----------------------------------------------------------------------------------


def test_a_fork_that_failed_frees_the_slot_and_ends_the_job() -> None:
    driver = Driver(slots=1)
    driver.schedule("t1")
    driver.add("t2")
    driver.node.spawn_failed(1, "EAGAIN", driver.now)
    assert ["t2"] == starts(driver.take())
    assert ((State.FAILED, Reason.INIT_FAILED), "EAGAIN") == (driver.ended(), driver.status().detail)


def test_a_fork_that_failed_after_its_task_was_stopped_frees_the_slot(driver: Driver) -> None:
    driver.schedule()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.node.spawn_failed(1, "EAGAIN", driver.now)
    driver.take()
    assert (2, (State.FAILED, Reason.STOPPED)) == (driver.node.pool.free, driver.ended())


@pytest.mark.parametrize(("retry_max", "state"), [(0, State.FAILED), (1, State.SCHEDULED)])
def test_a_runner_lost_after_it_began_is_tried_again_where_retry_allows(
    driver: Driver, retry_max: int, state: State
) -> None:
    driver.schedule(spec=make_spec(retry_max=retry_max, queue_ms=60_000))
    driver.node.spawn_failed(1, "the zygote died", driver.now, Reason.LOST)
    driver.take()
    assert state == driver.status().state
    if retry_max:
        assert (2, 2, {"init"}) == (driver.node.tasks.live["t1"].runner_id, driver.status().attempts, driver.timers)
    else:
        assert (Reason.LOST, "the zygote died (attempt 1, retry.max 0)") == (
            driver.status().reason,
            driver.status().detail,
        )


def test_a_task_that_lost_its_runner_waits_without_one(driver: Driver) -> None:
    driver.schedule(spec=make_spec(retry_max=1))
    driver.node.artifact_evicted(DIGEST)
    driver.node.spawn_failed(1, "the zygote died", driver.now, Reason.LOST)
    assert [PrepareArtifact(DIGEST)] == driver.take()[-1:]
    assert ((State.PENDING, None), None) == (driver.ended(), driver.node.tasks.live["t1"].runner_id)


def test_a_runner_that_does_not_start_in_time_is_killed(driver: Driver) -> None:
    driver.schedule()
    driver.pass_time(5 * SECOND_US - 1)
    assert [] == of(KillRunner, driver.take())
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()
    driver.exit(1, KILLED, bye=False)
    assert (State.FAILED, Reason.INIT_FAILED) == driver.ended()


def test_a_guest_beyond_its_deadline_and_its_alarm_is_killed(driver: Driver) -> None:
    driver.run(spec=with_limits(make_spec(), wall_ms=100))
    driver.pass_time(499_999)
    assert [] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()
    driver.exit(1, KILLED, bye=False)
    assert (State.FAILED, Reason.KILLED_DEADLINE) == driver.ended()


def test_a_runner_that_lingers_after_its_report_is_killed_and_the_report_stands(driver: Driver) -> None:
    driver.run()
    driver.report(1)
    driver.pass_time(LINGER_US - 1)
    assert [] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()
    driver.exit(1, KILLED, bye=False)
    assert COMPLETED == driver.ended()


def test_a_runner_that_could_not_load_its_artifact_says_why(driver: Driver) -> None:
    driver.schedule()
    driver.node.spawned(1, 4711)
    driver.node.job_reported(1, 0, Report("link_failed", detail="unknown import"), driver.now)
    driver.take()
    assert {"linger"} == driver.timers
    driver.exit(1)
    assert ((State.FAILED, Reason.LINK_FAILED), "unknown import") == (driver.ended(), driver.status().detail)


def test_a_runner_that_dies_without_a_word_crashed(driver: Driver) -> None:
    driver.run()
    driver.exit(1, Exit(signal="SIGSEGV"), bye=False)
    assert (CRASHED, "SIGSEGV") == (driver.ended(), driver.status().signal)
