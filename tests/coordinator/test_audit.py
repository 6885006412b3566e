"""The audit as a table: two views that agree, and whatever can be broken in one, by the name it is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.coordinator.audit import CHECKS, Child, CoreView, Process, Runner, SystemView, checked, differences
from worker.core.task import State

PID = 100
ZYGOTE, FIRST, SECOND = 101, 102, 103
TABLE = "/data/table.sqlite"
CORE = CoreView(
    slots=4,
    slots_free=2,
    memory_bytes=1000,
    memory_free_bytes=700,
    runners={1: Runner(0, 100, FIRST, 60_000), 2: Runner(3, 200, SECOND, 60_003)},
    processes=frozenset({1, 2}),
    tasks={"t1": State.RUNNING, "t2": State.PENDING},
    children={ZYGOTE: Child("the zygote"), FIRST: Child("runner 1"), SECOND: Child("runner 2")},
    uids=range(60_000, 60_006),
    fds={3: "inherited", 4: "the loop's epoll", 9: "the artifact of m"},
    targets={TABLE: 1},
    threads_files=("/data/", "/memfd:artifact"),
    listening=frozenset({"s1"}),
    artifact_bytes=50,
    artifact_sizes={"m": 50},
)
SYSTEM = SystemView(
    pid=PID,
    processes={ZYGOTE: Process(PID, 0), FIRST: Process(PID, 60_000), SECOND: Process(PID, 60_003)},
    fds={3: "pipe:[1]", 4: "anon_inode:[eventpoll]", 9: "/memfd:artifact (deleted)", 12: TABLE},
    tasks={"t1": State.RUNNING, "t2": State.PENDING},
    counters={State.RUNNING: 1, State.PENDING: 1},
    listeners=frozenset({"s1"}),
    cgroup=frozenset({ZYGOTE, FIRST, SECOND}),
)


def without(mapping: Any, key: Any) -> dict[Any, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def with_process(pid: int, process: Process) -> SystemView:
    return replace(SYSTEM, processes={**SYSTEM.processes, pid: process})


def test_views_that_agree_have_no_difference() -> None:
    assert [] == differences(CORE, SYSTEM)


BROKEN: dict[str, tuple[CoreView, SystemView, str]] = {
    "a slot that nobody has": (replace(CORE, slots_free=1), SYSTEM, "slots_miscounted"),
    "two runners in a slot": (
        replace(CORE, runners={**CORE.runners, 2: Runner(0, 200, SECOND, 60_003)}),
        SYSTEM,
        "slot_shared",
    ),
    "a slot that there isn't": (
        replace(CORE, runners={**CORE.runners, 2: Runner(4, 200, SECOND, 60_003)}),
        SYSTEM,
        "slot_shared",
    ),
    "memory that was not given back": (replace(CORE, memory_free_bytes=600), SYSTEM, "memory_miscounted"),
    "an artifact that was counted twice": (replace(CORE, artifact_bytes=100), SYSTEM, "artifacts_miscounted"),
    "a runner without a process": (replace(CORE, processes=frozenset({1})), SYSTEM, "runner_without_process"),
    "a process without a runner": (replace(CORE, processes=frozenset({1, 2, 3})), SYSTEM, "process_without_runner"),
    "a runner with another's uid": (CORE, with_process(FIRST, Process(PID, 60_001)), "runner_uid"),
    "a child that nobody knows": (CORE, with_process(104, Process(PID, 0)), "child_unknown"),
    "more children than are being born": (
        replace(CORE, births=1),
        replace(SYSTEM, processes={**SYSTEM.processes, 104: Process(PID, 0), 105: Process(PID, 0)}),
        "child_unknown",
    ),
    "a zombie that nobody reaps": (CORE, with_process(104, Process(PID, 60_001, "Z")), "zombie"),
    "a child that is gone": (CORE, replace(SYSTEM, processes=without(SYSTEM.processes, ZYGOTE)), "child_missing"),
    "an end that nobody hears of": (
        replace(CORE, children={**CORE.children, FIRST: Child("runner 1", watched=False)}),
        SYSTEM,
        "child_unwatched",
    ),
    "somebody else with a runner's uid": (CORE, with_process(500, Process(1, 60_005)), "uid_foreign"),
    "somebody else in the cgroup": (
        CORE,
        replace(SYSTEM, cgroup=frozenset({ZYGOTE, 500}), processes={**SYSTEM.processes, 500: Process(1, 0)}),
        "cgroup_foreign",
    ),
    "somebody in the cgroup who is gone": (CORE, replace(SYSTEM, cgroup=frozenset({500})), "cgroup_foreign"),
    "a row that nobody works on": (
        CORE,
        replace(SYSTEM, tasks={**SYSTEM.tasks, "t3": State.RUNNING}, counters={State.RUNNING: 2, State.PENDING: 1}),
        "task_forgotten",
    ),
    "a task without a row": (replace(CORE, tasks={**CORE.tasks, "t3": State.PENDING}), SYSTEM, "task_without_row"),
    "a row that is behind": (replace(CORE, tasks={**CORE.tasks, "t2": State.SCHEDULED}), SYSTEM, "task_state"),
    "a counter that is wrong": (CORE, replace(SYSTEM, counters={State.RUNNING: 1, State.PENDING: 2}), "counter"),
    "a counter of none": (
        CORE,
        replace(SYSTEM, counters={**SYSTEM.counters, State.SCHEDULED: 1}),
        "counter",
    ),
    "a service that can't be reached": (CORE, replace(SYSTEM, listeners=frozenset()), "listener_missing"),
    "a socket that nobody listens on": (CORE, replace(SYSTEM, listeners=frozenset({"s1", "s2"})), "listener_left"),
    "a descriptor that nobody has": (CORE, replace(SYSTEM, fds={**SYSTEM.fds, 20: "pipe:[9]"}), "descriptor_unknown"),
    "one more of a file than may be open": (
        CORE,
        replace(SYSTEM, fds={**SYSTEM.fds, 20: TABLE}),
        "descriptor_unknown",
    ),
    "a file that a thread forgot": (
        CORE,
        replace(SYSTEM, fds={**SYSTEM.fds, 20: "/data/blobs/out/00/x.stdout"}),
        "descriptor_unknown",
    ),
    "a leak while the disk is busy": (
        replace(CORE, disk_busy=True),
        replace(SYSTEM, fds={**SYSTEM.fds, 20: "socket:[4]"}),
        "descriptor_unknown",
    ),
    "a descriptor that somebody else closed": (
        CORE,
        replace(SYSTEM, fds=without(SYSTEM.fds, 9)),
        "descriptor_closed",
    ),
    "a temporary blob that nobody wants": (CORE, replace(SYSTEM, blobs=frozenset({"ab"})), "blob_left"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named_and_nothing_else_is(what: str) -> None:
    core, system, kind = BROKEN[what]
    assert {kind} == {difference.kind for difference in differences(core, system)}


IN_FLIGHT: dict[str, tuple[CoreView, SystemView]] = {
    "a runner that is being born, before we are told": (
        replace(CORE, births=1, runners={**CORE.runners, 2: Runner(3, 200)}, children=without(CORE.children, SECOND)),
        SYSTEM,
    ),
    "a runner that is asked for and not forked": (
        replace(CORE, births=1, runners={**CORE.runners, 2: Runner(3, 200)}, children=without(CORE.children, SECOND)),
        replace(SYSTEM, processes=without(SYSTEM.processes, SECOND), cgroup=frozenset({ZYGOTE, FIRST})),
    ),
    "a runner that has no uid of its own yet": (
        replace(CORE, runners={**CORE.runners, 2: Runner(3, 200, SECOND)}),
        with_process(SECOND, Process(PID, 0)),
    ),
    "a runner that has just died": (CORE, with_process(SECOND, Process(PID, 60_003, "Z"))),
    "what the probe has left to the machine": (CORE, with_process(500, Process(1, 60_000, "Z"))),
    "the probe at its trials": (replace(CORE, probing=True), with_process(500, Process(ZYGOTE, 60_000))),
    "a row whose next state is on its way": (
        replace(CORE, tasks={**CORE.tasks, "t2": State.SCHEDULED}, unsettled=frozenset({"t2"})),
        SYSTEM,
    ),
    "an end that is on its way": (replace(CORE, tasks=without(CORE.tasks, "t2"), unsettled=frozenset({"t2"})), SYSTEM),
    "a row that is there before we are told": (
        replace(CORE, unsettled=frozenset({"t3"})),
        replace(SYSTEM, tasks={**SYSTEM.tasks, "t3": State.PENDING}, counters={State.RUNNING: 1, State.PENDING: 2}),
    ),
    "a file that the commit thread syncs": (
        replace(CORE, disk_busy=True),
        replace(SYSTEM, fds={**SYSTEM.fds, 20: "/data/blobs/out/00/x.stdout", 21: "/memfd:artifact (deleted)"}),
    ),
    "a blob that a change names": (
        replace(CORE, blobs=frozenset({"ab"})),
        replace(SYSTEM, blobs=frozenset({"ab"})),
    ),
    "a worker without a cgroup": (CORE, replace(SYSTEM, cgroup=None)),
}


@pytest.mark.parametrize("what", IN_FLIGHT)
def test_what_may_be_in_flight_is_no_difference(what: str) -> None:
    assert [] == differences(*IN_FLIGHT[what])


def test_every_check_is_broken_by_some_case() -> None:
    for check in CHECKS:
        assert any(list(check(core, system)) for core, system, _ in BROKEN.values()), check


def test_it_tells_how_much_it_compared() -> None:
    counts = checked(CORE, SYSTEM)
    assert (4, 2, 3, 3, 2, 4, 1, 1, 3) == tuple(
        counts[name]
        for name in (
            *("slots", "runners", "children", "processes", "tasks", "descriptors", "listeners", "artifacts", "cgroup"),
        )
    )
