"""The way of a job through the node: module, artifact, slot, runner, end. Decides, and leaves the doing to effects.

    admit -> (fetch) -> artifact -> queue -> slot -> runner started -> reported -> runner exited -> final

Every method takes `now` and adds to the node's effects. Slots are given out by `dispatch`, which the node calls once
after all that happened in a round.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.changes import Note
from worker.core.clock import Now
from worker.core.events import Ended, RunnerStarted, SlotAssigned, StopRequested
from worker.core.live import Live
from worker.core.pool import Pool, Runner, RunnerState, instance_key
from worker.core.queue import ReadyQueue
from worker.core.runners import Runners
from worker.core.scaling import Room
from worker.core.task import Kind, Reason, RunnerInfo, State, Task
from worker.core.tasks import Tasks
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


class Jobs:
    """All jobs that are alive."""

    def __init__(self, settings: JobSettings, tasks: Tasks, pool: Pool, runners: Runners, timers: Timers) -> None:
        self.settings = settings
        self.queue = ReadyQueue()
        self.dispatching = True
        self._tasks = tasks
        self._pool = pool
        self._runners = runners
        self._timers = timers
        self._next_job_id = 1
        tasks.owners[Kind.JOB] = self

    # -- a task comes and goes ---------------------------------------------------------------------------------------

    def admit(self, task: Task, now: Now) -> None:
        """The task's row is on disk: start its way."""
        self._wait(self._tasks.enter(task, now), now)

    def recover(self, task: Task, begun: bool, now: Now) -> None:
        """A task that the table holds as alive at start: what ran is lost or goes back, what waited goes on.

        `begun`: a runner was made for it, though the row that says so did not reach the disk.
        """
        if task.status.state is State.PENDING and not begun:
            self.admit(task, now)
            return
        live = self._tasks.enter(task, now)
        if task.status.state is State.PENDING:
            self._tasks.step(live, SlotAssigned(), now)
        if task.status.stopping:
            self._tasks.step(live, Ended(Reason.STOPPED, detail="the worker restarted while it was being stopped"), now)
        else:
            self._lose(live, "the worker restarted while it ran", now)

    def stop(self, task_id: str, force: bool, now: Now) -> None:
        """Stop a live task in whatever state it is; one that isn't live is final already."""
        live = self._tasks.live.get(task_id)
        if live is None:
            return
        before = live.task.status
        runner = self._pool.runners.get(live.runner_id or 0)
        self._tasks.step(live, StopRequested(), now)
        if runner is None:
            return
        if live.report is not None:  # its job is over and only its process isn't: what it reported stands
            if force:
                self._runners.kill(runner, "linger")
        elif force or before.state is not State.RUNNING:
            self._runners.kill(runner, "stop")
        elif not before.stopping and runner.state is not RunnerState.ENDING:
            self._runners.interrupt(runner, now.monotonic_us + self.settings.stop_grace_us)

    def refused(self, task_id: str, reason: Reason, detail: str, now: Now) -> None:
        """What the task needs can't be had: it ends before it ran."""
        live = self._tasks.live.get(task_id)
        self._tasks.refused(task_id, reason, detail, now)
        if live is not None and (runner := self._pool.runners.get(live.runner_id or 0)) is not None:
            self._runners.kill(runner, "stop")

    # -- module and artifact (Owner) ---------------------------------------------------------------------------------

    def prepared(self, live: Live, now: Now) -> None:
        """It waits for a slot now."""
        self.queue.push(live.task.id, live.task.spec.priority, live.order)
        self._pool.stale = True

    def unprepared(self, live: Live, detail: str, now: Now) -> None:
        """Its artifact can't be made."""
        self._tasks.step(live, Ended(Reason.COMPILE_FAILED, detail=detail), now)

    def forget(self, live: Live) -> None:
        """It is final, and waits for nothing any more. Its runner, if there is one, is judged by itself."""
        self.queue.remove(live.task.id)
        self._timers.cancel(Timer("queue", live.task.id))

    # -- slots -------------------------------------------------------------------------------------------------------

    def room(self) -> Room:
        """What the jobs want of the node's slots, and what they have."""
        head = self.queue.peek() if self.dispatching else None
        if head is None:
            return Room(jobs_idle=self._pool.idle)
        live = self._tasks.live[head]
        working = (RunnerState.STARTING, RunnerState.BUSY)
        runners = self._pool.runners.values()
        return Room(
            jobs_waiting=len(self.queue),
            jobs_running=sum(runner.kind is Kind.JOB and runner.state in working for runner in runners),
            jobs_idle=self._pool.idle,
            job_memory_bytes=self._pool.share(live.task),
            job_since_us=live.queued_at_us,
        )

    def dispatch(self, slots: int, now: Now) -> None:
        """Give every task whose turn it is a runner: a warm one, or one of `slots` new ones."""
        while self.dispatching and (task_id := self.queue.peek()) is not None:
            live = self._tasks.live[task_id]
            if not self._tasks.has_artifact(live):  # evicted while it waited
                self.queue.remove(task_id)
                self._tasks.want_artifact(live, now)
            elif self._take_warm(live, now):
                self.queue.remove(task_id)
            elif slots > 0 and self._take_new(live, now):
                slots -= 1
                self.queue.remove(task_id)
            else:
                return

    def give_up(self, count: int, now: Now) -> None:
        """Close `count` of the warm runners that wait for a job, those that have waited longest."""
        for _ in range(count):
            idle = self._pool.longest_idle()
            assert idle is not None, "the plan counted them"
            self._runners.close(idle, now)

    def _take_warm(self, live: Live, now: Now) -> bool:
        key = instance_key(live.task)
        runner = None if key is None else self._pool.take_idle(key, live.task.id, self._next_job_id)
        if runner is not None:
            self._assign(live, runner, now)
            self._runners.give(runner, live.task, now.monotonic_us + self.settings.init_us)
        return runner is not None

    def _take_new(self, live: Live, now: Now) -> bool:
        task = live.task
        runner = self._pool.start(instance_key(task), task.id, self._next_job_id, self._pool.share(task))
        if runner is not None:
            self._assign(live, runner, now)
            self._runners.start(runner, live.task, now.monotonic_us + self.settings.init_us)
        return runner is not None

    def _assign(self, live: Live, runner: Runner, now: Now) -> None:
        self._next_job_id += 1
        live.runner_id, live.scheduled_at_us = runner.id, now.monotonic_us
        self._timers.cancel(Timer("queue", live.task.id))
        self._tasks.step(live, SlotAssigned(), now)

    # -- what runners do ---------------------------------------------------------------------------------------------

    def spawn_failed(self, runner: Runner, detail: str, now: Now, reason: Reason = Reason.INIT_FAILED) -> None:
        """There is no process; its slot is free already. `reason` LOST: there was one, and it had begun the job."""
        live = self._job_of(runner)
        if live is not None and reason is Reason.LOST:
            self._lose(live, detail, now)
        elif live is not None:
            self._tasks.step(live, Ended(reason, detail=detail), now)

    def runner_ready(self, runner: Runner) -> None:
        runner.state = RunnerState.BUSY

    def job_started(self, runner: Runner, job_id: int, now: Now) -> None:
        if runner.killed_because is not None:
            return  # what a killed runner still said changes nothing
        live = self._job_of(runner)
        in_turn = runner.state is RunnerState.BUSY and job_id == runner.job_id
        if live is None or not in_turn or live.report is not None or live.task.status.state is not State.SCHEDULED:
            self._runners.misbehaved(runner, f"STARTED for job {job_id} out of turn; it was given {runner.job_id}")
            return
        live.started_at_us = now.monotonic_us
        self._tasks.step(live, RunnerStarted(RunnerInfo(runner.pid, runner.uid, runner.layers)), now)
        self._runners.started(runner, now.monotonic_us + live.task.spec.limits.wall_ms * 1000 + KILL_MARGIN_US)

    def job_reported(self, runner: Runner, job_id: int, report: Report, now: Now) -> None:
        """OUTCOME. A runner of one job is judged when it is gone; a warm one at once, since it goes on."""
        live = self._job_of(runner)
        given = 0 if runner.state is RunnerState.STARTING else runner.job_id
        if live is None or job_id != given or live.report is not None:
            self._runners.misbehaved(runner, f"OUTCOME for job {job_id} out of turn; it was given {given}")
            return
        if (lie := contradiction(report, self._context(live, runner, now))) is not None:
            self._runners.misbehaved(runner, lie)
            return
        live.report = report
        if runner.state is RunnerState.BUSY and runner.key is not None:
            self._finish_warm(runner, live, report, now)
        elif runner.killed_because is None:
            self._runners.close(runner, now)

    def said_bye(self, runner: Runner) -> None:
        live = self._job_of(runner)
        if live is not None:
            live.bye = True
        elif runner.state is RunnerState.IDLE:
            self._runners.misbehaved(runner, "BYE, and nobody had closed it")

    def exited(self, runner: Runner, exit_: Exit, now: Now) -> None:
        """The runner's process was reaped and all that it had said was told: its job is judged. Its slot is free."""
        live = self._job_of(runner)
        if live is not None:
            ended = from_exit(live.report, exit_, self._context(live, runner, now))
            if not self._replace(runner, live, ended, now):
                self._tasks.step(live, ended, now)

    def drain(self, now: Now) -> None:
        """Give out no more slots, and close the runners that wait for a job."""
        self.dispatching = False
        for runner in list(self._pool.runners.values()):
            if runner.state is RunnerState.IDLE:
                self._runners.close(runner, now)

    # -- time --------------------------------------------------------------------------------------------------------

    def timer_due(self, timer: Timer, now: Now) -> None:
        if timer.kind == "queue":
            refused = Ended(Reason.REFUSED, detail="waited longer than its queue_ms allows")
            self._tasks.step(self._tasks.live[str(timer.subject)], refused, now)
            return
        runner = self._pool.runners[int(timer.subject)]
        if timer.kind == "idle":
            self._runners.close(runner, now)
        else:
            self._runners.kill(runner, "stop" if timer.kind == "grace" else timer.kind)

    # -- within ------------------------------------------------------------------------------------------------------

    def _lose(self, live: Live, detail: str, now: Now) -> None:
        """Its runner is lost: it goes back where `retry` allows, and ends otherwise."""
        attempts, most = live.task.status.attempts, live.task.spec.retry_max
        if attempts > most:
            self._tasks.step(live, Ended(Reason.LOST, detail=f"{detail} (attempt {attempts}, retry.max {most})"), now)
            return
        self._tasks.go_back(live, now)
        self._wait(live, now)

    def _wait(self, live: Live, now: Now) -> None:
        """A pending task starts its way, for as long as its queue_ms allows."""
        task = live.task
        if task.spec.queue_ms is not None:
            self._timers.set(Timer("queue", task.id), now.monotonic_us + task.spec.queue_ms * 1000)
        self._tasks.wait(live, now)

    def _finish_warm(self, runner: Runner, live: Live, report: Report, now: Now) -> None:
        self._tasks.step(live, from_report(report, self._context(live, runner, now)), now)
        runner.jobs_done += 1
        if runner.jobs_done >= self.settings.max_jobs_per_runner or not self.dispatching:
            self._runners.close(runner, now)
            return
        self._runners.rest(runner, now.monotonic_us + self.settings.idle_us)

    def _replace(self, runner: Runner, live: Live, ended: Ended, now: Now) -> bool:
        """Give the slot of a warm runner that never began its next job to a new process for it; whether that is so.

        STARTED comes before the guest runs, and all that the dead one said was read: nothing was executed. Once at
        most, for a new process is not warm. One that broke its protocol is no such case: its word counts for nothing.
        """
        began = live.task.status.state is not State.SCHEDULED or runner.protocol_error is not None
        if began or not runner.jobs_done or not self._tasks.has_artifact(live):
            return False
        fresh = self._pool.start(runner.key, live.task.id, self._next_job_id, runner.memory_bytes)
        assert fresh is not None, "the slot of the one that is gone is free"
        self._next_job_id += 1
        live.runner_id, live.bye = fresh.id, False
        self._tasks.note(live, Note(now.wall_us, "runner_replaced", State.SCHEDULED, None, ended.detail))
        self._runners.start(fresh, live.task, now.monotonic_us + self.settings.init_us)
        return True

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
        live = self._tasks.live.get(runner.task_id or "")
        return live if live is not None and live.runner_id == runner.id else None
