"""The orderly end, in one time budget: pure, facts in, orders out.

SERVING -> DEREGISTERING -> FINISHING -> CLOSING_API -> CLOSING_COORDINATOR -> DONE, each as soon as it can be: nothing
is waited for when nothing is in flight. Times are milliseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

# After a budget that was used up: what API workers have to tell those who waited for a job that was stopped just now.
LAST_ANSWERS_MS = 500
# Beyond budget and grace: a coordinator that records how the last jobs were stopped. Then SIGKILL.
LAST_RECORDS_MS = 1_000


class Phase(Enum):
    """How far the end has come."""

    SERVING = "serving"
    DEREGISTERING = "deregistering"  # /readyz says 503; load balancers are given time to see it
    FINISHING = "finishing"  # jobs run to their end, or are stopped when the budget is used up
    CLOSING_API = "closing the API"  # no new connections; calls in flight are answered
    CLOSING_COORDINATOR = "closing the coordinator"
    DONE = "done"


class Order(Enum):
    """What the launcher must do."""

    DRAIN_COORDINATOR = "drain the coordinator"
    STOP_API = "stop the API"
    KILL_API = "kill the API"
    STOP_COORDINATOR = "stop the coordinator"
    KILL_COORDINATOR = "kill the coordinator"


@dataclass(frozen=True, slots=True)
class Budget:
    """The whole of `budget_ms` counts from the order to stop; deregistration lies within it."""

    deregistration_ms: int
    budget_ms: int
    grace_ms: int

    @property
    def last_ms(self) -> int:
        """When patience with the coordinator ends."""
        return self.budget_ms + self.grace_ms + LAST_RECORDS_MS


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so now. `drained`: the coordinator said that nothing of its own is in flight."""

    now_ms: int
    api_running: bool
    coordinator_running: bool
    drained: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """Where the end stands; `api_stopped_ms` is when the API was told."""

    phase: Phase = Phase.SERVING
    asked_ms: int = 0
    api_stopped_ms: int = 0


def begin(facts: Facts) -> tuple[Drain, tuple[Order, ...]]:
    """The order to stop has come."""
    return Drain(Phase.DEREGISTERING, asked_ms=facts.now_ms), (Order.DRAIN_COORDINATOR,)


def advance(drain: Drain, facts: Facts, budget: Budget) -> tuple[Drain, tuple[Order, ...]]:
    """Go on as far as the facts allow. Orders to kill may come again until the process is gone."""
    orders: list[Order] = []
    while True:
        following = _next(drain, facts, budget, orders)
        if following == drain:
            return drain, tuple(orders)
        drain = following


def _next(drain: Drain, facts: Facts, budget: Budget, orders: list[Order]) -> Drain:
    spent_ms = facts.now_ms - drain.asked_ms
    over = spent_ms >= budget.last_ms
    match drain.phase:
        case Phase.DEREGISTERING if spent_ms >= budget.deregistration_ms:
            return replace(drain, phase=Phase.FINISHING)
        case Phase.FINISHING if facts.drained or not facts.coordinator_running or over:
            orders.append(Order.STOP_API)
            return replace(drain, phase=Phase.CLOSING_API, api_stopped_ms=facts.now_ms)
        case Phase.CLOSING_API if not facts.api_running:
            orders.append(Order.STOP_COORDINATOR)
            return replace(drain, phase=Phase.CLOSING_COORDINATOR)
        case Phase.CLOSING_API:
            told_ms = facts.now_ms - drain.api_stopped_ms
            if spent_ms >= budget.budget_ms and told_ms >= LAST_ANSWERS_MS:
                orders.append(Order.KILL_API)
        case Phase.CLOSING_COORDINATOR if not facts.coordinator_running:
            return replace(drain, phase=Phase.DONE)
        case Phase.CLOSING_COORDINATOR if over:
            orders.append(Order.KILL_COORDINATOR)
        case _:
            pass
    return drain
