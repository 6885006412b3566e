"""Services: from the post to the first runner, and runners that lie."""

from __future__ import annotations

import pytest

from tests.core.core_builders import DIGEST, KILLED, URL, add, make_module, of, task_in
from tests.core.service_builders import ServiceDriver, service_spec, started
from worker.core.commands import AddTask, Done, Refused, ReportBroken, StopTask
from worker.core.effects import (
    Answer,
    CloseListener,
    KillRunner,
    OpenListener,
    PrepareArtifact,
    StartFetch,
    StartServer,
    WatchCalls,
)
from worker.core.events import ModuleFetched
from worker.core.lifecycle import TRIED
from worker.core.task import Handler, Limits, Reason, State
from worker.core.verdict import Exit, Report

LINK = Report("link_failed", detail="unknown import")


@pytest.fixture
def driver() -> ServiceDriver:
    return ServiceDriver()


# -- coming up --------------------------------------------------------------------------------------------------------


def test_a_service_waits_for_its_artifact_first(driver: ServiceDriver) -> None:
    effects = driver.command(AddTask("s1", "token", service_spec()))
    assert [PrepareArtifact(DIGEST)] == [effect for effect in effects if not isinstance(effect, Answer)]


def test_a_service_gets_its_listener_and_then_one_runner_though_its_minimum_is_none(driver: ServiceDriver) -> None:
    effects = driver.deploy(min=0)
    task = driver.rows["s1"]
    wanted = [OpenListener(task), WatchCalls("s1"), StartServer(1, 0, task)]
    assert wanted == [effect for effect in effects if not isinstance(effect, Answer)]
    assert State.SCHEDULED == driver.status("s1").state


def test_a_service_runs_once_a_runner_is_ready(driver: ServiceDriver) -> None:
    driver.serve()
    status = driver.status("s1")
    assert (State.RUNNING, None, driver.now.wall_us) == (status.state, status.runner, status.started_at_us)


def test_a_service_by_url_learns_its_exports_types_when_the_module_is_here(driver: ServiceDriver) -> None:
    spec = service_spec(handler=Handler("export", "add"), digest=None, url=URL)
    effects = driver.command(AddTask("s1", "token", spec))
    (fetch,) = of(StartFetch, effects)
    event = ModuleFetched(DIGEST, signature=(("i32", "i32"), ("i64",)))
    driver.node.module_fetched(make_module(), "blob", fetch.task, event)
    driver.settle()
    service = driver.rows["s1"].spec.service
    assert service is not None
    assert (("i32", "i32"), ("i64",)) == (service.handler.params, service.handler.results)


def test_a_service_that_fetches_its_module_waits_for_it_though_an_artifact_is_there(driver: ServiceDriver) -> None:
    digest = "sha256:" + "c" * 64
    driver.node.artifact_ready(digest, driver.now)
    effects = driver.command(AddTask("s1", "token", service_spec(digest=digest, url=URL)))
    (fetch,) = of(StartFetch, effects)
    assert [] == started(effects)
    driver.node.module_fetched(make_module(digest), "blob", fetch.task, ModuleFetched(digest))
    assert ["s1"] == started(driver.take())


def test_a_services_artifact_that_can_not_be_made_ends_it(driver: ServiceDriver) -> None:
    driver.command(AddTask("s1", "token", service_spec()))
    driver.node.artifact_failed(DIGEST, "too many functions", driver.now)
    driver.settle()
    assert (State.FAILED, Reason.COMPILE_FAILED) == driver.ended("s1")


@pytest.mark.parametrize(
    ("exit_", "reason"),
    [(Exit(signal="SIGSEGV"), Reason.CRASHED), (Exit(oom_killed=True), Reason.OOM_KERNEL)],
)
def test_a_first_runner_that_dies_ends_its_service(driver: ServiceDriver, exit_: Exit, reason: Reason) -> None:
    driver.deploy()
    effects = driver.die(1, exit_)
    assert (State.FAILED, reason) == driver.ended("s1")
    assert [CloseListener("s1")] == effects


def test_a_first_runner_that_can_not_link_says_why(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.node.job_reported(1, 0, LINK, driver.now)
    driver.leave(1)
    assert ((State.FAILED, Reason.LINK_FAILED), "unknown import") == (driver.ended("s1"), driver.status("s1").detail)


@pytest.mark.parametrize("reason", sorted(TRIED - {Reason.KILLED_DEADLINE}))
def test_a_first_runner_whose_trial_fails_ends_its_service_by_the_reason_of_that(
    driver: ServiceDriver, reason: Reason
) -> None:
    driver.deploy()
    driver.node.job_reported(1, 0, Report(reason, trap_code="stack_overflow", exit_code=3, fuel_used=9), driver.now)
    driver.leave(1)
    assert (State.FAILED, reason) == driver.ended("s1")
    status = driver.status("s1")
    assert ("stack_overflow", 3, 9) == (status.trap_code, status.exit_code, status.usage.fuel_used)


def test_a_first_runner_whose_alarm_comes_before_it_is_ready_was_tried_for_too_long(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.die(1, Exit(signal="SIGALRM"))
    assert (State.FAILED, Reason.KILLED_DEADLINE) == driver.ended("s1")
    assert None is driver.status("s1").signal


@pytest.mark.parametrize("reason", ["exit", "stopped", "compile_failed"])
def test_a_first_runner_that_says_what_no_trial_comes_to_is_killed(driver: ServiceDriver, reason: str) -> None:
    driver.deploy()
    driver.node.job_reported(1, 0, Report(reason), driver.now)
    assert [KillRunner(1)] == driver.take()
    driver.die(1, Exit(signal="SIGALRM"))
    assert (State.FAILED, Reason.CRASHED) == driver.ended("s1")


def test_a_first_runner_that_is_not_ready_in_time_is_killed(driver: ServiceDriver) -> None:
    """Its trial of an instance may take as long as a call."""
    driver.deploy(limits=Limits(wall_ms=7_000))
    driver.pass_time(12_399_999)
    assert [] == driver.take()
    driver.pass_time(1)
    assert [KillRunner(1)] == driver.take()
    driver.die(1, KILLED)
    assert (State.FAILED, Reason.INIT_FAILED) == driver.ended("s1")


def test_a_later_runner_that_is_not_ready_in_time_is_killed_without_a_trials_time(driver: ServiceDriver) -> None:
    driver.serve()
    driver.leave(1, calls=1)
    driver.waits()
    driver.pass_time(5_000_000)
    assert [KillRunner(2)] == of(KillRunner, driver.take())


def test_a_fork_that_fails_ends_a_new_service(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.node.spawn_failed(1, "EAGAIN", driver.now)
    driver.settle()
    assert ((State.FAILED, Reason.INIT_FAILED), 4) == (driver.ended("s1"), driver.node.pool.free)


def test_a_revision_that_is_alive_can_not_be_deployed_again(driver: ServiceDriver) -> None:
    driver.deploy()
    (reply,) = driver.ask(AddTask("s2", "token", service_spec()))
    assert isinstance(reply, Refused)
    assert ("revision_exists", "function.revision") == (reply.code, reply.field)
    assert [Done(task_id="s3")] == driver.ask(AddTask("s3", "token", service_spec(revision="r2")))


def test_a_revision_on_its_way_to_the_disk_can_not_be_deployed_again(driver: ServiceDriver) -> None:
    driver.holding = True
    driver.deploy()
    driver.add("t1")
    (reply,) = driver.ask(AddTask("s2", "token", service_spec()))
    assert isinstance(reply, Refused)
    assert "revision_exists" == reply.code


def test_a_revision_that_ended_can_be_deployed_again(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.command(StopTask("s1"))
    assert [Done(task_id="s2")] == driver.ask(AddTask("s2", "token", service_spec()))


def test_a_revision_whose_end_is_not_on_disk_yet_can_not_be_deployed_again(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.holding = True
    driver.command(StopTask("s1"))
    (reply,) = driver.ask(AddTask("s2", "token", service_spec()))
    assert isinstance(reply, Refused)
    assert "revision_exists" == reply.code
    driver.release()
    driver.take()
    assert [Done(task_id="s3")] == driver.ask(AddTask("s3", "token", service_spec()))


def test_a_task_that_needs_more_memory_than_all_runners_may_have_is_refused() -> None:
    driver = ServiceDriver(runners_memory_bytes=100_000_000)
    (reply,) = driver.ask(add(spec=service_spec(limits=Limits(memory_bytes=95_000_000))))
    assert isinstance(reply, Refused)
    assert ("limit_above_ceiling", "limits.memory_bytes") == (reply.code, reply.field)


def test_a_task_that_no_longer_fits_after_a_restart_is_refused() -> None:
    driver = ServiceDriver(runners_memory_bytes=10_000_000)
    driver.node.restore([task_in(State.PENDING)], [], driver.now)
    driver.settle()
    assert (State.FAILED, Reason.REFUSED) == driver.ended()


# -- runners that lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "says",
    [
        lambda node, now: node.job_started(1, 1, now),
        lambda node, now: node.job_reported(1, 0, Report("exit"), now),
        lambda node, now: node.job_reported(1, 3, LINK, now),
        lambda node, now: node.misbehaved(1, "garbage"),
    ],
)
@pytest.mark.parametrize("ready", [False, True])
def test_a_runner_that_says_what_it_may_not_dies(driver: ServiceDriver, says: object, ready: bool) -> None:
    driver.deploy()
    if ready:
        driver.ready(1)
    says(driver.node, driver.now)
    assert [KillRunner(1)] == driver.take()


def test_a_bye_before_ready_is_none(driver: ServiceDriver) -> None:
    driver.deploy()
    driver.node.runner_said_bye(1, driver.now)
    assert [KillRunner(1)] == driver.take()


def test_a_runner_that_says_bye_and_stays_is_killed(driver: ServiceDriver) -> None:
    driver.serve()
    driver.node.runner_said_bye(1, driver.now)
    driver.pass_time(1_000_000)
    assert [KillRunner(1)] == of(KillRunner, driver.take())


def test_a_runner_that_answers_what_is_no_answer_is_killed_alone(driver: ServiceDriver) -> None:
    driver.serve(min=2)
    driver.ready(2)
    assert [KillRunner(2)] == of(KillRunner, driver.command(ReportBroken("s1", 1002, "no head")))
    assert 1 == driver.view().broken


def test_where_nobody_knows_which_one_it_was_all_that_serve_are_killed(driver: ServiceDriver) -> None:
    driver.serve(min=3)
    driver.ready(2)
    assert [KillRunner(1), KillRunner(2)] == of(KillRunner, driver.command(ReportBroken("s1", 0, "no head")))


@pytest.mark.parametrize(("task_id", "pid"), [("s1", 7), ("gone", 1001), ("gone", 0)])
def test_a_broken_answer_of_nobody_alive_kills_nobody(driver: ServiceDriver, task_id: str, pid: int) -> None:
    driver.serve()
    assert [] == of(KillRunner, driver.command(ReportBroken(task_id, pid, "no head")))
