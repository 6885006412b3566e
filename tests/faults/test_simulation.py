"""The pure core under random events: whatever happens, and in whatever order, nothing is lost, doubled or left behind.

`GALAGO_SIMULATION=<number of runs>` makes it longer, and random; without it the same bounded runs are made each time.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.faults.simulation_services import ServiceRules
from tests.faults.simulation_strategies import (
    DIGESTS,
    HONEST_REASONS,
    TOKENS,
    any_index,
    durations_us,
    exits,
    reports,
    specs,
)
from tests.faults.simulation_world import FakeRunner
from worker.core.commands import (
    AddModule,
    AddTask,
    Command,
    DeleteModule,
    Idempotency,
    ReadStats,
    StopTask,
    WatchTask,
)
from worker.core.events import ModuleFetched
from worker.core.ledger import RETRY_US
from worker.core.module import Module
from worker.core.task import Isolation, Kind, Limits, Reason, TaskSpec
from worker.core.verdict import Exit, Report

RUNS = int(os.environ.get("GALAGO_SIMULATION", "0"))


class Simulation(ServiceRules):
    def pick(self, index: int) -> FakeRunner:
        runners = list(self.world.runners.values())
        return runners[index % len(runners)]

    # -- commands ----------------------------------------------------------------------------------------------------

    @initialize(
        steps=st.lists(st.integers(1, 4), min_size=2, max_size=4),
        isolation=st.sampled_from(Isolation),
        lazy=st.booleans(),
        honest=st.sampled_from([False, False, True]),
    )
    def begin_with_some_work(self, steps: list[int], isolation: Isolation, lazy: bool, honest: bool) -> None:
        self.honest = honest
        if lazy:
            self.world.begin_lazily()
        for count in steps:
            self.add_and_let_it_run(TaskSpec(Kind.JOB, "job", None, isolation=isolation), count, "exit")

    @rule(
        spec=specs,
        token=st.sampled_from(TOKENS),
        key=st.sampled_from([None, None, "k"]),
        body=st.sampled_from("xy"),
        late_us=st.sampled_from([None, None, None, -1, 0, 1, 10**7]),
    )
    def add(self, spec: TaskSpec, token: str, key: str | None, body: str, late_us: int | None) -> None:
        task_id = f"task {len(self.tasks)}"
        self.tasks.append(task_id)
        expires_at_us = 0 if late_us is None else self.world.now.monotonic_us + late_us
        self.ask(AddTask(task_id, token, spec, "", Idempotency(key, body) if key else None, expires_at_us))

    @rule(spec=specs, steps=st.sampled_from([0, 1, 2, 3, 3, 3, 4]), reason=st.sampled_from(HONEST_REASONS))
    def add_and_let_it_run(self, spec: TaskSpec, steps: int, reason: str) -> None:
        """The straight way, as far as it goes: most of what can go wrong goes wrong from a place on it."""
        spec = replace(spec, digest=DIGESTS[0], url=None, env=(), limits=Limits(wall_ms=100))
        self.add(spec, "a", None, "x", None)
        self.the_disk_does_all()
        if DIGESTS[0] in self.world.preparing:
            self._artifact_comes(DIGESTS[0], fails=False)
        live = self.node.tasks.live.get(self.tasks[-1])
        for _ in range(steps):
            if live is not None and live.runner_id in self.world.runners:
                self._go_on(self.world.runners[live.runner_id], reason)

    @precondition(lambda self: self.tasks)
    @rule(index=any_index, force=st.booleans(), alive=st.booleans())
    def stop(self, index: int, force: bool, alive: bool) -> None:
        tasks = list(self.node.tasks.live) if alive and self.node.tasks.live else self.tasks
        self.ask(StopTask(tasks[-1 - index % len(tasks)], force))

    @precondition(lambda self: self.tasks)
    @rule(index=any_index, for_us=durations_us)
    def watch(self, index: int, for_us: int) -> None:
        until_us = self.world.now.monotonic_us + for_us
        self.ask(WatchTask(self.tasks[-1 - index % len(self.tasks)], until_us))

    @rule(digest=st.sampled_from(DIGESTS), kind=st.sampled_from([AddModule, DeleteModule, DeleteModule, ReadStats]))
    def ask_of_modules(self, digest: str, kind: type[Command]) -> None:
        if kind is AddModule:
            self.ask(AddModule(Module(digest, 8, (), (), 1), "blob"))
        else:
            self.ask(DeleteModule(digest) if kind is DeleteModule else ReadStats())

    @precondition(lambda self: self.world.asked and not self.world.gathering)
    @rule(index=any_index)
    def a_client_goes(self, index: int) -> None:
        """Its watch is forgotten; whatever else it asked is still answered, to nobody."""
        origins = list(self.world.asked)
        gone = origins[index % len(origins)]
        self.world.node.forget(lambda origin: origin == gone)
        if isinstance(self.world.asked[gone], WatchTask):
            del self.world.asked[gone]

    # -- the disk and the clock --------------------------------------------------------------------------------------

    @rule(full=st.sampled_from([False, False, True]))
    def the_disk_fills_or_is_emptied(self, full: bool) -> None:
        self.full = full

    @precondition(lambda self: self.world.commits)
    @rule(count=st.integers(1, 5))
    def the_disk_writes(self, count: int) -> None:
        self.world.write(count, self.full)

    @precondition(lambda self: self.world.results)
    @rule(count=st.integers(1, 5))
    def the_disk_answers(self, count: int) -> None:
        self.world.tell(count)

    @precondition(lambda self: self.world.commits or self.world.results)
    @rule()
    def the_disk_does_all(self) -> None:
        self.world.write(100, self.full)
        self.world.tell(100)

    @rule(us=durations_us, wall_jump_us=st.sampled_from([0, 0, -(10**12), 10**12]))
    def time_passes(self, us: int, wall_jump_us: int) -> None:
        if self.honest:
            self.let_runners_start()
        self.world.pass_time(us, wall_jump_us)

    def let_runners_start(self) -> None:
        """None is killed for being late."""
        while starting := [one for one in self.world.runners.values() if one.phase in ("asked", "born")]:
            for runner in starting:
                if runner.id in self.world.runners:
                    self._go_on(runner, "exit")

    @rule(often=st.integers(0, 9))
    def crash(self, often: int) -> None:
        if often == 0:
            self.world.crash()

    @rule(often=st.integers(0, 19), stop=st.booleans())
    def drain(self, often: int, stop: bool) -> None:
        if often == 0:
            self.world.node.drain(self.world.now)
        if self.world.node.draining and stop:
            self.world.node.stop_running(self.world.now)
        self.world.settle()

    @rule(events=st.integers(2, 4))
    def several_things_happen_at_once(self, events: int) -> None:
        """The next events are told in one round: nothing that the node wants is done between them."""
        self.world.gathering = events

    # -- modules and artifacts ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.fetching)
    @rule(index=any_index, digest=st.sampled_from([*DIGESTS, None]))
    def a_fetch_ends(self, index: int, digest: str | None) -> None:
        task_ids = list(self.world.fetching)
        self._fetch_ends(task_ids[index % len(task_ids)], digest)

    def _fetch_ends(self, task_id: str, digest: str | None) -> None:
        task = self.world.fetching.pop(task_id)
        if digest is None:
            self.node.refused(task_id, Reason.FETCH_FAILED, "404", self.world.now)
        else:
            self.world.node.module_fetched(Module(digest, 8, (), (), 1), "blob", task, ModuleFetched(digest))
        self.world.settle()

    @precondition(lambda self: self.world.preparing)
    @rule(index=any_index, fails=st.sampled_from([False, False, False, True]))
    def an_artifact_comes(self, index: int, fails: bool) -> None:
        digests = sorted(self.world.preparing)
        self._artifact_comes(digests[index % len(digests)], fails)

    def _artifact_comes(self, digest: str, fails: bool) -> None:
        self.world.preparing.remove(digest)
        if fails and not self.honest:
            self.node.artifact_failed(digest, "too many functions", self.world.now)
        else:
            self.world.artifacts.add(digest)
            self.node.artifact_ready(digest, self.world.now)
        self.world.settle()

    @rule(digest=st.sampled_from(DIGESTS))
    def an_artifact_comes_that_nobody_waits_for(self, digest: str) -> None:
        asked_for = digest in self.world.preparing or self.world.gathering > 0
        if not asked_for and digest in self.world.table.files:
            self.world.artifacts.add(digest)
            self.node.artifact_ready(digest, self.world.now)
            self.world.settle()

    # Never within a round: a StartRunner that isn't carried out yet would find its artifact gone.
    @precondition(lambda self: self.world.artifacts and not self.world.gathering)
    @rule(index=any_index)
    def an_artifact_is_evicted(self, index: int) -> None:
        artifacts = sorted(self.world.artifacts)
        self.world._evict(artifacts[index % len(artifacts)])
        self.world.settle()

    # -- runners -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.runners)
    @rule(index=any_index, reason=st.sampled_from(HONEST_REASONS), steps=st.integers(1, 4))
    def a_runner_goes_on(self, index: int, reason: str, steps: int) -> None:
        runner = self.pick(index)
        for _ in range(steps):
            if runner.id in self.world.runners:
                self._go_on(runner, reason)

    def _go_on(self, runner: FakeRunner, reason: str) -> None:
        """The next thing that an honest runner, and the kernel, would do."""
        node, now = self.node, self.world.now
        if runner.killed:
            self._exit(runner, Exit(signal="SIGKILL"))
        elif runner.phase == "asked":
            runner.phase = "born"
            node.spawned(runner.id, 100 + runner.id)
        elif runner.phase == "born":
            runner.phase = "ready"
            node.runner_ready(runner.id, 60_000 + runner.slot, ("seccomp",), 200, now)
        elif runner.service is not None:
            self.serve(runner)
        elif runner.phase == "running":
            assert runner.job is not None
            told = "stopped" if runner.interrupted else reason
            code = {"exit": 0, "nonzero_exit": 3}.get(told)
            _, job_id = runner.job
            runner.job, runner.phase, runner.interrupted = None, "ready", False
            node.job_reported(runner.id, job_id, Report(told, exit_code=code, fuel_used=7), now)
        elif runner.jobs:
            runner.job, runner.phase = runner.jobs.popleft(), "running"
            node.job_started(runner.id, runner.job[1], now)
        elif runner.closed:
            node.runner_said_bye(runner.id, now)
            self._exit(runner, Exit(code=0, cpu_us=5))
        self.world.settle()

    def _exit(self, runner: FakeRunner, exit_: Exit) -> None:
        del self.world.runners[runner.id]
        self.world.reaped.add(runner.id)
        self.node.exited(runner.id, exit_, self.world.now, runner.calls)
        self.world.settle()

    @precondition(lambda self: self.world.runners and not self.honest)
    @rule(index=any_index, exit_=exits, bye=st.booleans())
    def a_runner_dies(self, index: int, exit_: Exit, bye: bool) -> None:
        runner = self.pick(index)
        if bye:
            self.node.runner_said_bye(runner.id, self.world.now)
        self._exit(runner, exit_)

    @precondition(
        lambda self: any(runner.phase == "asked" for runner in self.world.runners.values()) and not self.honest
    )
    @rule(index=any_index, reason=st.sampled_from([Reason.INIT_FAILED, Reason.LOST]))
    def a_fork_fails(self, index: int, reason: Reason) -> None:
        asked = [runner for runner in self.world.runners.values() if runner.phase == "asked"]
        runner = asked[index % len(asked)]
        del self.world.runners[runner.id]
        self.world.reaped.add(runner.id)
        self.node.spawn_failed(runner.id, "EAGAIN", self.world.now, reason)
        self.world.settle()

    @precondition(lambda self: not self.honest)
    @rule(
        index=any_index,
        says=st.sampled_from(["READY", "STARTED", "OUTCOME", "BYE", "garbage"]),
        right_job=st.booleans(),
        job_id=st.integers(0, 9),
        report=reports,
        gone=st.sampled_from([False, False, False, True]),
    )
    def a_runner_lies(self, index: int, says: str, right_job: bool, job_id: int, report: Report, gone: bool) -> None:
        """Any word at any time, of any job, of a runner that lives or is gone."""
        runner_id = 10**9
        if not gone and self.world.runners:
            runner = self.pick(index)
            runner_id, runner.lied = runner.id, True
            job = runner.job or (runner.jobs[0] if runner.jobs else None)
            job_id = job[1] if right_job and job else job_id
        node, now = self.node, self.world.now
        match says:
            case "READY":
                node.runner_ready(runner_id, 2**32 - 1, ("all",), 2**64 - 1, now)
            case "STARTED":
                node.job_started(runner_id, job_id, now)
            case "OUTCOME":
                node.job_reported(runner_id, job_id, report, now)
            case "BYE":
                node.runner_said_bye(runner_id, now)
            case _:
                node.misbehaved(runner_id, "garbage")
        self.world.settle()

    @precondition(lambda self: any(runner.job for runner in self.world.runners.values()) and not self.honest)
    @rule(index=any_index, report=reports, ends=st.booleans())
    def a_runner_lies_about_its_job(self, index: int, report: Report, ends: bool) -> None:
        """It reports what it likes, at the time when a report is due, and may end as an honest one would."""
        running = [runner for runner in self.world.runners.values() if runner.job]
        runner = running[index % len(running)]
        assert runner.job is not None
        _, job_id = runner.job
        runner.lied, runner.job, runner.phase = True, None, "ready"
        self.node.job_reported(runner.id, job_id, report, self.world.now)
        if ends:
            self.node.runner_said_bye(runner.id, self.world.now)
            self._exit(runner, Exit(code=0))
        self.world.settle()

    # -- and in the end ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything is let go on honestly, and then there is nothing left."""
        self.world.gathering = 0
        self.world.settle()
        if self.world.node.draining:
            self.world.crash()
        self.full = False
        self.let_calls_be_answered()
        for _ in range(300):
            self.stop_services()
            if self._quiet():
                break
            self.let_all_go_on()
        self.check_that_nothing_is_left()

    def _quiet(self) -> bool:
        world = self.world
        node = world.node
        return not (
            world.commits or world.results or world.runners or world.asked or self.node.tasks.live or node.ledger
        )

    def let_all_go_on(self) -> None:
        world = self.world
        world.write(100, full=False)
        world.tell(100)
        for task_id in list(world.fetching):
            self._fetch_ends(task_id, world.fetching[task_id].spec.digest or DIGESTS[0])
        for digest in list(world.preparing):
            self._artifact_comes(digest, fails=False)
        self.calls_are_told()
        for runner in list(world.runners.values()):
            if runner.id in world.runners:
                self._go_on(runner, "exit")
        world.pass_time(RETRY_US // 2)


Simulation.TestCase.settings = settings(
    max_examples=RUNS or 250,
    stateful_step_count=150 if RUNS else 60,
    derandomize=not RUNS,
    suppress_health_check=list(HealthCheck),
)
# Ten seconds on a quiet machine; one that is ten times as slow is no failure.
TestSimulation = pytest.mark.timeout(0 if RUNS else 600)(Simulation.TestCase)
