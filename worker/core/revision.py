"""A service that isn't final: a revision of a function, its runners, and what was seen last of its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from worker.core.live import Live
from worker.core.pool import Runner, RunnerState
from worker.core.scaling import Load
from worker.core.task import Service, State


class Listening(Enum):
    """Where a revision's listening socket stands, and how its calls are watched."""

    CLOSED = "closed"  # there is none: no runner could start, or none was needed yet
    WATCHED = "watched"  # quiet: the next call that waits is told, once
    SAMPLED = "sampled"  # calls come: its figures are read again and again
    SHUT = "shut"  # being stopped: what waits is served and sampled, nothing new comes


@dataclass(slots=True)
class Busy:
    """A call that a runner is at: its deadline as the runner's record tells it, and when that was seen first."""

    deadline_us: int
    seen_us: int


@dataclass(slots=True)
class Revision:
    """Points in time are monotonic microseconds. What a runner's record told (`busy`, `calls`) is untrusted."""

    live: Live
    service: Service
    memory_bytes: int  # of one runner, its share of the node's
    prepared: bool = False  # it had its artifact once
    proven: bool = False  # it was running once: what fails now backs off, and doesn't end it
    routed: bool = False  # it is on disk that it runs
    prefer: bool = False  # it asked to be the default, and hasn't run yet
    listening: Listening = Listening.CLOSED
    runners: dict[int, Runner] = field(default_factory=dict)
    queued: int = 0
    queued_since_us: int | None = None  # since when calls wait, or a first runner is wanted
    busy: dict[int, Busy] = field(default_factory=dict)
    calls: int = 0
    progress_us: int = 0  # when a call was last seen to be answered, or none to wait
    active_us: int = 0  # when anything was last seen to go on
    quiet: int = 0  # samples in a row that showed nothing
    unqueued: int = 0  # samples in a row without a queue
    stalled: bool = False  # calls wait, and those that seem idle don't take them
    sample_due_us: int = 0
    may_grow: bool = False
    most_busy: int = 0  # at once, since `window_us`
    window_us: int = 0
    asked: int = 0  # to end, whichever takes the message first, and may have by now
    unheard: int = 0  # such messages that are still in the queue among the calls, as far as was seen
    told: set[int] = field(default_factory=set)  # runners that were told to end after the call that they are at
    failures: int = 0  # runners in a row that could not start
    backing_off: bool = False
    retrying: bool = False  # a backoff is over: one runner is tried, whether a call waits or not
    trouble: str | None = None
    cold_starts: int = 0
    broken: int = 0

    @property
    def id(self) -> str:
        return self.live.task.id

    @property
    def state(self) -> State:
        return self.live.task.status.state

    @property
    def stopping(self) -> bool:
        return self.live.task.status.stopping

    @property
    def sampled(self) -> bool:
        return self.listening in (Listening.SAMPLED, Listening.SHUT)

    def count(self, state: RunnerState) -> int:
        return sum(runner.state is state for runner in self.runners.values())

    @property
    def retiring(self) -> int:
        """How many of those that serve are about to end."""
        told = (self.runners[runner_id] for runner_id in self.told)
        return self.asked + sum(runner.state is RunnerState.SERVING for runner in told)

    @property
    def sleeps(self) -> bool:
        """It has no runner, and wants none: it changes no plan."""
        wants = self.queued or self.retrying or self.asked or self.service.scale.min
        return not (self.runners or wants) and self.state is State.RUNNING

    @property
    def able(self) -> int:
        """Runners that serve, or will."""
        return self.count(RunnerState.SERVING) + self.count(RunnerState.STARTING)

    def load(self, has_artifact: bool) -> Load:
        """What the policy goes by."""
        scale = self.service.scale
        serving = self.count(RunnerState.SERVING)
        fresh = self.state in (State.PENDING, State.SCHEDULED)
        return Load(
            self.id,
            self.memory_bytes,
            0 if self.stopping or fresh else scale.min,
            1 if self.stopping or fresh else scale.max,
            serving=serving,
            starting=self.count(RunnerState.STARTING),
            busy=serving if self.stalled else len(self.busy),
            retiring=self.retiring,
            queued=self.queued,
            since_us=self.active_us if self.queued_since_us is None else self.queued_since_us,
            deploying=fresh or self.retrying,
            may_start=has_artifact and not self.backing_off,
            may_grow=self.may_grow,
        )


@dataclass(frozen=True, slots=True)
class View:
    """A revision for statistics. `broken` counts answers that were none."""

    task_id: str
    function: str
    revision: str
    state: State
    idle: int
    busy: int
    starting: int
    queued: int
    cold_starts: int
    broken: int
    trouble: str | None


def view(revision: Revision) -> View:
    serving = revision.count(RunnerState.SERVING)
    busy = min(serving, len(revision.busy))
    return View(
        revision.id,
        revision.service.function,
        revision.service.revision,
        revision.state,
        idle=serving - busy,
        busy=busy,
        starting=revision.count(RunnerState.STARTING),
        queued=revision.queued,
        cold_starts=revision.cold_starts,
        broken=revision.broken,
        trouble=revision.trouble,
    )
