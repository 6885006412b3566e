"""What is done with runners, and the timer that watches each: none is without one, but for the killed.

    given a job --init--> started --deadline, and grace once it is to stop--> over --> closed --linger--> (exited)
                                                                          `--> resting --idle--> closed
    made for a service --init--> serving (its calls are watched, see `traffic`) --> leaving --linger--> (exited)

A runner whose timer comes is killed (one that rests is closed), and a killed one needs no timer: SIGKILL can't fail.
"""

from __future__ import annotations

from worker.core.clock import Now
from worker.core.effects import CloseRunner, Effect, GiveJob, InterruptJob, KillRunner, StartRunner, StartServer
from worker.core.pool import Pool, Runner, RunnerState
from worker.core.task import Task
from worker.core.timers import Timer, Timers

# How long a runner may take from being closed to its end.
LINGER_US = 1_000_000
KINDS = ("init", "deadline", "grace", "linger", "idle")


class Runners:
    """The doing of the pool's changes: every method leaves the runner's effect and its timer behind."""

    def __init__(self, pool: Pool, timers: Timers, effects: list[Effect]) -> None:
        self._pool = pool
        self._timers = timers
        self._effects = effects

    def start(self, runner: Runner, task: Task, due_us: int) -> None:
        """Fork it with the task as its first job, which is to start by `due_us`."""
        self._effects.append(StartRunner(runner.id, runner.slot, task, runner.job_id))
        self._watch(runner, "init", due_us)

    def give(self, runner: Runner, task: Task, due_us: int) -> None:
        """A warm runner gets another job, which is to start by `due_us`."""
        self._effects.append(GiveJob(runner.id, task, runner.job_id))
        self._watch(runner, "init", due_us)

    def started(self, runner: Runner, due_us: int) -> None:
        """Its guest runs, to `due_us` at most."""
        self._watch(runner, "deadline", due_us)

    def interrupt(self, runner: Runner, due_us: int) -> None:
        """Ask it to stop its guest; killed at `due_us`, or at its deadline if that is earlier."""
        self._effects.append(InterruptJob(runner.id))
        self._timers.set(Timer("grace", runner.id), due_us)

    def rest(self, runner: Runner, due_us: int) -> None:
        """It waits for another job, until `due_us`."""
        self._pool.rest(runner)
        self._watch(runner, "idle", due_us)

    def serve(self, runner: Runner, task: Task, due_us: int) -> None:
        """Fork it for the service; it is to be ready by `due_us`."""
        self._effects.append(StartServer(runner.id, runner.slot, task))
        self._watch(runner, "init", due_us)

    def serving(self, runner: Runner, now: Now) -> None:
        """It is ready and takes calls."""
        runner.state, runner.ready_at_us = RunnerState.SERVING, now.monotonic_us
        self._calm(runner)

    def leave(self, runner: Runner, now: Now) -> None:
        """It has said that it ends, and is to do so soon."""
        self._pool.end(runner)
        self._watch(runner, "linger", now.monotonic_us + LINGER_US)

    def close(self, runner: Runner, now: Now) -> None:
        """It gets no more jobs and ends by itself, soon."""
        self._pool.end(runner)
        self._effects.append(CloseRunner(runner.id))
        self._watch(runner, "linger", now.monotonic_us + LINGER_US)

    def kill(self, runner: Runner, because: str) -> None:
        """End it now; the first cause counts."""
        if runner.killed_because is None:
            runner.killed_because = because
            self._pool.end(runner)
            self._effects.append(KillRunner(runner.id))
            self._calm(runner)

    def misbehaved(self, runner: Runner, detail: str) -> None:
        """It broke its protocol, and dies; one that was killed already did not."""
        if runner.killed_because is None:
            runner.protocol_error = detail
            self.kill(runner, "protocol")

    def gone(self, runner_id: int) -> Runner:
        """Its process was reaped, or there never was one: the slot is free."""
        runner = self._pool.release(runner_id)
        self._calm(runner)
        return runner

    def _watch(self, runner: Runner, kind: str, due_us: int) -> None:
        self._calm(runner)
        self._timers.set(Timer(kind, runner.id), due_us)

    def _calm(self, runner: Runner) -> None:
        for kind in KINDS:
            self._timers.cancel(Timer(kind, runner.id))
