"""Runner slots and the runners in them. A slot is given back in exactly one place: when its process was reaped."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from worker.core.task import Isolation, Kind, Task
from worker.core.verdict import Report


class RunnerState(Enum):
    """Where a runner stands; the pool's owner (the core) alone changes it."""

    STARTING = "starting"  # asked for, not yet sealed
    BUSY = "busy"  # has a job
    SERVING = "serving"  # a service's: takes calls, without a word to us
    IDLE = "idle"  # warm, waiting for a job of its key
    ENDING = "ending"  # closed or killed: its exit is awaited


@dataclass(slots=True)
class Runner:
    """One forked process. `key` is what a warm runner's jobs share, None for a runner of one job, and for a service's.

    `memory_bytes` is its share of the node's memory. A service's runner has no job; its task is the service.
    """

    id: int
    slot: int
    key: Hashable | None
    state: RunnerState
    task_id: str | None
    job_id: int
    kind: Kind = Kind.JOB
    memory_bytes: int = 0
    pid: int = 0
    uid: int = 0
    layers: tuple[str, ...] = ()
    load_us: int | None = None
    jobs_done: int = 0
    rested: int = 0  # when it became idle, counted in rests of the pool
    # A service's: since when it serves (monotonic), why it can't, whether it said that it ends, and was asked to.
    ready_at_us: int | None = None
    report: Report | None = None
    bye: bool = False
    asked: bool = False
    # Why we sent SIGKILL: "init", "handover" (it could not be told its next job), "deadline", "stop", "linger" (its job
    # was over), "protocol", "stuck" (it took no call while calls waited); None if we did not.
    killed_because: str | None = None
    protocol_error: str | None = None


def instance_key(task: Task) -> Hashable | None:
    """What two jobs must share to use one warm runner (DESIGN 9); None where each has a runner of its own."""
    spec = task.spec
    if spec.isolation is not Isolation.INSTANCE or spec.mounts:
        return None
    return (spec.digest, task.token, spec.limits, spec.env, spec.unknown_imports)


class Pool:
    """The node's runner slots, and its memory for runners.

    Args:
        slots: how many runners may live at once.
        memory_bytes: how much all of them may have together.
        overhead_bytes: what a runner has beside its guest's memory.
    """

    def __init__(self, slots: int, memory_bytes: int = 2**62, overhead_bytes: int = 0) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        self.overhead_bytes = overhead_bytes
        self.free_memory_bytes = memory_bytes
        self.runners: dict[int, Runner] = {}
        self.stale = False  # slots or claims to them have changed: they are to be given out anew
        # Longest unused first, so that a uid rests as long as it can before its next tenant.
        self._free: deque[int] = deque(range(slots))
        self._idle: dict[Hashable, list[int]] = {}
        self._next_id = 1
        self._rests = 0

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def most_per_runner(self) -> int:
        """The most memory (bytes) that a guest can ever be given here."""
        return self.memory_bytes - self.overhead_bytes

    @property
    def ending(self) -> int:
        """How many slots are about to come free."""
        return sum(runner.state is RunnerState.ENDING for runner in self.runners.values())

    @property
    def idle(self) -> int:
        """How many runners wait for a job."""
        return sum(len(idle) for idle in self._idle.values())

    def share(self, task: Task) -> int:
        """The memory (bytes) that a runner of the task takes of the node's."""
        return task.spec.limits.memory_bytes + self.overhead_bytes

    def fits(self, memory_bytes: int) -> bool:
        return bool(self._free) and memory_bytes <= self.free_memory_bytes

    def start(
        self, key: Hashable | None, task_id: str, job_id: int, memory_bytes: int = 0, kind: Kind = Kind.JOB
    ) -> Runner | None:
        """A new runner in a free slot, None without one, or without the memory for it."""
        if not self.fits(memory_bytes):
            return None
        slot = self._free.popleft()
        runner = Runner(self._next_id, slot, key, RunnerState.STARTING, task_id, job_id, kind, memory_bytes)
        self._next_id += 1
        self.free_memory_bytes -= memory_bytes
        self.runners[runner.id] = runner
        return runner

    def take_idle(self, key: Hashable, task_id: str, job_id: int) -> Runner | None:
        """A warm runner of `key`, the one used last (its memory is the warmest), now busy with the job."""
        idle = self._idle.get(key)
        if not idle:
            return None
        runner = self.runners[idle.pop()]
        if not idle:
            del self._idle[key]
        runner.state, runner.task_id, runner.job_id = RunnerState.BUSY, task_id, job_id
        return runner

    def rest(self, runner: Runner) -> None:
        """The runner's job is over and it waits for another."""
        self.stale = True
        runner.state, runner.task_id, runner.job_id = RunnerState.IDLE, None, 0
        self._rests += 1
        runner.rested = self._rests
        self._idle.setdefault(runner.key, []).append(runner.id)

    def end(self, runner: Runner) -> None:
        """The runner was closed or killed: it gets no more jobs."""
        if runner.state is RunnerState.IDLE:
            self._forget_idle(runner)
        runner.state = RunnerState.ENDING

    def longest_idle(self) -> Runner | None:
        """The idle runner to give up first when others need its slot."""
        idle = [self.runners[runner_ids[0]] for runner_ids in self._idle.values()]
        return min(idle, key=lambda runner: runner.rested, default=None)

    def release(self, runner_id: int) -> Runner:
        """The runner's process was reaped: its slot is free. The only place where a slot comes back."""
        runner = self.runners.pop(runner_id)
        if runner.state is RunnerState.IDLE:
            self._forget_idle(runner)
        self._free.append(runner.slot)
        self.free_memory_bytes += runner.memory_bytes
        self.stale = True
        return runner

    def _forget_idle(self, runner: Runner) -> None:
        idle = self._idle[runner.key]
        idle.remove(runner.id)
        if not idle:
            del self._idle[runner.key]
