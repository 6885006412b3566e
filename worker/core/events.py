"""What happened to one task, in the past tense. `lifecycle.step` says what each means in each state."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.core.task import Reason, RunnerInfo, Usage


@dataclass(frozen=True, slots=True)
class ModuleFetched:
    """The module of a task posted by URL is here, under this digest."""

    digest: str
    params: tuple[tuple[str, int], ...] | None = None  # the entry's, typed now that the signature is known
    signature: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # a service's export: its parameters and results


@dataclass(frozen=True, slots=True)
class SlotAssigned:
    """The artifact is ready and a runner slot is the task's."""


@dataclass(frozen=True, slots=True)
class RunnerStarted:
    """The runner has read the job and runs it."""

    runner: RunnerInfo


@dataclass(frozen=True, slots=True)
class ServiceReady:
    """The first runner of a service is ready: it can be called."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants it to end. A task that hasn't started ends by it; a running one ends when its runner has."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The task's work is over, whoever ended it, and this is the truth of it."""

    reason: Reason
    trap_code: str | None = None
    signal: str | None = None
    exit_code: int | None = None
    result: tuple[tuple[str, int], ...] | None = None
    detail: str | None = None
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Recovered:
    """The worker lost the runner and the task may be tried again: back to waiting."""


TaskEvent = ModuleFetched | SlotAssigned | RunnerStarted | ServiceReady | StopRequested | Ended | Recovered
EVENT_TYPES: tuple[type[TaskEvent], ...] = (
    ModuleFetched,
    SlotAssigned,
    RunnerStarted,
    ServiceReady,
    StopRequested,
    Ended,
    Recovered,
)
