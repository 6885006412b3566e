"""When a child process is started, judged dead, started again, or given up: pure, events in, effects out.

The launcher holds one `Child` for each of its processes, feeds it what happened, and does what the effects say. Times
are milliseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from worker.errors import WorkerError


class Phase(Enum):
    """Where one child is."""

    WAITING = "waiting"  # not running; is started when `start_at_ms` comes
    STARTING = "starting"  # running, and has not said that it is ready
    READY = "ready"  # has said so; its death restarts it at once
    STOPPING = "stopping"  # running, and must not come back once it has ended
    ENDED = "ended"  # not running, for good


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient the launcher is.

    Args:
        heartbeat_timeout_ms: silence that long is death.
        start_timeout_ms: a start without one heartbeat for so long is a failed one.
        failure_limit: so many starts in a row that never got ready, and the child is given up.
        backoff_first_ms, backoff_limit_ms: the wait after the first of them, doubled with each, and its limit.
    """

    heartbeat_timeout_ms: int = 2_000
    start_timeout_ms: int = 30_000
    failure_limit: int = 5
    backoff_first_ms: int = 100
    backoff_limit_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class Child:
    """One child's state. `heard_ms`: its last sign of life, or its start; `beating`: whether it ever gave one."""

    phase: Phase = Phase.WAITING
    start_at_ms: int = 0
    heard_ms: int = 0
    beating: bool = False
    judged_ms: int = 0
    kill_sent: bool = False
    failures: int = 0


# Events


@dataclass(frozen=True, slots=True)
class Ticked:
    """Everything that was to be read has been read: judge."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life."""


@dataclass(frozen=True, slots=True)
class BecameReady:
    """It serves."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It was reaped, or could not even be started. `detail` says how it ended; `hopeless`: so would another."""

    detail: str
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class StopOrdered:
    """Its next end is its last."""


Event = Ticked | Beat | BecameReady | Ended | StopOrdered


# Effects


@dataclass(frozen=True, slots=True)
class Start:
    """Start it now."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL it: `reason` is for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The circuit breaker: after so many failed starts there is no use in another."""

    attempts: int
    detail: str


Effect = Start | Kill | GiveUp


class IllegalStep(WorkerError):
    """This event can't happen in this phase: a bug of the launcher's."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{type(event).__name__} can't happen to a child that is {phase.value}")
        self.phase = phase
        self.event = event


Outcome = tuple[Child, tuple[Effect, ...]]


def step(child: Child, event: Event, now_ms: int, policy: Policy) -> Outcome:
    """What becomes of `child`, and what to do.

    Raises:
        IllegalStep: the event can't happen in its phase; nothing changes.
    """
    handler = TRANSITIONS.get((child.phase, type(event)))
    if handler is None:
        raise IllegalStep(child.phase, event)
    return handler(child, event, now_ms, policy)


def backoff_ms(failures: int, policy: Policy) -> int:
    """How long to wait after so many failed starts in a row."""
    return min(policy.backoff_first_ms << (failures - 1), policy.backoff_limit_ms)


def _start_when_due(child: Child, _: Event, now_ms: int, __: Policy) -> Outcome:
    if now_ms < child.start_at_ms:
        return child, ()
    started = Child(Phase.STARTING, heard_ms=now_ms, judged_ms=now_ms, failures=child.failures)
    return started, (Start(),)


def _judge(child: Child, _: Event, now_ms: int, policy: Policy) -> Outcome:
    """Silence is death; but a judge that was asleep itself (SIGSTOP, a loaded machine) listens anew first."""
    asleep_ms = now_ms - child.judged_ms
    heard_ms = now_ms if asleep_ms > policy.heartbeat_timeout_ms // 2 else child.heard_ms
    child = replace(child, judged_ms=now_ms, heard_ms=heard_ms)
    patience_ms = policy.heartbeat_timeout_ms if child.beating else policy.start_timeout_ms
    silence_ms = now_ms - heard_ms
    if child.kill_sent or silence_ms <= patience_ms:
        return child, ()
    what = "heartbeat" if child.beating else "first heartbeat"
    return replace(child, kill_sent=True), (Kill(f"no {what} for {silence_ms} ms"),)


def _hear(child: Child, _: Event, now_ms: int, __: Policy) -> Outcome:
    return replace(child, heard_ms=now_ms, beating=True), ()


def _get_ready(child: Child, _: Event, now_ms: int, __: Policy) -> Outcome:
    return replace(child, phase=Phase.READY, heard_ms=now_ms, beating=True, failures=0), ()


def _count_failure(child: Child, event: Event, now_ms: int, policy: Policy) -> Outcome:
    assert isinstance(event, Ended)
    failures = child.failures + 1
    if event.hopeless or failures >= policy.failure_limit:
        return Child(Phase.ENDED, failures=failures), (GiveUp(failures, event.detail),)
    return Child(start_at_ms=now_ms + backoff_ms(failures, policy), failures=failures), ()


def _restart(_: Child, __: Event, now_ms: int, ___: Policy) -> Outcome:
    return Child(start_at_ms=now_ms), ()


def _prepare_to_stop(child: Child, _: Event, __: int, ___: Policy) -> Outcome:
    return replace(child, phase=Phase.STOPPING), ()


def _stay_stopped(child: Child, _: Event, __: int, ___: Policy) -> Outcome:
    return Child(Phase.ENDED, failures=child.failures), ()


def _nothing(child: Child, _: Event, __: int, ___: Policy) -> Outcome:
    return child, ()


Handler = Callable[[Child, Event, int, Policy], Outcome]

TRANSITIONS: dict[tuple[Phase, type[Event]], Handler] = {
    (Phase.WAITING, Ticked): _start_when_due,
    (Phase.WAITING, StopOrdered): _stay_stopped,
    (Phase.STARTING, Ticked): _judge,
    (Phase.STARTING, Beat): _hear,
    (Phase.STARTING, BecameReady): _get_ready,
    (Phase.STARTING, Ended): _count_failure,
    (Phase.STARTING, StopOrdered): _prepare_to_stop,
    (Phase.READY, Ticked): _judge,
    (Phase.READY, Beat): _hear,
    (Phase.READY, Ended): _restart,
    (Phase.READY, StopOrdered): _prepare_to_stop,
    (Phase.STOPPING, Ticked): _judge,
    (Phase.STOPPING, Beat): _hear,
    (Phase.STOPPING, BecameReady): _hear,  # it was stopped while it started
    (Phase.STOPPING, Ended): _stay_stopped,
    (Phase.STOPPING, StopOrdered): _nothing,
    (Phase.ENDED, Ticked): _nothing,
    (Phase.ENDED, StopOrdered): _nothing,
}
