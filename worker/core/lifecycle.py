"""The states of a task and every way between them, as data, and the one function that walks it.

pending ---> scheduled ---> running ---> completed
   |            |    \\        |  |
   |            |     `-------|--|----> failed
   `------------|-------------'--'        ^
                `-------------------------'     (Recovered alone leads back: scheduled, running -> pending)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from worker.core.changes import Note
from worker.core.clock import Now
from worker.core.errors import IllegalReason, IllegalTransition
from worker.core.events import (
    Ended,
    ModuleFetched,
    Recovered,
    RunnerStarted,
    ServiceReady,
    SlotAssigned,
    StopRequested,
    TaskEvent,
)
from worker.core.task import Reason, State, Status, Task, Usage

# Where each event may happen. What isn't here is illegal, raises, and changes nothing.
HAPPENS_IN: Mapping[type[TaskEvent], frozenset[State]] = {
    ModuleFetched: frozenset({State.PENDING}),
    SlotAssigned: frozenset({State.PENDING}),
    RunnerStarted: frozenset({State.SCHEDULED}),
    ServiceReady: frozenset({State.SCHEDULED}),
    StopRequested: frozenset({State.PENDING, State.SCHEDULED, State.RUNNING}),
    Ended: frozenset({State.PENDING, State.SCHEDULED, State.RUNNING}),
    Recovered: frozenset({State.SCHEDULED, State.RUNNING}),
}

# With which reasons a task may end from each state. `lost` before running: the worker died while it made the runner.
_BEFORE_ARTIFACT = frozenset({Reason.FETCH_FAILED, Reason.COMPILE_FAILED, Reason.REFUSED, Reason.STOPPED})
# How else a service may end that is scheduled: its first runner tries an instance before it is ready.
TRIED = frozenset(
    {
        Reason.TRAP,
        Reason.FUEL,
        Reason.DEADLINE,
        Reason.OOM_GUEST,
        Reason.OUTPUT_LIMIT,
        Reason.NONZERO_EXIT,
        Reason.KILLED_DEADLINE,
    }
)
ENDS_WITH: Mapping[State, frozenset[Reason]] = {
    State.PENDING: _BEFORE_ARTIFACT | {Reason.LINK_FAILED},
    State.SCHEDULED: frozenset(
        {
            Reason.STOPPED,
            Reason.LINK_FAILED,
            Reason.INIT_FAILED,
            Reason.CRASHED,
            Reason.OOM_KERNEL,
            Reason.LOST,
            Reason.REFUSED,
        }
    )
    | TRIED,
    State.RUNNING: frozenset(Reason) - _BEFORE_ARTIFACT | {Reason.STOPPED},
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
}

SHORT_DIGEST = 12  # hex digits of a module's digest that name a task which has no other name

# The reasons that mean success; `stopped` does only for a task that was running.
COMPLETES = frozenset({Reason.EXIT})


def step(task: Task, event: TaskEvent, now: Now) -> tuple[Task, tuple[Note, ...]]:
    """What `event` makes of `task`: the task after it, and the notes for its record.

    Raises:
        IllegalTransition: the event can't happen in the task's state.
        IllegalReason: the task can't end from its state with that reason.
    """
    state = task.status.state
    allowed = HAPPENS_IN[type(event)]
    if state not in allowed:
        raise IllegalTransition(state, type(event).__name__, tuple(sorted(allowed)))
    match event:
        case ModuleFetched():
            return _fetched(task, event, now)
        case SlotAssigned():
            status = _move(task, State.SCHEDULED, scheduled_at_us=now.wall_us)
            return _noted(task, status, now, "slot_assigned")
        case RunnerStarted():
            status = _move(task, State.RUNNING, started_at_us=now.wall_us, runner=event.runner)
            return _noted(task, status, now, "runner_started", f"pid {event.runner.pid}, uid {event.runner.uid}")
        case ServiceReady():
            return _noted(task, _move(task, State.RUNNING, started_at_us=now.wall_us), now, "service_ready")
        case StopRequested():
            return _stop(task, now)
        case Ended():
            return _end(task, event, now)
        case Recovered():
            status = _move(
                task,
                State.PENDING,
                attempts=task.status.attempts + 1,
                runner=None,
                scheduled_at_us=None,
                started_at_us=None,
            )
            return _noted(task, status, now, "recovered", f"attempt {status.attempts}")
        case _:
            assert_never(event)


def end_state(state: State, reason: Reason) -> State:
    """COMPLETED or FAILED, for a task that ends from `state` with `reason`."""
    if reason in COMPLETES or (reason is Reason.STOPPED and state is State.RUNNING):
        return State.COMPLETED
    return State.FAILED


def transitions() -> dict[State, frozenset[State]]:
    """Which state can follow which, worked out from the tables above; the README's diagram is drawn from it."""
    follows: dict[State, set[State]] = {state: set() for state in State}
    for state in State:
        follows[state] |= {end_state(state, reason) for reason in ENDS_WITH[state]}
    follows[State.PENDING].add(State.SCHEDULED)
    follows[State.SCHEDULED].add(State.RUNNING)
    for state in HAPPENS_IN[Recovered]:
        follows[state].add(State.PENDING)
    return {state: frozenset(after) for state, after in follows.items()}


def _move(task: Task, state: State, **fields: object) -> Status:
    return replace(task.status, state=state, previous_state=task.status.state, **fields)  # type: ignore[arg-type]


def _noted(
    task: Task, status: Status, now: Now, event: str, detail: str | None = None
) -> tuple[Task, tuple[Note, ...]]:
    note = Note(now.wall_us, event, status.state, status.reason, detail)
    return replace(task, status=status), (note,)


def _fetched(task: Task, event: ModuleFetched, now: Now) -> tuple[Task, tuple[Note, ...]]:
    entry = task.spec.entry
    if entry is not None and event.params is not None:
        entry = replace(entry, params=event.params)
    service = task.spec.service
    if service is not None and event.signature is not None:
        params, results = event.signature
        service = replace(service, handler=replace(service.handler, params=params, results=results))
    name = task.spec.name or event.digest.removeprefix("sha256:")[:SHORT_DIGEST]
    fetched = replace(task, spec=replace(task.spec, digest=event.digest, entry=entry, name=name, service=service))
    return _noted(fetched, task.status, now, "module_fetched", event.digest)


def _stop(task: Task, now: Now) -> tuple[Task, tuple[Note, ...]]:
    if task.status.stopping:
        return task, ()
    if task.status.state is State.RUNNING:
        return _noted(task, replace(task.status, stopping=True), now, "stop_requested")
    return _end(task, Ended(Reason.STOPPED, detail=f"stopped while {task.status.state}"), now)


def _end(task: Task, event: Ended, now: Now) -> tuple[Task, tuple[Note, ...]]:
    before = task.status
    if event.reason not in ENDS_WITH[before.state]:
        allowed = tuple(sorted(ENDS_WITH[before.state]))
        raise IllegalReason(before.state, event.reason, allowed)
    after = end_state(before.state, event.reason)
    status = _move(
        task,
        after,
        reason=event.reason,
        trap_code=event.trap_code,
        signal=event.signal,
        exit_code=event.exit_code,
        result=event.result,
        detail=event.detail,
        truncated=event.truncated,
        usage=_usage(task, event.usage, now),
        runner=None,
        stopping=False,
        finished_at_us=now.wall_us,
    )
    return _noted(task, status, now, "ended", event.detail)


def _usage(task: Task, usage: Usage, now: Now) -> Usage:
    """The wall clock may have jumped between the two points, so a negative span is told as zero."""
    queue_us = usage.queue_us
    if queue_us is None and task.status.scheduled_at_us is not None:
        queue_us = max(0, task.status.scheduled_at_us - task.created_at_us)
    return replace(usage, wall_us=max(0, now.wall_us - task.created_at_us), queue_us=queue_us)
