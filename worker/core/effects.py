"""What the core wants done, in the imperative. The coordinator's hands carry it out and report back by events."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from worker.core.changes import Change
from worker.core.commands import CallFigures, Reply
from worker.core.task import Task

Origin = Hashable  # who asked: opaque to the core, a connection and a request id to the coordinator


@dataclass(frozen=True, slots=True)
class Commit:
    """Write this; the answer is `Node.committed(ticket, result)`."""

    ticket: int
    change: Change


@dataclass(frozen=True, slots=True)
class Answer:
    origin: Origin
    reply: Reply


@dataclass(frozen=True, slots=True)
class AnswerStats:
    origin: Origin


@dataclass(frozen=True, slots=True)
class AnswerAudit:
    origin: Origin


@dataclass(frozen=True, slots=True)
class StartFetch:
    """Fetch the task's module by its URL, record it, then answer by `Jobs.fetched`, or by `Jobs.refused`.

    Where the task names a digest too, nothing else may come of it.
    """

    task: Task


@dataclass(frozen=True, slots=True)
class CancelFetch:
    task_id: str


@dataclass(frozen=True, slots=True)
class PrepareArtifact:
    """Have the artifact of this module at hand, from memory, disk or a compiler."""

    digest: str


@dataclass(frozen=True, slots=True)
class CancelArtifact:
    """Nobody waits for it any more: kill its compiler. `artifact_failed` may not follow, but for a later Prepare."""

    digest: str


@dataclass(frozen=True, slots=True)
class StartRunner:
    """Fork a runner for `slot`, seal it around the task's artifact, and give it the task as job `job_id`."""

    runner_id: int
    slot: int
    task: Task
    job_id: int


@dataclass(frozen=True, slots=True)
class GiveJob:
    """Give a warm runner another job."""

    runner_id: int
    task: Task
    job_id: int


@dataclass(frozen=True, slots=True)
class InterruptJob:
    """Ask the runner to stop its guest at the next epoch."""

    runner_id: int


@dataclass(frozen=True, slots=True)
class KillRunner:
    runner_id: int


@dataclass(frozen=True, slots=True)
class CloseRunner:
    """No more jobs: the runner says BYE and ends by itself."""

    runner_id: int


@dataclass(frozen=True, slots=True)
class AnswerFunctions:
    """Answer with what runs of these functions, and their figures."""

    origin: Origin
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnswerMetrics:
    origin: Origin
    part: int


@dataclass(frozen=True, slots=True)
class CountCalls:
    """Add to the figures of the services' calls."""

    figures: tuple[CallFigures, ...]


@dataclass(frozen=True, slots=True)
class OpenListener:
    """Have the service's listening socket: where there is none yet, make it. Calls may wait on it from now on."""

    task: Task


@dataclass(frozen=True, slots=True)
class ShutListener:
    """Take no more calls: what waits is still served, the next connect is refused (SHUT_RD); runners then end."""

    task_id: str


@dataclass(frozen=True, slots=True)
class CloseListener:
    """The listening socket goes, with what waits on it: those calls were not executed, and are told so."""

    task_id: str


@dataclass(frozen=True, slots=True)
class WatchCalls:
    """Answer once by `Traffic.call_waits`, when a call waits on the listener."""

    task_id: str


@dataclass(frozen=True, slots=True)
class SampleCalls:
    """Answer at once by `Services.sampled`: how many calls wait (sock_diag), which runners are busy (their records)."""

    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartServer:
    """Fork a runner for `slot`, seal it around the service's artifact, and let it serve the listener."""

    runner_id: int
    slot: int
    task: Task


@dataclass(frozen=True, slots=True)
class RetireServer:
    """One runner of the service ends after its call. Answer at once by `Traffic.retire_asked`, if one could be asked.

    Where calls wait or none is idle, one that is at a call is told by its record: a message would come last. Else
    whichever takes it first: connect and say so.
    """

    task_id: str


@dataclass(frozen=True, slots=True)
class RemoveModule:
    """The module is out of the table: its files go now, before any later Commit is submitted."""

    digest: str


@dataclass(frozen=True, slots=True)
class RemoveOutputs:
    """These tasks are out of the table: their files go, when there is time."""

    task_ids: tuple[str, ...]


Effect = (
    Commit
    | Answer
    | AnswerStats
    | AnswerAudit
    | StartFetch
    | CancelFetch
    | PrepareArtifact
    | CancelArtifact
    | StartRunner
    | GiveJob
    | InterruptJob
    | KillRunner
    | CloseRunner
    | RemoveModule
    | RemoveOutputs
    | AnswerFunctions
    | AnswerMetrics
    | CountCalls
    | OpenListener
    | ShutListener
    | CloseListener
    | WatchCalls
    | SampleCalls
    | StartServer
    | RetireServer
)
