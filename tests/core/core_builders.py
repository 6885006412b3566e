"""Tasks, nodes and the few steps that most tests of the core begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from worker.core.changes import Applied, Result, UpdateTask
from worker.core.clock import Now
from worker.core.commands import AddTask, Command, Reply
from worker.core.effects import Answer, Commit, Effect, GiveJob, StartRunner
from worker.core.events import (
    Ended,
    ModuleFetched,
    Recovered,
    RunnerStarted,
    ServiceReady,
    SlotAssigned,
    StopRequested,
    TaskEvent,
)
from worker.core.jobs import JobSettings
from worker.core.module import Module
from worker.core.node import Node, NodeSettings
from worker.core.task import Isolation, Kind, Limits, Reason, RunnerInfo, State, Status, Task, TaskSpec
from worker.core.verdict import Exit, Report

DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
URL = "https://modules.example/add.wasm"
RUNNER = RunnerInfo(4711, 60_001, ("seccomp", "landlock"))
CREATED_US = 1_700_000_000_000_000
START = Now(CREATED_US + 1_000, 50_000_000)

SECOND_US = 1_000_000
COMPLETED = (State.COMPLETED, Reason.EXIT)
CRASHED = (State.FAILED, Reason.CRASHED)
CLEAN = Exit(code=0, cpu_us=700, peak_rss_bytes=9_000_000)
KILLED = Exit(signal="SIGKILL", cpu_us=800, peak_rss_bytes=9_000_000)

# One event of each type, for what doesn't depend on its fields.
ANY_EVENT: dict[type[TaskEvent], TaskEvent] = {
    ModuleFetched: ModuleFetched(DIGEST),
    SlotAssigned: SlotAssigned(),
    RunnerStarted: RunnerStarted(RUNNER),
    ServiceReady: ServiceReady(),
    StopRequested: StopRequested(),
    Ended: Ended(Reason.STOPPED),
    Recovered: Recovered(),
}


def make_spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**{"kind": Kind.JOB, "name": "job", "digest": DIGEST, **fields})


def warm_spec(**fields: Any) -> TaskSpec:
    return make_spec(isolation=Isolation.INSTANCE, **fields)


def make_task(task_id: str = "t1", status: Status | None = None, **spec: Any) -> Task:
    return Task(task_id, "token", make_spec(**spec), CREATED_US, status or Status())


def task_in(state: State, task_id: str = "t1", **spec: Any) -> Task:
    """A task as it would stand in `state`."""
    marks: dict[str, Any] = {}
    if state in (State.SCHEDULED, State.RUNNING):
        marks["scheduled_at_us"] = CREATED_US + 10
    if state is State.RUNNING:
        marks |= {"started_at_us": CREATED_US + 20, "runner": RUNNER}
    return make_task(task_id, Status(state=state, **marks), **spec)


def make_module(digest: str = DIGEST) -> Module:
    return Module(digest, 100, (), (), CREATED_US)


def exited_ok(**fields: Any) -> Report:
    return Report(**{"reason": "exit", "exit_code": 0, "fuel_used": 12, "run_us": 34, "cpu_us": 56, **fields})


class Driver:
    """A node with a clock of its own that commits at once, unless told to hold what it is asked to commit."""

    def __init__(self, slots: int = 2, modules: tuple[str, ...] = (DIGEST, OTHER_DIGEST), **settings: Any) -> None:
        jobs = {name: settings.pop(name) for name in list(settings) if name in JobSettings.__slots__}
        self.node = Node(NodeSettings(JobSettings(slots=slots, **jobs), **settings))
        self.now = START
        self.effects: list[Effect] = []  # all but the commits, since the last `take`
        self.held: list[Commit] = []
        self.holding = False
        self.rows: dict[str, Task] = {}
        self.node.restore([], list(modules), self.now)

    def pass_time(self, us: int) -> None:
        self.now = Now(self.now.wall_us + us, self.now.monotonic_us + us)
        self.node.tick(self.now)
        self.settle()

    def settle(self) -> None:
        """Carry out the commits, until nothing more comes of them."""
        while effects := self.node.take_effects(self.now):
            for effect in effects:
                if not isinstance(effect, Commit):
                    self.keep(effect)
                elif self.holding:
                    self.held.append(effect)
                else:
                    self.commit(effect)

    def keep(self, effect: Effect) -> None:
        self.effects.append(effect)

    def commit(self, commit: Commit, result: Result | None = None) -> None:
        if isinstance(commit.change, UpdateTask):
            self.rows[commit.change.task.id] = commit.change.task
        self.node.committed(commit.ticket, result or Applied(), self.now)

    def release(self, result: Result | None = None) -> None:
        """Answer the commits that were held, and hold no more."""
        self.holding = False
        held, self.held = self.held, []
        for commit in held:
            self.commit(commit, result)
        self.settle()

    def take(self) -> list[Effect]:
        """The effects since the last call, without commits and those to come of them."""
        self.settle()
        taken, self.effects = self.effects, []
        return taken

    def command(self, command: Command, origin: object = "client") -> list[Effect]:
        self.node.command(origin, command, self.now)
        return self.take()

    def ask(self, command: Command, origin: object = "client") -> list[Reply]:
        """The answers that came by the command, to whomever."""
        return [effect.reply for effect in self.command(command, origin) if isinstance(effect, Answer)]

    def add(self, task_id: str = "t1", spec: TaskSpec | None = None, **fields: Any) -> list[Effect]:
        return self.command(AddTask(task_id, "token", spec or make_spec(), **fields))

    def artifact_ready(self, digest: str = DIGEST) -> list[Effect]:
        self.node.artifact_ready(digest, self.now)
        return self.take()

    def schedule(self, task_id: str = "t1", spec: TaskSpec | None = None) -> int:
        """Add a task whose artifact is at hand; the id of the runner that it has been given."""
        self.node.artifact_ready(DIGEST, self.now)
        self.add(task_id, spec)
        runner_id = self.node.tasks.live[task_id].runner_id
        assert runner_id is not None
        return runner_id

    def run(self, task_id: str = "t1", spec: TaskSpec | None = None) -> int:
        """Add a task and let it begin to run; its runner's id."""
        runner_id = self.schedule(task_id, spec)
        self.begin(runner_id)
        return runner_id

    def begin(self, runner_id: int) -> None:
        runner = self.node.pool.runners[runner_id]
        if runner.pid == 0:
            self.node.spawned(runner_id, 4711)
            self.node.runner_ready(runner_id, 60_001, ("seccomp",), 250, self.now)
        self.node.job_started(runner_id, runner.job_id, self.now)
        self.take()

    def report(self, runner_id: int, report: Report | None = None) -> list[Effect]:
        job_id = self.node.pool.runners[runner_id].job_id
        self.node.job_reported(runner_id, job_id, report or exited_ok(), self.now)
        return self.take()

    def exit(self, runner_id: int, exit_: Exit = CLEAN, bye: bool = True) -> list[Effect]:
        if bye:
            self.node.runner_said_bye(runner_id, self.now)
        self.node.exited(runner_id, exit_, self.now)
        return self.take()

    def status(self, task_id: str = "t1") -> Status:
        """How the task stands on disk."""
        return self.rows[task_id].status

    def ended(self, task_id: str = "t1") -> tuple[State, Reason | None]:
        status = self.status(task_id)
        return status.state, status.reason

    @property
    def timers(self) -> set[str]:
        return {timer.kind for timer in self.node.timers}


def with_limits(spec: TaskSpec, **limits: int) -> TaskSpec:
    return replace(spec, limits=Limits(**limits))


def of(kind: type[Effect], effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def starts(effects: list[Effect]) -> list[str]:
    """The ids of the tasks that get a runner, made or warm."""
    return [effect.task.id for effect in effects if isinstance(effect, StartRunner | GiveJob)]


def says_started(job_id: int) -> Callable[[Driver], None]:
    return lambda driver: driver.node.job_started(1, job_id, driver.now)


def says_outcome(job_id: int, report: Report | None = None) -> Callable[[Driver], None]:
    return lambda driver: driver.node.job_reported(1, job_id, report or exited_ok(), driver.now)


def says_bye(driver: Driver) -> None:
    driver.node.runner_said_bye(1, driver.now)


def answers(effects: list[Effect]) -> list[Effect]:
    return of(Answer, effects)


def held_changes(driver: Driver) -> list[object]:
    return [commit.change for commit in driver.held]


def add(task_id: str = "t1", **fields: Any) -> AddTask:
    return AddTask(**{"task_id": task_id, "token": "token", "spec": make_spec(), **fields})
