"""The way of a service through the node: module, artifact, slot, first runner; then runners as calls need them, to its
stop. Decides, and leaves the doing to effects.

    admit -> (fetch) -> artifact -> slot, listener, first runner -> ready: running
    running -> stop: unrouted, the listener is shut -> what waits is served -> no runner is left: final

What is seen of calls is `Traffic`'s, how many runners there should be `scaling`'s, which revision is the default
`Functions`'. Every method takes `now` and adds to the node's effects.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from worker.core.changes import SetTrouble, WriteFailed
from worker.core.clock import Now
from worker.core.effects import Effect
from worker.core.events import Ended, ServiceReady, SlotAssigned, StopRequested
from worker.core.functions import Functions
from worker.core.ledger import RETRY_US, Ledger, Settled
from worker.core.live import Live
from worker.core.pool import Pool, Runner, RunnerState
from worker.core.revision import Listening, Revision, View, view
from worker.core.runners import Runners
from worker.core.scaling import Plan, Room, backoff_us, plan, reserve
from worker.core.startfault import could_not_start, start_fault
from worker.core.task import Kind, Reason, State, Task
from worker.core.tasks import Tasks
from worker.core.timers import Timer, Timers
from worker.core.traffic import ALARM_US, KILL_MARGIN_US, SAMPLE, Traffic
from worker.core.verdict import Exit, Report

# Timers: each of one revision, by its task's id, but for `sample`.
KINDS = frozenset({"backoff", "drain", "trouble", "shrink", "retire", "sample"})


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Microseconds. `init_us`: by when a runner is to be ready; `drain_us`: how long a stop serves what is queued."""

    init_us: int = 5_000_000
    drain_us: int = 10_000_000


class Services:
    """All services that are alive, and the functions whose revisions they are."""

    def __init__(
        self,
        settings: ServiceSettings,
        tasks: Tasks,
        pool: Pool,
        runners: Runners,
        ledger: Ledger,
        timers: Timers,
        effects: list[Effect],
    ) -> None:
        self.settings = settings
        self.revisions: dict[str, Revision] = {}
        self.functions = Functions(ledger, timers, effects, self.standing)
        self.traffic = Traffic(self.revisions, pool, runners, timers, effects)
        self._tasks = tasks
        self._pool = pool
        self._runners = runners
        self._ledger = ledger
        self._timers = timers
        self._names: dict[tuple[str, str], str] = {}
        tasks.owners[Kind.SERVICE] = self

    # -- for commands and statistics ---------------------------------------------------------------------------------

    def standing(self, function: str, revision: str) -> bool | None:
        """Whether the revision can be called, as the table has it too; None where it isn't alive."""
        found = self.revisions.get(self._names.get((function, revision), ""))
        return None if found is None else found.routed and not found.stopping

    def task_of(self, function: str, revision: str) -> str | None:
        """The task that keeps the revision alive, or whose end isn't on disk yet."""
        return self._names.get((function, revision))

    def views(self, functions: Container[str] | None = None) -> list[View]:
        """Every live revision, of these functions alone where they are given, oldest first."""
        found = self.revisions.values()
        return [view(one) for one in found if functions is None or one.service.function in functions]

    @property
    def waiting_calls(self) -> int:
        """How many calls were seen to wait last."""
        return sum(revision.queued for revision in self.revisions.values())

    # -- a service comes and goes ------------------------------------------------------------------------------------

    def admit(self, task: Task, now: Now) -> None:
        """The task's row is on disk: start its way."""
        revision = self._enter(task, now)
        revision.prefer = revision.service.default
        self._tasks.wait(revision.live, now)

    def recover(self, task: Task, begun: bool, now: Now) -> None:
        """A service that the table holds as alive at start. What ran is started again; its callers wait meanwhile.

        Args:
            begun: it ran once, whatever its state is: who had the default of it then may have lost it since.
        """
        revision = self._enter(task, now)
        revision.proven = begun or task.status.state is State.RUNNING
        revision.prefer = revision.service.default and not revision.proven
        if task.status.stopping:
            detail = "the worker restarted while it was being stopped"
            self._tasks.step(revision.live, Ended(Reason.STOPPED, detail=detail), now)
            return
        if task.status.state is not State.PENDING:
            self._tasks.go_back(revision.live, now)
        self._tasks.wait(revision.live, now)

    def stop(self, task_id: str, force: bool, now: Now) -> None:
        """Stop a live service in whatever state it is."""
        revision = self.revisions[task_id]
        again = revision.stopping
        self._tasks.step(revision.live, StopRequested(), now)
        if task_id not in self.revisions:
            return
        if force:
            self._cut_off(revision)
        elif not again:
            self.traffic.shut(revision, now)
            self._timers.set(Timer("drain", task_id), now.monotonic_us + self.settings.drain_us)
        if not again:
            self._calm(revision)
            self.functions.withdraw(revision.service.function, revision.service.revision)
        self._end_if_over(revision, now)

    def recorded(self, task: Task, default: bool) -> None:
        """The task's row is on disk as it is here: once it runs it can be called, and may be the default by the same
        row (`default`); once it ended, another may have its name."""
        service = task.spec.service
        if service is None:
            return
        runs = task.status.state is State.RUNNING
        if task.final:
            del self._names[service.function, service.revision]
        elif runs and task.id in self.revisions:
            self.revisions[task.id].routed = True
        if runs or task.final:
            self.functions.came(service.function, service.revision, task.id, default)

    # -- module and artifact (Owner) ---------------------------------------------------------------------------------

    def prepared(self, live: Live, now: Now) -> None:
        """It waits for a slot now, or its runners may be started again."""
        self.revisions[live.task.id].prepared = True
        self._pool.stale = True

    def unprepared(self, live: Live, detail: str, now: Now) -> None:
        """Its artifact can't be made. What ran once had one, and is tried again."""
        revision = self.revisions[live.task.id]
        if revision.state is State.PENDING and not revision.proven:
            self._tasks.step(live, Ended(Reason.COMPILE_FAILED, detail=detail), now)
        else:
            revision.prepared = True
            self._back_off(revision, detail, now)

    def forget(self, live: Live) -> None:
        """It is final: what is left of it goes."""
        revision = self.revisions.pop(live.task.id)
        service = revision.service
        self.traffic.close(revision)
        self._calm(revision)
        self._timers.cancel(Timer("drain", revision.id))
        self._timers.cancel(Timer("trouble", revision.id))
        for runner in revision.runners.values():
            self._runners.kill(runner, "stop")
        self.functions.withdraw(service.function, service.revision)
        self._pool.stale = True

    # -- slots -------------------------------------------------------------------------------------------------------

    def dispatch(self, room: Room, now: Now) -> Plan:
        """Start and retire runners by the plan; what it leaves to the jobs is the caller's to give out.

        Args:
            room: what the jobs want and have; the rest of it is filled in here.
        """
        pool = self._pool
        awake = (revision for revision in self.revisions.values() if not revision.sleeps)
        loads = [revision.load(self._has_artifact(revision)) for revision in awake]
        asleep = len(self.revisions) - sum(load.serving + load.starting > 0 for load in loads)
        room = replace(
            room,
            slots=pool.free,
            memory_bytes=pool.free_memory_bytes,
            reserve=reserve(pool.slots, asleep),
            coming=pool.ending + sum(load.retiring for load in loads),
        )
        made = plan(loads, room)
        for task_id in made.start:
            self._start(self.revisions[task_id], now)
        for task_id in made.retire:
            self.traffic.retire(self.revisions[task_id], 1, now)
        return made

    def _has_artifact(self, revision: Revision) -> bool:
        """An artifact that was evicted is asked for again once a runner may be needed.

        Another task's is of no use to one that still fetches its module.
        """
        if self._tasks.has_artifact(revision.live):
            return revision.prepared
        wanted = revision.load(has_artifact=True)
        wants = wanted.deploying or wanted.queued or wanted.staying < wanted.min
        if revision.prepared and not revision.backing_off and wants:
            self._tasks.needs.prepare(revision.id, revision.live.task.spec.digest or "")
        return False

    def _start(self, revision: Revision, now: Now) -> None:
        task_id = revision.id
        runner = self._pool.start(None, task_id, 0, revision.memory_bytes, Kind.SERVICE)
        assert runner is not None, "the plan counted the slots"
        revision.cold_starts += revision.queued > 0 and not revision.able
        revision.runners[runner.id] = runner
        revision.retrying = revision.may_grow = False
        if revision.state is State.PENDING:
            revision.live.scheduled_at_us = now.monotonic_us
            self._tasks.step(revision.live, SlotAssigned(), now)
        if not revision.stopping:
            self.traffic.open(revision, now)
        due_us = now.monotonic_us + self.settings.init_us
        if revision.state is State.SCHEDULED:  # it tries an instance, with the limits of a call
            due_us += revision.live.task.spec.limits.wall_ms * 1000 + ALARM_US + KILL_MARGIN_US
        self._runners.serve(runner, revision.live.task, due_us)

    # -- what runners do ---------------------------------------------------------------------------------------------

    def spawn_failed(self, runner: Runner, detail: str, now: Now) -> None:
        """There is no process; its slot is free already."""
        revision = self._leave(runner)
        if revision is not None:
            self._judge(revision, Ended(Reason.INIT_FAILED, detail=detail), now)

    def runner_ready(self, runner: Runner, now: Now) -> None:
        revision = self.revisions[runner.task_id or ""]  # all of one that is gone were killed
        self._runners.serving(runner, now)
        if revision.state is State.SCHEDULED:
            self._tasks.step(revision.live, ServiceReady(), now)
            revision.proven = True
            if revision.prefer:
                revision.prefer, revision.live.default = False, True
                self.functions.expect(revision.service.function, revision.id)
        self._timers.cancel(Timer("backoff", revision.id))
        revision.backing_off = False
        self._say_trouble(revision, None)
        revision.active_us = now.monotonic_us
        self.traffic.rest(revision)
        self._pool.stale = True

    def reported(self, runner: Runner, job_id: int, report: Report, now: Now) -> None:
        """Before it is ready, a runner may say once why it never will be."""
        if runner.state is not RunnerState.STARTING or job_id or not could_not_start(report):
            self._runners.misbehaved(runner, f"OUTCOME {report.reason} for job {job_id} of a runner that serves calls")
            return
        runner.report = report
        self._runners.leave(runner, now)

    def said_bye(self, runner: Runner, now: Now) -> None:
        """It takes no more calls: it was told to end, has done its share, or its listener is shut."""
        if runner.state is RunnerState.STARTING:
            self._runners.misbehaved(runner, "BYE before READY")
        runner.bye = True
        if runner.state is RunnerState.SERVING:
            self._runners.leave(runner, now)
            revision = self.revisions[runner.task_id or ""]
            revision.busy.pop(runner.id, None)
            runner.asked = self.traffic.retired(revision, runner)

    def exited(self, runner: Runner, exit_: Exit, calls: int, now: Now) -> None:
        """The runner's process was reaped; its slot is free already. `calls`: how many it had answered."""
        revision = self._leave(runner)
        if revision is None:
            return
        asked = runner.asked or revision.stopping
        self._judge(revision, start_fault(runner, exit_, calls, asked, now), now)

    def broken(self, task_id: str, pid: int, detail: str) -> None:
        """A runner answered what is no answer: it dies. Without a pid it may be any of them, and all do."""
        revision = self.revisions.get(task_id)
        if revision is None:
            return
        revision.broken += 1
        for runner in list(revision.runners.values()):
            if runner.pid == pid if pid else runner.state is RunnerState.SERVING:
                self._runners.misbehaved(runner, detail)

    def sampled(self, task_id: str, queued: int, busy: Mapping[int, int], calls: int, now: Now) -> None:
        """The answer to SampleCalls.

        Args:
            queued: how many connections wait on the listener.
            busy: by the id of each runner whose record says that it is at a call, the deadline that it tells
                (CLOCK_MONOTONIC, microseconds). Untrusted.
            calls: how many calls its runners' records say they have answered, all together. Untrusted.
        """
        if (revision := self.revisions.get(task_id)) is not None:
            self.traffic.sampled(revision, queued, busy, calls, now)
            self._end_if_over(revision, now)

    # -- time and disk -----------------------------------------------------------------------------------------------

    def timer_due(self, timer: Timer, now: Now) -> None:
        if timer == SAMPLE:
            self.traffic.take_samples(now)
            return
        revision = self.revisions[str(timer.subject)]
        match timer.kind:
            case "shrink":
                self.traffic.shrink(revision, now)
            case "retire":
                self.traffic.none_retired(revision)
            case "trouble":
                self._ledger.write(SetTrouble(revision.id, revision.trouble))
            case "drain":
                self._cut_off(revision)
                self._end_if_over(revision, now)
            case _:
                assert timer.kind == "backoff", f"a timer of nobody: {timer}"
                revision.backing_off, revision.retrying = False, not revision.able and not revision.stopping
                self._pool.stale = True

    def trouble_settled(self, settled: Settled, change: SetTrouble, now: Now) -> None:
        """The disk's answer. What it refused is written again, as it stands then."""
        if isinstance(settled.result, WriteFailed) and change.task_id in self.revisions:
            self._timers.set(Timer("trouble", change.task_id), now.monotonic_us + RETRY_US)

    # -- within ------------------------------------------------------------------------------------------------------

    def _enter(self, task: Task, now: Now) -> Revision:
        service = task.spec.service
        assert service is not None
        live = self._tasks.enter(task, now)
        revision = Revision(live, service, self._pool.share(task), queued_since_us=now.monotonic_us)
        self.revisions[task.id] = revision
        self._names[service.function, service.revision] = task.id
        self.functions.deployed(service.function)
        return revision

    def _leave(self, runner: Runner) -> Revision | None:
        """Its process is gone. None where its service is too."""
        revision = self.revisions.get(runner.task_id or "")
        if revision is not None:
            del revision.runners[runner.id]
            self.traffic.gone(revision, runner.id)
        return revision

    def _judge(self, revision: Revision, fault: Ended | None, now: Now) -> None:
        """One of its runners is gone, and could not even start (`fault`), or has done well."""
        if fault is None:
            revision.failures = 0
        elif revision.stopping:
            if not revision.able:
                self._cut_off(revision)
        elif not revision.proven or (revision.state is State.SCHEDULED and fault.reason is Reason.LINK_FAILED):
            self._tasks.step(revision.live, fault, now)
            return
        else:
            self._back_off(revision, fault.detail or fault.reason, now)
        self._pool.stale = True
        self._end_if_over(revision, now)

    def _back_off(self, revision: Revision, detail: str, now: Now) -> None:
        """No runner is started for a while; calls that wait are told at once, where there is none at all."""
        revision.failures += 1
        revision.backing_off = True
        self._timers.set(Timer("backoff", revision.id), now.monotonic_us + backoff_us(revision.failures))
        self._say_trouble(revision, detail)
        if not revision.able:
            self.traffic.close(revision)

    def _say_trouble(self, revision: Revision, detail: str | None) -> None:
        if revision.trouble != detail:
            revision.trouble = detail
            self._ledger.write(SetTrouble(revision.id, detail))

    def _cut_off(self, revision: Revision) -> None:
        """What waits is told that it was not executed, what runs is killed."""
        self.traffic.close(revision)
        for runner in revision.runners.values():
            self._runners.kill(runner, "stop")

    def _end_if_over(self, revision: Revision, now: Now) -> None:
        served = revision.listening is Listening.CLOSED or not revision.queued
        if revision.stopping and served and not revision.runners:
            self._tasks.step(revision.live, Ended(Reason.STOPPED), now)

    def _calm(self, revision: Revision) -> None:
        """It needs no more runners than it has."""
        self._timers.cancel(Timer("backoff", revision.id))
        revision.backing_off = revision.retrying = False
