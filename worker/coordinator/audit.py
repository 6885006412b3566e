"""The audit: what the coordinator knows compared with what is there. Pure: two views of one moment in, words out.

Both are taken in one turn of the loop, when nothing that the core wanted is left undone. The world goes on meanwhile,
so that what may happen to it without the coordinator's doing is no difference: a child that the zygote has forked and
not yet told of (`births`), one that has died and isn't reaped yet, a row whose next state is on its way to the disk, a
file that one of the disk's threads has open for a moment (`disk_busy`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.core.task import State


class Difference(NamedTuple):
    """`kind` is stable and tells which check found it, `detail` names what, for people."""

    kind: str
    detail: str


class Child(NamedTuple):
    """A process that the coordinator knows as its own: what it is, and whether its end is listened for."""

    what: str
    watched: bool = True


class Runner(NamedTuple):
    """A runner of the pool. `pid` 0: not born yet; `uid` None: not told yet, or not its own."""

    slot: int
    memory_bytes: int
    pid: int = 0
    uid: int | None = None


class Process(NamedTuple):
    """A process of the system, as /proc has it. `state` is its letter, Z a zombie."""

    parent: int
    uid: int
    state: str = "S"


@dataclass(frozen=True, slots=True)
class CoreView:
    """What the coordinator knows.

    Args:
        runners: the pool's, by id; `processes` are the ids of those that there is a process for, born or being born.
        tasks: those that are alive; `unsettled`: whose row is being written, also of tasks that have just ended.
        children: by pid; `births`: how many were asked of the zygote and not answered yet.
        fds: the descriptors that somebody has; `targets`: how many more may be open of each file.
        threads_files: prefixes of what the disk's threads open for a moment.
        listening: services whose calls are taken.
        blobs: temporary blobs that a change on its way to the disk names.
        uids: the runners' range; probing: the seal is being probed, by processes with such uids.
    """

    slots: int = 0
    slots_free: int = 0
    memory_bytes: int = 0
    memory_free_bytes: int = 0
    runners: Mapping[int, Runner] = field(default_factory=dict)
    processes: frozenset[int] = frozenset()
    tasks: Mapping[str, State] = field(default_factory=dict)
    unsettled: frozenset[str] = frozenset()
    children: Mapping[int, Child] = field(default_factory=dict)
    births: int = 0
    probing: bool = False
    uids: range = range(0)
    fds: Mapping[int, str] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    threads_files: tuple[str, ...] = ()
    disk_busy: bool = False
    listening: frozenset[str] = frozenset()
    artifact_bytes: int = 0
    artifact_sizes: Mapping[str, int] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SystemView:
    """What is there.

    Args:
        pid: the coordinator's own.
        processes: its children, and whatever has a uid of the runners' range, by pid.
        fds: the coordinator's open descriptors and what they are, as /proc names it.
        tasks: of the table, those that aren't final; `counters`: how many of each it says there are.
        listeners: names of the listening sockets in the directory of calls.
        blobs: temporary blobs that nobody holds.
        cgroup: the pids in the runners' cgroup; None without one.
    """

    pid: int = 1
    processes: Mapping[int, Process] = field(default_factory=dict)
    fds: Mapping[int, str] = field(default_factory=dict)
    tasks: Mapping[str, State] = field(default_factory=dict)
    counters: Mapping[State, int] = field(default_factory=dict)
    listeners: frozenset[str] = frozenset()
    blobs: frozenset[str] = frozenset()
    cgroup: frozenset[int] | None = None


def differences(core: CoreView, system: SystemView) -> list[Difference]:
    """Everything in which the two don't agree, by check."""
    return [difference for check in CHECKS for difference in check(core, system)]


def checked(core: CoreView, system: SystemView) -> dict[str, int | None]:
    """How many of each were compared."""
    return {
        "slots": core.slots,
        "runners": len(core.runners),
        "children": len(core.children),
        "processes": len(system.processes),
        "tasks": len(system.tasks),
        "descriptors": len(system.fds),
        "listeners": len(system.listeners),
        "artifacts": len(core.artifact_sizes),
        "cgroup": None if system.cgroup is None else len(system.cgroup),
    }


# -- the checks --------------------------------------------------------------------------------------------------------


def slots(core: CoreView, _: SystemView) -> Iterator[Difference]:
    """Every slot is free or one runner's."""
    if core.slots_free + len(core.runners) != core.slots:
        detail = f"{core.slots_free} free and {len(core.runners)} runners are not {core.slots} slots"
        yield Difference("slots_miscounted", detail)
    taken = Counter(runner.slot for runner in core.runners.values())
    for slot, count in taken.items():
        if count > 1 or not 0 <= slot < core.slots:
            yield Difference("slot_shared", f"slot {slot} of {core.slots} has {count} runners")


def memory(core: CoreView, _: SystemView) -> Iterator[Difference]:
    """What the pool has given away is what its runners may have."""
    limits = sum(runner.memory_bytes for runner in core.runners.values())
    counted = core.memory_bytes - core.memory_free_bytes
    if limits != counted:
        yield Difference("memory_miscounted", f"the runners' limits are {limits} bytes, the pool counts {counted}")
    sizes = sum(core.artifact_sizes.values())
    if sizes != core.artifact_bytes:
        yield Difference(
            "artifacts_miscounted", f"artifacts take {sizes} bytes, the cache counts {core.artifact_bytes}"
        )


def runners(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """Every runner has its process, with its uid, and every such process its runner."""
    for runner_id in core.runners.keys() - core.processes:
        yield Difference("runner_without_process", f"runner {runner_id} in slot {core.runners[runner_id].slot}")
    for runner_id in core.processes - core.runners.keys():
        yield Difference("process_without_runner", f"runner {runner_id} has a process and no slot")
    for runner_id, runner in core.runners.items():
        process = system.processes.get(runner.pid)
        if process is not None and runner.uid is not None and process.uid != runner.uid:
            detail = f"runner {runner_id} (pid {runner.pid}) has uid {process.uid}, and should have {runner.uid}"
            yield Difference("runner_uid", detail)


def children(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """The coordinator's children are those that it knows, and it hears of the end of each."""
    ours = {pid: process for pid, process in system.processes.items() if process.parent == system.pid}
    unknown = sorted(ours.keys() - core.children.keys())
    for pid in unknown if len(unknown) > core.births else ():
        kind = "zombie" if ours[pid].state == "Z" else "child_unknown"
        yield Difference(kind, f"pid {pid}, uid {ours[pid].uid}; {core.births} are being born")
    for pid, child in core.children.items():
        if pid not in ours:
            yield Difference("child_missing", f"{child.what} (pid {pid}) is no child")
        if not child.watched:
            yield Difference("child_unwatched", f"nobody hears of the end of {child.what} (pid {pid})")


def uids(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """Nobody else who lives has a runner's uid: it could send a signal to one."""
    for pid, process in system.processes.items():
        lives = process.state != "Z"  # who reaps what the probe has left is the machine's matter
        if lives and process.uid in core.uids and process.parent != system.pid and not core.probing:
            yield Difference("uid_foreign", f"pid {pid} (a child of {process.parent}) has uid {process.uid}")


def cgroup(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """In the runners' cgroup are the coordinator's children alone."""
    if core.probing:
        return
    for pid in sorted((system.cgroup or frozenset()) - core.children.keys()):
        process = system.processes.get(pid)
        if process is None or process.parent != system.pid:  # one that is being born is a child
            yield Difference("cgroup_foreign", f"pid {pid}")


def tasks(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """Every unfinished row is a task that the core has alive, in the same state; the counters say as many."""
    for task_id, state in system.tasks.items():
        known = core.tasks.get(task_id)
        if known is not state and task_id not in core.unsettled:
            kind = "task_forgotten" if known is None else "task_state"
            yield Difference(kind, f"{task_id} is {state} in the table and {known or 'not alive'} here")
    for task_id in core.tasks.keys() - system.tasks.keys() - core.unsettled:
        yield Difference("task_without_row", f"{task_id} is {core.tasks[task_id]} here")
    rows = Counter(system.tasks.values())
    for state in rows.keys() | system.counters.keys():
        if rows[state] != system.counters.get(state, 0):
            yield Difference("counter", f"{rows[state]} tasks are {state}, counted {system.counters.get(state, 0)}")


def listeners(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """A service that takes calls has its socket in the directory, and nobody else."""
    for task_id in sorted(core.listening - system.listeners):
        yield Difference("listener_missing", f"service {task_id} takes calls and has no socket")
    for task_id in sorted(system.listeners - core.listening):
        yield Difference("listener_left", f"the socket of {task_id}, which takes no calls")


def descriptors(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """Every open descriptor is somebody's, and what somebody has is open."""
    unowned: dict[str, list[int]] = {}
    for fd in system.fds.keys() - core.fds.keys():
        unowned.setdefault(system.fds[fd], []).append(fd)
    for target, fds in unowned.items():
        if core.disk_busy and target.startswith(core.threads_files):
            continue
        for fd in sorted(fds)[core.targets.get(target, 0) :]:
            yield Difference("descriptor_unknown", f"{fd}: {target}")
    for fd in core.fds.keys() - system.fds.keys():
        yield Difference("descriptor_closed", f"{fd}, which is {core.fds[fd]}")


def blobs(core: CoreView, system: SystemView) -> Iterator[Difference]:
    """A temporary blob has a writer who holds it, or is named by what is on its way to the disk."""
    for name in sorted(system.blobs - core.blobs):
        yield Difference("blob_left", f"tmp/{name}")


CHECKS: tuple[Callable[[CoreView, SystemView], Iterator[Difference]], ...] = (
    slots,
    memory,
    runners,
    children,
    uids,
    cgroup,
    tasks,
    listeners,
    descriptors,
    blobs,
)
