"""The way of a job through the node: module, artifact, slot, runner, end. Decides, and leaves the doing to effects.

    admit -> (fetch) -> artifact -> queue -> slot -> runner started -> reported -> runner exited -> final

Every method takes `now` and adds to the node's effects; the tasks that changed are fetched by `take_changed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.core import lifecycle
from worker.core.changes import Note
from worker.core.clock import Now
from worker.core.effects import Effect
from worker.core.events import Ended, ModuleFetched, Recovered, RunnerStarted, SlotAssigned, StopRequested, TaskEvent
from worker.core.needs import Needs
from worker.core.pool import Pool, Runner, RunnerState, instance_key
from worker.core.queue import ReadyQueue
from worker.core.runners import Runners
from worker.core.task import Reason, RunnerInfo, State, Task
from worker.core.timers import Timer, Timers
from worker.core.verdict import Context, Exit, Report, contradiction, from_exit, from_report

# The runner's own alarm comes 200 ms after the deadline (DESIGN 6); ours follows where that didn't help.
KILL_MARGIN_US = 400_000


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Durations in microseconds unless named otherwise; `max_jobs_per_runner` recycles a warm runner."""

    slots: int
    init_us: int = 5_000_000
    stop_grace_us: int = 1_000_000
    idle_us: int = 10_000_000
    max_jobs_per_runner: int = 1_000


@dataclass(slots=True)
class Live:
    """A task that isn't final yet, with what the record doesn't keep. Points in time are monotonic microseconds."""

    task: Task
    order: int
    queued_at_us: int
    runner_id: int | None = None
    scheduled_at_us: int = 0
    started_at_us: int | None = None
    report: Report | None = None
    bye: bool = False
    notes: list[Note] = field(default_factory=list)
    spec_changed: bool = False


class Jobs:
    """All tasks that are alive. `modules` are the digests that need no fetch, the node's own set."""

    def __init__(self, settings: JobSettings, timers: Timers, effects: list[Effect], modules: set[str]) -> None:
        self.settings = settings
        self.pool = Pool(settings.slots)
        self.runners = Runners(self.pool, timers, effects)
        self.queue = ReadyQueue()
        self.live: dict[str, Live] = {}
        self._changed: dict[str, Live] = {}
        self.needs = Needs(effects, modules)
        self.dispatching = True
        self._timers = timers
        self._pending = 0
        self._next_order = 0
        self._next_job_id = 1

    # -- a task comes and goes ---------------------------------------------------------------------------------------

    def admit(self, task: Task, now: Now) -> None:
        """The task's row is on disk: start its way."""
        self._wait(self._enter(task, now), now)

    def recover(self, task: Task, begun: bool, now: Now) -> None:
        """A task that the table holds as alive at start: what ran is lost or goes back, what waited goes on.

        `begun`: a runner was made for it, though the row that says so did not reach the disk.
        """
        if task.status.state is State.PENDING and not begun:
            self.admit(task, now)
            return
        live = self._enter(task, now)
        if task.status.state is State.PENDING:
            self._step(live, SlotAssigned(), now)
        if task.status.stopping:
            self._step(live, Ended(Reason.STOPPED, detail="the worker restarted while it was being stopped"), now)
        else:
            self._lose(live, "the worker restarted while it ran", now)

    def stop(self, task_id: str, force: bool, now: Now) -> None:
        """Stop a live task in whatever state it is; one that isn't live is final already."""
        live = self.live.get(task_id)
        if live is None:
            return
        before = live.task.status
        runner = self.pool.runners.get(live.runner_id or 0)
        self._step(live, StopRequested(), now)
        if runner is None:
            return
        if live.report is not None:  # its job is over and only its process isn't: what it reported stands
            if force:
                self.runners.kill(runner, "linger")
        elif force or before.state is not State.RUNNING:
            self.runners.kill(runner, "stop")
        elif not before.stopping and runner.state is not RunnerState.ENDING:
            self.runners.interrupt(runner, now.monotonic_us + self.settings.stop_grace_us)

    # -- module and artifact -----------------------------------------------------------------------------------------

    def fetched(self, task_id: str, event: ModuleFetched, now: Now) -> None:
        """The task's module came by its URL, and is in the table."""
        if not self.needs.fetched(task_id):
            return
        live = self.live[task_id]
        expected = live.task.spec.digest
        if expected is not None and expected != event.digest:
            detail = f"the URL gave {event.digest}, and the task names {expected}"
            self._step(live, Ended(Reason.FETCH_FAILED, detail=detail), now)
            return
        live.spec_changed = True
        self._step(live, event, now)
        self._want_artifact(live, now)

    def refused(self, task_id: str, reason: Reason, detail: str, now: Now) -> None:
        """What the task needs can't be had: it ends before it ran."""
        self.needs.fetched(task_id)
        if (live := self.live.get(task_id)) is not None:
            self._step(live, Ended(reason, detail=detail), now)
            if (runner := self.pool.runners.get(live.runner_id or 0)) is not None:
                self.runners.kill(runner, "stop")

    def artifact_ready(self, digest: str, now: Now) -> None:
        self.needs.artifacts.add(digest)
        for task_id in self.needs.prepared(digest):
            live = self.live[task_id]
            self.queue.push(task_id, live.task.spec.priority, live.order)
        self.dispatch(now)

    def artifact_failed(self, digest: str, detail: str, now: Now) -> None:
        for task_id in sorted(self.needs.prepared(digest)):
            self._step(self.live[task_id], Ended(Reason.COMPILE_FAILED, detail=detail), now)

    def artifact_evicted(self, digest: str) -> None:
        self.needs.artifacts.discard(digest)

    @property
    def waiting(self) -> int:
        """How many tasks wait for a module, an artifact or a slot."""
        return self._pending

    def take_changed(self) -> list[Live]:
        """The tasks that changed since the last call; their notes are the caller's to take."""
        changed = list(self._changed.values())
        self._changed.clear()
        return changed

    def uses(self, digest: str) -> bool:
        """Whether a live task needs the module."""
        return any(live.task.spec.digest == digest for live in self.live.values())

    # -- slots -------------------------------------------------------------------------------------------------------

    def dispatch(self, now: Now) -> None:
        """Give every task whose turn it is a runner, while there are slots."""
        while self.dispatching and (task_id := self.queue.peek()) is not None:
            live = self.live[task_id]
            digest = live.task.spec.digest or ""
            if digest not in self.needs.artifacts:  # evicted while it waited
                self.queue.remove(task_id)
                self._want_artifact(live, now)
                continue
            if not self._place(live, now):
                return
            self.queue.remove(task_id)

    def _place(self, live: Live, now: Now) -> bool:
        key = instance_key(live.task)
        job_id = self._next_job_id
        runner = self.pool.take_idle(key, live.task.id, job_id) if key is not None else None
        warm = runner is not None
        if runner is None:
            runner = self.pool.start(key, live.task.id, job_id)
        if runner is None:
            idle = self.pool.longest_idle()
            if idle is not None and not self.pool.ending:
                self.runners.close(idle, now)
            return False
        self._next_job_id += 1
        live.runner_id, live.scheduled_at_us = runner.id, now.monotonic_us
        self._timers.cancel(Timer("queue", live.task.id))
        self._step(live, SlotAssigned(), now)
        hand_over = self.runners.give if warm else self.runners.start
        hand_over(runner, live.task, now.monotonic_us + self.settings.init_us)
        return True

    # -- what runners do ---------------------------------------------------------------------------------------------

    def spawned(self, runner_id: int, pid: int) -> None:
        if (runner := self.pool.runners.get(runner_id)) is not None:
            runner.pid = pid

    def spawn_failed(self, runner_id: int, detail: str, now: Now, reason: Reason = Reason.INIT_FAILED) -> None:
        """There is no process, so the slot is free at once. `reason` LOST: there was one, and it had begun the job."""
        runner = self.runners.gone(runner_id)
        live = self._job_of(runner)
        if live is not None and reason is Reason.LOST:
            self._lose(live, detail, now)
        elif live is not None:
            self._step(live, Ended(reason, detail=detail), now)
        self.dispatch(now)

    def runner_ready(self, runner_id: int, uid: int, layers: tuple[str, ...], load_us: int) -> None:
        runner = self.pool.runners.get(runner_id)
        if runner is not None and runner.state is RunnerState.STARTING:
            runner.uid, runner.layers, runner.load_us = uid, layers, load_us
            runner.state = RunnerState.BUSY

    def job_started(self, runner_id: int, job_id: int, now: Now) -> None:
        runner = self.pool.runners.get(runner_id)
        if runner is None or runner.killed_because is not None:
            return  # what a killed runner still said changes nothing
        live = self._job_of(runner)
        in_turn = runner.state is RunnerState.BUSY and job_id == runner.job_id
        if live is None or not in_turn or live.report is not None or live.task.status.state is not State.SCHEDULED:
            self.misbehaved(runner_id, f"STARTED for job {job_id} out of turn; it was given {runner.job_id}")
            return
        live.started_at_us = now.monotonic_us
        self._step(live, RunnerStarted(RunnerInfo(runner.pid, runner.uid, runner.layers)), now)
        self.runners.started(runner, now.monotonic_us + live.task.spec.limits.wall_ms * 1000 + KILL_MARGIN_US)

    def job_reported(self, runner_id: int, job_id: int, report: Report, now: Now) -> None:
        """OUTCOME. A runner of one job is judged when it is gone; a warm one at once, since it goes on."""
        runner = self.pool.runners.get(runner_id)
        if runner is None:
            return
        live = self._job_of(runner)
        given = 0 if runner.state is RunnerState.STARTING else runner.job_id
        if live is None or job_id != given or live.report is not None:
            self.misbehaved(runner_id, f"OUTCOME for job {job_id} out of turn; it was given {given}")
            return
        if (lie := contradiction(report, self._context(live, runner, now))) is not None:
            self.misbehaved(runner_id, lie)
            return
        live.report = report
        if runner.state is RunnerState.BUSY and runner.key is not None:
            self._finish_warm(runner, live, report, now)
        elif runner.killed_because is None:
            self.runners.close(runner, now)

    def runner_said_bye(self, runner_id: int) -> None:
        runner = self.pool.runners.get(runner_id)
        if runner is None:
            return
        live = self._job_of(runner)
        if live is not None:
            live.bye = True
        elif runner.state is RunnerState.IDLE:
            self.misbehaved(runner_id, "BYE, and nobody had closed it")

    def misbehaved(self, runner_id: int, detail: str) -> None:
        """The runner broke its protocol. It dies, and its job ends `crashed`; one that was killed already did not."""
        runner = self.pool.runners.get(runner_id)
        if runner is not None and runner.killed_because is None:
            runner.protocol_error = detail
            self.runners.kill(runner, "protocol")

    def exited(self, runner_id: int, exit_: Exit, now: Now) -> None:
        """The runner's process was reaped and all that it had said was told: its job is judged, its slot is free."""
        runner = self.runners.gone(runner_id)
        live = self._job_of(runner)
        if live is not None:
            self._step(live, from_exit(live.report, exit_, self._context(live, runner, now)), now)
        self.dispatch(now)

    def drain(self, now: Now) -> None:
        """Give out no more slots, and close the runners that wait for a job."""
        self.dispatching = False
        for runner in list(self.pool.runners.values()):
            if runner.state is RunnerState.IDLE:
                self.runners.close(runner, now)

    # -- time --------------------------------------------------------------------------------------------------------

    def timer_due(self, timer: Timer, now: Now) -> None:
        if timer.kind == "queue":
            refused = Ended(Reason.REFUSED, detail="waited longer than its queue_ms allows")
            self._step(self.live[str(timer.subject)], refused, now)
            return
        runner = self.pool.runners[int(timer.subject)]
        if timer.kind == "idle":
            self.runners.close(runner, now)
        else:
            self.runners.kill(runner, "stop" if timer.kind == "grace" else timer.kind)

    # -- within ------------------------------------------------------------------------------------------------------

    def _enter(self, task: Task, now: Now) -> Live:
        live = Live(task, self._next_order, now.monotonic_us)
        self._next_order += 1
        self.live[task.id] = live
        self._pending += task.status.state is State.PENDING
        return live

    def _lose(self, live: Live, detail: str, now: Now) -> None:
        """Its runner is lost: it goes back where `retry` allows, and ends otherwise."""
        attempts, most = live.task.status.attempts, live.task.spec.retry_max
        if attempts > most:
            self._step(live, Ended(Reason.LOST, detail=f"{detail} (attempt {attempts}, retry.max {most})"), now)
            return
        self._step(live, Recovered(), now)
        live.runner_id, live.queued_at_us = None, now.monotonic_us
        self._wait(live, now)

    def _wait(self, live: Live, now: Now) -> None:
        """A pending task starts its way, for as long as its queue_ms allows."""
        task = live.task
        if task.spec.queue_ms is not None:
            self._timers.set(Timer("queue", task.id), now.monotonic_us + task.spec.queue_ms * 1000)
        if not self.needs.fetch(task):
            self._want_artifact(live, now)

    def _want_artifact(self, live: Live, now: Now) -> None:
        task = live.task
        if self.needs.prepare(task.id, task.spec.digest or ""):
            self.queue.push(task.id, task.spec.priority, live.order)
            self.dispatch(now)

    def _step(self, live: Live, event: TaskEvent, now: Now) -> None:
        before = live.task.status.state
        live.task, notes = lifecycle.step(live.task, event, now)
        self._pending += (live.task.status.state is State.PENDING) - (before is State.PENDING)
        live.notes.extend(notes)
        if notes:
            self._changed[live.task.id] = live
        if live.task.final:
            self._forget(live)

    def _forget(self, live: Live) -> None:
        """A task is final: it waits for nothing any more. Its runner, if there is one, is judged by itself."""
        del self.live[live.task.id]
        self.queue.remove(live.task.id)
        self._timers.cancel(Timer("queue", live.task.id))
        self.needs.forget(live.task)

    def _finish_warm(self, runner: Runner, live: Live, report: Report, now: Now) -> None:
        self._step(live, from_report(report, self._context(live, runner, now)), now)
        runner.jobs_done += 1
        if runner.jobs_done >= self.settings.max_jobs_per_runner or not self.dispatching:
            self.runners.close(runner, now)
            return
        self.runners.rest(runner, now.monotonic_us + self.settings.idle_us)
        self.dispatch(now)

    def _context(self, live: Live, runner: Runner, now: Now) -> Context:
        started = live.started_at_us
        return Context(
            state=live.task.status.state,
            killed_because=runner.killed_because,
            protocol_error=runner.protocol_error,
            stopping=live.task.status.stopping,
            wall_ms=live.task.spec.limits.wall_ms,
            ran_us=None if started is None else now.monotonic_us - started,
            queue_us=live.scheduled_at_us - live.queued_at_us,
            init_us=self._init_us(live, runner),
            finished=live.bye,
        )

    @staticmethod
    def _init_us(live: Live, runner: Runner) -> int | None:
        """From slot to start, where a process had to be made for it; a warm runner's job has none."""
        if live.started_at_us is None or runner.jobs_done:
            return None
        return live.started_at_us - live.scheduled_at_us

    def _job_of(self, runner: Runner) -> Live | None:
        """The live task that the runner works on; None when it was stopped before it started, or is idle."""
        live = self.live.get(runner.task_id or "")
        return live if live is not None and live.runner_id == runner.id else None
