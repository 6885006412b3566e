"""The way of a job: fed with what happens, compared by the effects that come of it and by how the task ends on disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_builders import (
    CLEAN,
    DIGEST,
    KILLED,
    OTHER_DIGEST,
    SECOND_US,
    START,
    URL,
    Driver,
    exited_ok,
    make_spec,
    make_task,
    task_in,
    warm_spec,
    with_limits,
)

from worker.core.effects import (
    CancelArtifact,
    CancelFetch,
    CloseRunner,
    Effect,
    GiveJob,
    InterruptJob,
    KillRunner,
    PrepareArtifact,
    StartFetch,
    StartRunner,
)
from worker.core.events import ModuleFetched
from worker.core.pool import RunnerState
from worker.core.runners import LINGER_US
from worker.core.task import Entry, Reason, RunnerInfo, State
from worker.core.verdict import Exit, Report

COMPLETED = (State.COMPLETED, Reason.EXIT)
CRASHED = (State.FAILED, Reason.CRASHED)


def of(kind: type[Effect], effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def starts(effects: list[Effect]) -> list[str]:
    """The ids of the tasks that get a runner, made or warm."""
    return [effect.task.id for effect in effects if isinstance(effect, StartRunner | GiveJob)]


@pytest.fixture
def driver() -> Driver:
    return Driver()


# -- the straight way ------------------------------------------------------------------------------------------------


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
    assert ({}, set(), 2) == (driver.node.jobs.live, driver.timers, driver.node.jobs.pool.free)


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
    driver.node.jobs.artifact_failed(DIGEST, "too big", driver.now)
    assert [] == driver.take()
    assert {"t3"} == set(driver.node.jobs.live)
    assert [(State.FAILED, Reason.COMPILE_FAILED)] * 2 == [driver.ended("t1"), driver.ended("t2")]
    assert "too big" == driver.status("t1").detail


# -- by URL ----------------------------------------------------------------------------------------------------------


def test_a_module_by_url_is_fetched_then_compiled(driver: Driver) -> None:
    spec = make_spec(digest=None, url=URL, entry=Entry("add", None, b"[1]"))
    (fetch,) = of(StartFetch, driver.add(spec=spec))
    assert isinstance(fetch, StartFetch)
    assert spec == fetch.task.spec
    driver.node.jobs.fetched("t1", ModuleFetched(DIGEST, (("i32", 1),)), driver.now)
    assert [PrepareArtifact(DIGEST)] == driver.take()
    assert (DIGEST, Entry("add", (("i32", 1),), b"[1]")) == (
        driver.rows["t1"].spec.digest,
        driver.rows["t1"].spec.entry,
    )


def test_a_url_that_gives_another_module_than_the_task_names_fails_it(driver: Driver) -> None:
    driver = Driver(modules=(DIGEST,))
    assert [StartFetch] == [type(e) for e in of(StartFetch, driver.add(spec=make_spec(digest=OTHER_DIGEST, url=URL)))]
    driver.node.jobs.fetched("t1", ModuleFetched(DIGEST), driver.now)
    assert [] == driver.take()
    assert (State.FAILED, Reason.FETCH_FAILED) == driver.ended()


def test_a_url_that_gives_the_module_that_the_task_names_goes_on(driver: Driver) -> None:
    driver = Driver(modules=(DIGEST,))
    driver.add(spec=make_spec(digest=OTHER_DIGEST, url=URL))
    driver.node.jobs.fetched("t1", ModuleFetched(OTHER_DIGEST), driver.now)
    assert [PrepareArtifact(OTHER_DIGEST)] == driver.take()


def test_a_failed_fetch_ends_the_task(driver: Driver) -> None:
    driver.add(spec=make_spec(digest=None, url=URL))
    driver.node.jobs.refused("t1", Reason.FETCH_FAILED, "404", driver.now)
    assert [] == driver.take()
    assert (State.FAILED, Reason.FETCH_FAILED) == driver.ended()


def test_a_fetch_that_nobody_waits_for_any_more_changes_nothing(driver: Driver) -> None:
    driver.add(spec=make_spec(digest=None, url=URL))
    driver.node.jobs.stop("t1", False, driver.now)
    assert [CancelFetch("t1")] == driver.take()
    driver.node.jobs.fetched("t1", ModuleFetched(DIGEST), driver.now)
    driver.node.jobs.refused("t1", Reason.FETCH_FAILED, "404", driver.now)
    assert ([], (State.FAILED, Reason.STOPPED)) == (driver.take(), driver.ended())


def test_a_task_refused_after_it_got_a_runner_takes_it_along(driver: Driver) -> None:
    driver.schedule()
    driver.node.jobs.refused("t1", Reason.REFUSED, "its volume is gone", driver.now)
    assert [KillRunner(1)] == driver.take()[-1:]
    assert (State.FAILED, Reason.REFUSED) == driver.ended()


# -- the queue and the slots -----------------------------------------------------------------------------------------


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
    driver.node.jobs.artifact_evicted(DIGEST)
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
    assert 2 == driver.node.jobs.waiting
    driver.artifact_ready()
    assert 0 == driver.node.jobs.waiting


# -- the end of a runner of one job ----------------------------------------------------------------------------------


def test_a_fork_that_failed_frees_the_slot_and_ends_the_job() -> None:
    driver = Driver(slots=1)
    driver.schedule("t1")
    driver.add("t2")
    driver.node.jobs.spawn_failed(1, "EAGAIN", driver.now)
    assert ["t2"] == starts(driver.take())
    assert ((State.FAILED, Reason.INIT_FAILED), "EAGAIN") == (driver.ended(), driver.status().detail)


def test_a_fork_that_failed_after_its_task_was_stopped_frees_the_slot(driver: Driver) -> None:
    driver.schedule()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.node.jobs.spawn_failed(1, "EAGAIN", driver.now)
    driver.take()
    assert (2, (State.FAILED, Reason.STOPPED)) == (driver.node.jobs.pool.free, driver.ended())


@pytest.mark.parametrize(("retry_max", "state"), [(0, State.FAILED), (1, State.SCHEDULED)])
def test_a_runner_lost_after_it_began_is_tried_again_where_retry_allows(
    driver: Driver, retry_max: int, state: State
) -> None:
    driver.schedule(spec=make_spec(retry_max=retry_max, queue_ms=60_000))
    driver.node.jobs.spawn_failed(1, "the zygote died", driver.now, Reason.LOST)
    driver.take()
    assert state == driver.status().state
    if retry_max:
        assert (2, 2, {"init"}) == (driver.node.jobs.live["t1"].runner_id, driver.status().attempts, driver.timers)
    else:
        assert (Reason.LOST, "the zygote died (attempt 1, retry.max 0)") == (
            driver.status().reason,
            driver.status().detail,
        )


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
    driver.node.jobs.spawned(1, 4711, 60_001)
    driver.node.jobs.job_reported(1, 0, Report("link_failed", detail="unknown import"), driver.now)
    driver.take()
    assert {"linger"} == driver.timers
    driver.exit(1)
    assert ((State.FAILED, Reason.LINK_FAILED), "unknown import") == (driver.ended(), driver.status().detail)


def test_a_runner_that_dies_without_a_word_crashed(driver: Driver) -> None:
    driver.run()
    driver.exit(1, Exit(signal="SIGSEGV"), bye=False)
    assert (CRASHED, "SIGSEGV") == (driver.ended(), driver.status().signal)


# -- what a hostile runner says --------------------------------------------------------------------------------------


def scheduled(driver: Driver) -> None:
    driver.schedule()


def ready(driver: Driver) -> None:
    driver.schedule()
    driver.node.jobs.runner_ready(1, (), 1)


def running(driver: Driver) -> None:
    driver.run()


def reported(driver: Driver) -> None:
    driver.run()
    driver.report(1)


def warm_running(driver: Driver) -> None:
    driver.run(spec=warm_spec())


def refused_load(driver: Driver) -> None:
    driver.schedule()
    driver.node.jobs.job_reported(1, 0, Report("init_failed"), driver.now)
    driver.node.jobs.runner_ready(1, (), 1)


def started(job_id: int) -> Callable[[Driver], None]:
    return lambda driver: driver.node.jobs.job_started(1, job_id, driver.now)


def outcome(job_id: int, report: Report | None = None) -> Callable[[Driver], None]:
    return lambda driver: driver.node.jobs.job_reported(1, job_id, report or exited_ok(), driver.now)


HOSTILE: list[tuple[str, Callable[[Driver], None], Callable[[Driver], None], str]] = [
    ("STARTED before READY", scheduled, started(1), "STARTED for job 1 out of turn; it was given 1"),
    ("STARTED of another job", ready, started(7), "STARTED for job 7 out of turn; it was given 1"),
    ("STARTED twice", running, started(1), "STARTED for job 1 out of turn"),
    ("STARTED after OUTCOME", reported, started(1), "STARTED for job 1 out of turn"),
    ("STARTED after a refused load", refused_load, started(1), "STARTED for job 1 out of turn"),
    ("OUTCOME of another job", running, outcome(7), "OUTCOME for job 7 out of turn; it was given 1"),
    ("OUTCOME of job 0 while it runs", running, outcome(0), "OUTCOME for job 0 out of turn; it was given 1"),
    ("OUTCOME of a job before READY", scheduled, outcome(1), "OUTCOME for job 1 out of turn; it was given 0"),
    ("OUTCOME twice", reported, outcome(1), "OUTCOME for job 1 out of turn"),
    ("OUTCOME without STARTED", ready, outcome(1), "OUTCOME says exit, which a scheduled job can't end with"),
    ("a stop that nobody ordered", running, outcome(1, Report("stopped")), "OUTCOME says stopped"),
    ("a reason that is not a guest's", warm_running, outcome(1, Report("compile_failed")), "OUTCOME says compile_fai"),
]


@pytest.mark.parametrize(
    ("before", "says", "detail"), [row[1:] for row in HOSTILE], ids=[row[0].replace(" ", "_") for row in HOSTILE]
)
def test_a_runner_that_breaks_its_protocol_is_killed_and_its_job_crashed(
    driver: Driver, before: Callable[[Driver], None], says: Callable[[Driver], None], detail: str
) -> None:
    before(driver)
    driver.take()
    says(driver)
    assert ([KillRunner(1)], set()) == (driver.take(), driver.timers)
    driver.exit(1, KILLED)
    assert CRASHED == driver.ended()
    assert (driver.status().detail or "").startswith(f"the runner broke its protocol and was killed: {detail}")


def test_garbage_on_the_pipe_after_the_report_makes_the_report_worthless(driver: Driver) -> None:
    reported(driver)
    driver.node.jobs.misbehaved(1, "bad magic")
    assert [KillRunner(1)] == driver.take()
    driver.exit(1)
    assert CRASHED == driver.ended()


@pytest.mark.parametrize("says", [started(0), outcome(0), lambda driver: driver.node.jobs.runner_said_bye(1)])
def test_a_resting_runner_that_speaks_is_killed(driver: Driver, says: Callable[[Driver], None]) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    says(driver)
    assert [KillRunner(1)] == driver.take()
    assert (COMPLETED, set()) == (driver.ended(), driver.timers)


@pytest.mark.parametrize("says", [started(1), outcome(1)])
def test_what_a_killed_runner_still_says_does_not_change_why_it_was_killed(
    driver: Driver, says: Callable[[Driver], None]
) -> None:
    driver.schedule()
    driver.pass_time(5 * SECOND_US)
    assert [KillRunner(1)] == of(KillRunner, driver.take())
    says(driver)
    driver.node.jobs.misbehaved(1, "garbage")
    assert [] == driver.take()
    driver.exit(1, KILLED)
    assert (State.FAILED, Reason.INIT_FAILED) == driver.ended()


def test_a_runner_that_finished_while_it_was_being_killed_did_finish(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", True, driver.now)
    driver.report(1)
    assert set() == driver.timers
    driver.exit(1, CLEAN)
    assert COMPLETED == driver.ended()


def test_what_comes_of_a_runner_that_is_gone_changes_nothing(driver: Driver) -> None:
    driver.run()
    driver.exit(1, Exit(signal="SIGSEGV"), bye=False)
    jobs = driver.node.jobs
    jobs.spawned(1, 1, 1)
    jobs.runner_ready(1, (), 1)
    jobs.job_started(1, 1, driver.now)
    jobs.job_reported(1, 1, exited_ok(), driver.now)
    jobs.runner_said_bye(1)
    jobs.misbehaved(1, "late")
    assert ([], CRASHED, 2) == (driver.take(), driver.ended(), jobs.pool.free)


def test_a_second_ready_changes_nothing(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.runner_ready(1, ("another",), 9)
    runner = driver.node.jobs.pool.runners[1]
    assert (RunnerState.BUSY, ("seccomp",), 250) == (runner.state, runner.layers, runner.load_us)


# -- stop, in every state --------------------------------------------------------------------------------------------


def test_a_stop_while_the_artifact_is_made_calls_it_off(driver: Driver) -> None:
    driver.add()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [CancelArtifact(DIGEST)] == of(CancelArtifact, driver.take())
    assert (State.FAILED, Reason.STOPPED) == driver.ended()


def test_a_stop_while_another_waits_for_the_artifact_calls_off_nothing(driver: Driver) -> None:
    driver.add("t1")
    driver.add("t2")
    driver.take()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [] == driver.take()


def test_a_task_stopped_in_the_queue_never_gets_a_runner() -> None:
    driver = Driver(slots=1)
    driver.run("t1")
    driver.add("t2")
    driver.node.jobs.stop("t2", False, driver.now)
    assert [] == starts(driver.exit(1))
    assert (State.FAILED, Reason.STOPPED) == driver.ended("t2")


def test_a_stop_before_it_runs_kills_the_runner_and_the_slot_comes_back_with_the_exit(driver: Driver) -> None:
    driver.schedule()
    driver.take()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [KillRunner(1)] == driver.take()
    assert ((State.FAILED, Reason.STOPPED), 1) == (driver.ended(), driver.node.jobs.pool.free)
    driver.exit(1, KILLED, bye=False)
    assert 2 == driver.node.jobs.pool.free


def test_a_stop_while_it_runs_interrupts_then_kills_after_the_grace(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    assert [InterruptJob(1)] == driver.take()
    assert (State.RUNNING, True) == (driver.status().state, driver.status().stopping)
    driver.pass_time(SECOND_US - 1)
    assert [] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()
    driver.exit(1, KILLED, bye=False)
    assert (State.COMPLETED, Reason.STOPPED) == driver.ended()


def test_a_second_stop_does_not_move_the_grace(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.pass_time(SECOND_US - 1)
    driver.node.jobs.stop("t1", False, driver.now)
    assert [InterruptJob(1)] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()


def test_a_guest_that_stops_in_its_grace_says_so(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.report(1, Report("stopped", fuel_used=9))
    driver.exit(1)
    assert ((State.COMPLETED, Reason.STOPPED), 9) == (driver.ended(), driver.status().usage.fuel_used)


def test_a_forced_stop_has_no_grace(driver: Driver) -> None:
    driver.run()
    driver.node.jobs.stop("t1", False, driver.now)
    driver.take()
    driver.node.jobs.stop("t1", True, driver.now)
    assert ([KillRunner(1)], set()) == (driver.take(), driver.timers)
    driver.exit(1, KILLED, bye=False)
    assert (State.COMPLETED, Reason.STOPPED) == driver.ended()


@pytest.mark.parametrize(("force", "effects"), [(False, []), (True, [KillRunner(1)])])
def test_a_stop_after_the_report_leaves_the_report_as_it_is(driver: Driver, force: bool, effects: list[Effect]) -> None:
    reported(driver)
    driver.node.jobs.stop("t1", force, driver.now)
    assert effects == driver.take()
    driver.exit(1, KILLED if force else CLEAN, bye=not force)
    assert COMPLETED == driver.ended()


def test_a_stop_of_a_job_that_is_killed_already_asks_for_nothing(driver: Driver) -> None:
    driver.run(spec=with_limits(make_spec(), wall_ms=1))
    driver.pass_time(SECOND_US)
    driver.take()
    driver.node.jobs.stop("t1", False, driver.now)
    assert ([], set()) == (driver.take(), driver.timers)


def test_a_stop_of_a_task_that_is_not_there_does_nothing(driver: Driver) -> None:
    driver.node.jobs.stop("t9", True, driver.now)
    assert [] == driver.take()


# -- warm runners ----------------------------------------------------------------------------------------------------


def test_a_warm_runner_is_judged_by_its_report_and_takes_the_next_job(driver: Driver) -> None:
    driver.run("t1", warm_spec())
    driver.report(1)
    assert (COMPLETED, {"idle"}) == (driver.ended(), driver.timers)
    (give,) = of(GiveJob, driver.add("t2", warm_spec(args=("x",))))
    assert GiveJob(1, driver.rows["t2"], 2) == give
    assert {"init"} == driver.timers
    driver.pass_time(25)
    driver.begin(1)
    driver.report(1)
    assert COMPLETED == driver.ended("t2")
    assert (None, 56) == (driver.status("t2").usage.init_us, driver.status("t2").usage.cpu_us)


def test_a_waiting_task_of_its_key_gets_the_warm_runner_at_once() -> None:
    driver = Driver(slots=1)
    driver.run("t1", warm_spec())
    driver.add("t2", warm_spec())
    assert [GiveJob] == [type(effect) for effect in of(GiveJob, driver.report(1))]


def test_a_warm_runner_that_rested_long_enough_is_closed(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    driver.pass_time(10 * SECOND_US)
    assert [CloseRunner(1)] == driver.take()
    driver.exit(1)
    assert (2, set()) == (driver.node.jobs.pool.free, driver.timers)


def test_a_closed_runner_that_does_not_end_is_killed(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    driver.pass_time(10 * SECOND_US)
    driver.pass_time(LINGER_US)
    assert [CloseRunner(1), KillRunner(1)] == driver.take()


@pytest.mark.parametrize("says", [started(1), outcome(1), started(0), outcome(0)])
def test_a_closed_runner_that_goes_on_working_is_killed(driver: Driver, says: Callable[[Driver], None]) -> None:
    driver = Driver(max_jobs_per_runner=1)
    driver.run(spec=warm_spec())
    assert [CloseRunner(1)] == of(CloseRunner, driver.report(1))
    says(driver)
    assert [KillRunner(1)] == driver.take()


def test_a_warm_runner_is_replaced_after_its_last_job() -> None:
    driver = Driver(max_jobs_per_runner=2)
    driver.run("t1", warm_spec())
    assert [] == of(CloseRunner, driver.report(1))
    driver.add("t2", warm_spec())
    driver.begin(1)
    assert [CloseRunner(1)] == of(CloseRunner, driver.report(1))
    assert [StartRunner] == [type(effect) for effect in of(StartRunner, driver.add("t3", warm_spec()))]


def test_a_resting_runner_gives_way_to_a_task_that_has_no_slot() -> None:
    driver = Driver(slots=2)
    driver.run("t1", warm_spec())
    driver.run("t2", warm_spec(env=(("A", "b"),)))
    driver.report(2)
    driver.report(1)
    assert [CloseRunner(2)] == of(CloseRunner, driver.add("t3") + driver.add("t4"))
    effects = driver.exit(2)
    assert (["t3"], [CloseRunner(1)]) == (starts(effects), of(CloseRunner, effects))
    assert ["t4"] == starts(driver.exit(1))


def test_a_resting_runner_that_dies_costs_nobody(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.report(1)
    driver.exit(1, KILLED, bye=False)
    assert (2, set(), COMPLETED) == (driver.node.jobs.pool.free, driver.timers, driver.ended())
    assert [StartRunner] == [type(effect) for effect in of(StartRunner, driver.add("t2", warm_spec()))]


def test_a_warm_runner_that_dies_takes_the_job_it_was_given(driver: Driver) -> None:
    driver.run("t1", warm_spec())
    driver.report(1)
    driver.add("t2", warm_spec())
    driver.exit(1, Exit(signal="SIGSEGV"), bye=False)
    assert (COMPLETED, CRASHED) == (driver.ended("t1"), driver.ended("t2"))


def test_a_stop_before_a_warm_runner_began_the_job_kills_it(driver: Driver) -> None:
    driver.run("t1", warm_spec())
    driver.report(1)
    driver.add("t2", warm_spec())
    driver.node.jobs.stop("t2", False, driver.now)
    assert [KillRunner(1)] == of(KillRunner, driver.take())
    assert ["t3"] == starts(driver.add("t3", warm_spec()))
    assert [2] == [live.runner_id for live in driver.node.jobs.live.values()]


def test_a_stop_of_a_warm_job_leaves_the_runner_warm(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.node.jobs.stop("t1", False, driver.now)
    driver.report(1, Report("stopped"))
    assert ((State.COMPLETED, Reason.STOPPED), {"idle"}) == (driver.ended(), driver.timers)
    assert RunnerState.IDLE == driver.node.jobs.pool.runners[1].state


def test_a_warm_runner_that_could_not_load_its_artifact_takes_no_job(driver: Driver) -> None:
    driver.schedule(spec=warm_spec())
    driver.node.jobs.job_reported(1, 0, Report("init_failed"), driver.now)
    driver.take()
    assert {"linger"} == driver.timers
    driver.exit(1)
    assert (State.FAILED, Reason.INIT_FAILED) == driver.ended()


# -- after a restart -------------------------------------------------------------------------------------------------


def recovered(*tasks: object) -> Driver:
    driver = Driver()
    driver.node.restore(list(tasks), [], START)  # type: ignore[arg-type]
    driver.settle()
    return driver


def test_what_waited_goes_on() -> None:
    driver = recovered(make_task(queue_ms=7))
    assert ([PrepareArtifact(DIGEST)], {"queue"}) == (driver.take(), driver.timers)
    driver.artifact_ready()
    assert State.SCHEDULED == driver.status().state


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RUNNING])
def test_what_had_a_runner_is_lost(state: State) -> None:
    driver = recovered(task_in(state))
    assert (State.FAILED, Reason.LOST) == driver.ended()
    assert "the worker restarted while it ran (attempt 1, retry.max 0)" == driver.status().detail


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RUNNING])
def test_what_had_a_runner_goes_back_where_retry_allows(state: State) -> None:
    driver = recovered(task_in(state, retry_max=1, queue_ms=7))
    assert ((State.PENDING, None), 2) == (driver.ended(), driver.status().attempts)
    assert {"queue"} == driver.timers


def test_what_was_being_stopped_is_stopped() -> None:
    running = task_in(State.RUNNING, retry_max=5)
    stopping = make_task(status=type(running.status)(state=State.RUNNING, stopping=True), retry_max=5)
    assert (State.COMPLETED, Reason.STOPPED) == recovered(stopping).ended()


def test_the_queue_keeps_its_order_over_a_restart() -> None:
    driver = recovered(*(make_task(f"t{number}") for number in range(4)))
    assert ["t0", "t1"] == starts(driver.artifact_ready())


# -- drain -----------------------------------------------------------------------------------------------------------


def test_a_drain_starts_nothing_and_closes_what_rests(driver: Driver) -> None:
    driver.run("warm", warm_spec())
    driver.report(1)
    driver.run("cold")
    driver.node.jobs.admit(make_task("waits", digest=OTHER_DIGEST), driver.now)
    driver.take()
    driver.node.jobs.drain(driver.now)
    assert [CloseRunner(1)] == driver.take()
    assert [] == driver.exit(1) + driver.artifact_ready(OTHER_DIGEST) + driver.exit(2)
    assert {"waits"} == set(driver.node.jobs.live)


def test_a_draining_node_closes_warm_runners_as_they_finish(driver: Driver) -> None:
    driver.run(spec=warm_spec())
    driver.node.jobs.drain(driver.now)
    assert [CloseRunner(1)] == of(CloseRunner, driver.report(1))


def test_a_module_is_used_while_a_task_of_it_is_alive(driver: Driver) -> None:
    driver.add()
    assert (True, False) == (driver.node.jobs.uses(DIGEST), driver.node.jobs.uses(OTHER_DIGEST))
    driver.node.jobs.stop("t1", False, driver.now)
    assert not driver.node.jobs.uses(DIGEST)
