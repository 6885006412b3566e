"""The node: commands in, effects out. The coordinator calls one method for each thing that happened.

Nothing here touches the world. After a round of calls, `take_effects` gives what is to be done, in order; among it the
commits of all tasks that changed, one for each task however often it changed in the round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from worker.core.admission import Admission
from worker.core.changes import (
    DropModule,
    ExpireTasks,
    InsertModule,
    InsertTask,
    Result,
    SetDefault,
    SetTrouble,
    UpdateTask,
)
from worker.core.clock import Now
from worker.core.commands import (
    AddModule,
    AddTask,
    Command,
    DeleteModule,
    Done,
    ReadAudit,
    ReadFunctions,
    ReadMetrics,
    ReadStats,
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
    CountCalls,
    Effect,
    Origin,
)
from worker.core.events import ModuleFetched
from worker.core.functions import FunctionRow
from worker.core.jobs import Jobs, JobSettings
from worker.core.ledger import LAZY, RETRY, Ledger
from worker.core.module import Module
from worker.core.modules import Modules
from worker.core.pool import Pool, RunnerState
from worker.core.retention import RETENTION, Retention, RetentionSettings
from worker.core.runners import Runners
from worker.core.services import KINDS as SERVICE_KINDS
from worker.core.services import Services, ServiceSettings
from worker.core.task import Kind, Reason, State, Task
from worker.core.tasks import Tasks
from worker.core.timers import Timers
from worker.core.verdict import Exit, Report
from worker.core.watches import Watches


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`max_queued`: tasks that wait, all together; `max_open_per_token`: tasks that one token has alive;
    `lazy_commit_us`: see `Ledger`; `runners_memory_bytes`: what all runners may have together, each its guest's limit
    and `runner_overhead_bytes`; `retention` None: nothing is ever removed by itself."""

    jobs: JobSettings
    services: ServiceSettings = field(default_factory=ServiceSettings)
    max_queued: int = 10_000
    max_open_per_token: int = 10_000
    lazy_commit_us: int = 0
    runners_memory_bytes: int = 2**62
    runner_overhead_bytes: int = 8 * 1024 * 1024
    retention: RetentionSettings | None = None


class Node:
    """Everything that the coordinator knows. Rebuilt from the table at each start."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.timers = Timers()
        self.effects: list[Effect] = []
        self.ledger = Ledger(self.timers, self.effects, settings.lazy_commit_us)
        self.pool = Pool(settings.jobs.slots, settings.runners_memory_bytes, settings.runner_overhead_bytes)
        self.modules: set[str] = set()
        self.tasks = Tasks(self.pool, self.effects, self.modules)
        self.runners = Runners(self.pool, self.timers, self.effects)
        self.jobs = Jobs(settings.jobs, self.tasks, self.pool, self.runners, self.timers)
        self.services = Services(
            settings.services, self.tasks, self.pool, self.runners, self.ledger, self.timers, self.effects
        )
        self.functions = self.services.functions
        self.traffic = self.services.traffic
        self._modules = Modules(self.modules, self.tasks, self.ledger, self.effects)
        self.watches = Watches(self.timers)
        self.admission = Admission(
            settings.max_queued,
            settings.max_open_per_token,
            tasks=self.tasks,
            jobs=self.jobs,
            services=self.services,
            pool=self.pool,
            modules=self.modules,
            ledger=self.ledger,
            watches=self.watches,
            effects=self.effects,
        )
        self.retention = Retention(
            settings.retention, self.timers, self.ledger, self._modules, self.effects, self.admission.used_modules
        )

    # -- from the table, at start ------------------------------------------------------------------------------------

    def restore(
        self,
        tasks: list[Task],
        modules: list[str],
        now: Now,
        begun: frozenset[str] = frozenset(),
        functions: Sequence[FunctionRow] = (),
    ) -> None:
        """Take up what the table holds: tasks that aren't final, oldest first, the digests of all modules, functions.

        `begun` are the tasks for which something shows that a runner was made (of a service: that it ran), whatever
        their row says.
        """
        self.modules.update(modules)
        for task in tasks:
            self.admission.restore(task, task.id in begun, now)
        self.functions.restore(functions)
        self.retention.wake(now)

    # -- commands ----------------------------------------------------------------------------------------------------

    def command(self, origin: Origin, command: Command, now: Now) -> None:
        """One command of an API worker. One that outlived its expiry is dropped: its client was told `maybe`."""
        if command.expires_at_us and command.expires_at_us <= now.monotonic_us:
            return
        match command:
            case AddTask():
                self.admission.add(origin, command, now)
            case StopTask() | WatchTask():
                self.admission.order(origin, command, now)
            case AddModule():
                self._modules.add(origin, command)
            case DeleteModule(digest):
                self._modules.delete(origin, digest, self.admission.uses(digest))
            case ReadStats():
                self.effects.append(AnswerStats(origin))
            case ReadAudit():
                self.effects.append(AnswerAudit(origin))
            case _:
                self._functions_command(origin, command)

    def _functions_command(
        self, origin: Origin, command: SwitchDefault | ReadFunctions | ReadMetrics | ReportCalls | ReportBroken
    ) -> None:
        match command:
            case SwitchDefault():
                self.functions.switch(origin, command)
            case ReadFunctions(functions):
                self.effects.append(AnswerFunctions(origin, functions))
            case ReadMetrics(part):
                self.effects.append(AnswerMetrics(origin, part))
            case ReportCalls(figures):
                self.effects.extend((CountCalls(figures), Answer(origin, Done())))
            case ReportBroken(task_id, pid, detail):
                self.services.broken(task_id, pid, detail)
                self.effects.append(Answer(origin, Done()))
            case _:
                assert_never(command)

    def forget(self, gone: Callable[[Origin], bool]) -> None:
        """Whoever asked is gone: no watch is kept for them. What they ordered goes on."""
        self.admission.forget(gone)

    def committed(self, ticket: int, result: Result, now: Now) -> None:
        """The commit thread's answer to one Commit."""
        settled = self.ledger.settle(ticket, result, now)
        if settled is None:
            return
        match settled.change:
            case InsertTask():
                self.admission.inserted(settled, settled.change, now)
            case InsertModule():
                self._modules.inserted(settled, settled.change, now)
            case DropModule():
                self._modules.dropped(settled, settled.change)
            case UpdateTask():
                self.effects.extend(Answer(origin, reply) for origin, reply in settled.answers)
                self.admission.on_disk(settled.change.task, settled.change.default)
                if settled.change.task.final:
                    self.retention.wake(now)
            case SetDefault():
                self.functions.settled(settled, settled.change, now)
            case SetTrouble():
                self.services.trouble_settled(settled, settled.change, now)
            case ExpireTasks():
                self.retention.settled(settled, now)
            case _:
                assert_never(settled.change)

    # -- what runners do ---------------------------------------------------------------------------------------------

    def spawned(self, runner_id: int, pid: int) -> None:
        if (runner := self.pool.runners.get(runner_id)) is not None:
            runner.pid = pid

    def spawn_failed(self, runner_id: int, detail: str, now: Now, reason: Reason = Reason.INIT_FAILED) -> None:
        """There is no process, so the slot is free at once. `reason` LOST: there was one, and it had begun the job."""
        runner = self.runners.gone(runner_id)
        if runner.kind is Kind.JOB:
            self.jobs.spawn_failed(runner, detail, now, reason)
        else:
            self.services.spawn_failed(runner, detail, now)

    def runner_ready(self, runner_id: int, uid: int, layers: tuple[str, ...], load_us: int, now: Now) -> None:
        """READY: it is sealed and has its artifact. `load_us` is how long that took it."""
        runner = self.pool.runners.get(runner_id)
        if runner is None or runner.state is not RunnerState.STARTING:
            return
        runner.uid, runner.layers, runner.load_us = uid, layers, load_us
        if runner.kind is Kind.JOB:
            self.jobs.runner_ready(runner)
        else:
            self.services.runner_ready(runner, now)

    def job_started(self, runner_id: int, job_id: int, now: Now) -> None:
        """STARTED: it has read the job and runs it."""
        runner = self.pool.runners.get(runner_id)
        if runner is not None and runner.kind is Kind.JOB:
            self.jobs.job_started(runner, job_id, now)
        else:
            self.misbehaved(runner_id, f"STARTED for job {job_id} of a runner that serves calls")

    def job_reported(self, runner_id: int, job_id: int, report: Report, now: Now) -> None:
        """OUTCOME: how the job went; of a service's runner, for job 0 and before READY, why it can't be ready."""
        runner = self.pool.runners.get(runner_id)
        if runner is None:
            return
        if runner.kind is Kind.JOB:
            self.jobs.job_reported(runner, job_id, report, now)
        else:
            self.services.reported(runner, job_id, report, now)

    def runner_said_bye(self, runner_id: int, now: Now) -> None:
        """BYE: it will end in order."""
        runner = self.pool.runners.get(runner_id)
        if runner is None:
            return
        if runner.kind is Kind.JOB:
            self.jobs.said_bye(runner)
        else:
            self.services.said_bye(runner, now)

    def not_given(self, runner_id: int) -> None:
        """A warm runner can't be told its next job: it is dead, or its files can't be opened."""
        if (runner := self.pool.runners.get(runner_id)) is not None:
            self.runners.kill(runner, "handover")

    def misbehaved(self, runner_id: int, detail: str) -> None:
        """The runner broke its protocol: it dies, and its job ends `crashed`."""
        if (runner := self.pool.runners.get(runner_id)) is not None:
            self.runners.misbehaved(runner, detail)

    def exited(self, runner_id: int, exit_: Exit, now: Now, calls: int = 0) -> None:
        """The runner's process was reaped and all that it had said was told. `calls`: what its record says it did."""
        runner = self.runners.gone(runner_id)
        if runner.kind is Kind.JOB:
            self.jobs.exited(runner, exit_, now)
        else:
            self.services.exited(runner, exit_, calls, now)

    # -- modules and artifacts ---------------------------------------------------------------------------------------

    def module_fetched(self, module: Module, blob_name: str, task: Task, event: ModuleFetched | None) -> None:
        """A task's module came by its URL: it goes into the table, and then the task goes on, if it can (`event`)."""
        self._modules.came(module, blob_name, task, event)

    def module_blobs(self) -> set[str]:
        """Temporary blobs of modules that wait for a turn to be written."""
        return self._modules.blobs()

    def refused(self, task_id: str, reason: Reason, detail: str, now: Now) -> None:
        """What the task needs can't be had: it ends before it ran."""
        self.jobs.refused(task_id, reason, detail, now)

    def artifact_ready(self, digest: str, now: Now) -> None:
        self.tasks.artifact_ready(digest, now)

    def artifact_failed(self, digest: str, detail: str, now: Now) -> None:
        self.tasks.artifact_failed(digest, detail, now)

    def artifact_evicted(self, digest: str) -> None:
        self.tasks.needs.artifacts.discard(digest)

    # -- time and effects --------------------------------------------------------------------------------------------

    def tick(self, now: Now) -> None:
        """Handle every timer whose time has come; a slot that is free goes out before a wait for it is over."""
        if self.pool.stale:
            self._give_out_slots(now)
        for timer in self.timers.pop_due(now.monotonic_us):
            if timer.kind == "watch":
                task_id, origin = self.watches.end(timer)
                self.effects.append(Answer(origin, Done(created=False, task_id=task_id)))
            elif timer.kind == "default":
                self.functions.turn(str(timer.subject))
            elif timer == RETENTION:
                self.retention.due(now)
            elif timer.kind in SERVICE_KINDS:
                self.services.timer_due(timer, now)
            elif timer not in (RETRY, LAZY):  # for these it is enough to be awake: `take_effects` flushes the ledger
                self.jobs.timer_due(timer, now)

    def take_effects(self, now: Now) -> list[Effect]:
        """What is to be done now, in order; slots are given out, and each task that changed is committed once."""
        if self.pool.stale:
            self._give_out_slots(now)
        self.admission.record()
        self.ledger.flush(now)
        effects = self.effects[:]
        self.effects.clear()
        return effects

    def drain(self, now: Now) -> None:
        """No new tasks; jobs that run go on, those that wait stay in the table; services serve to the very end."""
        self.admission.draining = True
        self.jobs.drain(now)
        self.retention.stop()

    def stop_running(self, now: Now) -> None:
        """The drain's time is up: the jobs that have a runner are stopped, with their grace."""
        for live in list(self.tasks.live.values()):
            if live.task.spec.service is None and live.task.status.state is not State.PENDING:
                self.jobs.stop(live.task.id, False, now)

    @property
    def draining(self) -> bool:
        return self.admission.draining

    @property
    def idle(self) -> bool:
        """No job runs and nothing waits for the disk. What serves calls may be killed at any time."""
        return not self.ledger and not any(runner.kind is Kind.JOB for runner in self.pool.runners.values())

    def _give_out_slots(self, now: Now) -> None:
        self.pool.stale = False
        self.jobs.dispatch(0, now)  # what a warm runner takes needs no slot
        plan = self.services.dispatch(self.jobs.room(), now)
        self.jobs.give_up(plan.close_idle_jobs, now)
        self.jobs.dispatch(plan.jobs, now)
