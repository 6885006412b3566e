"""How many runners each revision of a function has, and who gives up its own for whom. Pure policy over figures.

Who gets the free slots, in this order:
1. the first runner of a revision that is being deployed or has calls waiting, and the first of the jobs where none
   runs: who waits longest first. They may use every slot, and have others give up theirs;
2. jobs that wait;
3. second and further runners: to a revision's minimum, then where calls wait and every runner is busy.
2 and 3 leave a reserve as long as some revision has no runner, so that busy ones don't shut it out.

Who gives up, in this order: a warm runner without a job, an idle runner of a revision above its minimum (longest idle
first), any idle runner, then one of the revision that has most, once its call is over. For 2 and 3 only the first two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BACKOFF_FIRST_US = 100_000
BACKOFF_MOST_US = 30_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """One revision. `retiring` of the serving ones were told to end; `since_us`: since when it has waited, or idled."""

    id: str
    memory_bytes: int = 0
    min: int = 0
    max: int = 4
    serving: int = 0
    starting: int = 0
    busy: int = 0
    retiring: int = 0
    queued: int = 0
    since_us: int = 0
    deploying: bool = False  # it wants a first runner though no call waits
    may_start: bool = True  # it has its artifact, and doesn't back off
    may_grow: bool = False  # its figures are newer than its last start

    @property
    def staying(self) -> int:
        return max(0, self.serving + self.starting - self.retiring)

    @property
    def idle(self) -> int:
        return max(0, self.serving - self.busy - self.retiring)


@dataclass(frozen=True, slots=True)
class Room:
    """What the node has free, what comes free by itself (`coming` slots), and the jobs that want it too."""

    slots: int = 0
    memory_bytes: int = 2**62
    reserve: int = 0
    coming: int = 0
    jobs_waiting: int = 0
    jobs_running: int = 0
    jobs_idle: int = 0  # warm runners without a job
    job_memory_bytes: int = 0  # of the job whose turn it is
    job_since_us: int = 0  # since when it has waited


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: a runner for each of `start` (the revision's id), one less for each of `retire`.

    `jobs` is how many slots the jobs may take now, `close_idle_jobs` how many warm ones they give up.
    """

    start: tuple[str, ...] = ()
    jobs: int = 0
    retire: tuple[str, ...] = ()
    close_idle_jobs: int = 0


JOBS = ""  # the jobs' id among the claims


def reserve(slots: int, asleep: int) -> int:
    """How many slots stay free for first runners, where `asleep` revisions have none."""
    return min(asleep, slots - 1, max(1, slots // 8))


def backoff_us(failures: int) -> int:
    """How long a revision waits after its `failures`th runner in a row that could not start."""
    return min(BACKOFF_MOST_US, BACKOFF_FIRST_US << min(failures - 1, 30))


def wants_first(load: Load) -> bool:
    waits = load.deploying or load.queued > 0
    return load.may_start and waits and not load.serving + load.starting


def wants_more(load: Load) -> bool:
    """Whether it has too few for its minimum, or for what waits. One at a time, and no more than calls wait."""
    has = load.serving + load.starting
    if not load.may_start or has >= load.max or wants_first(load):
        return False
    return _below_min(load) or (has > 0 and load.may_grow and not load.idle and load.starting < load.queued)


def surplus(load: Load, most_busy: int) -> int:
    """How many it can do without, where at most `most_busy` were in use for as long as one may idle."""
    return max(0, load.serving - load.retiring - max(load.min, most_busy))


def plan(loads: Sequence[Load], room: Room) -> Plan:
    """Give out the slots that are free, and say who gives up one."""
    slots, memory = room.slots, room.memory_bytes
    start: list[str] = []
    jobs = 0
    firsts = _firsts(loads, room)
    for count, (_, id_, needs) in enumerate(firsts):
        if slots < 1 or needs > memory:  # nobody behind it may take what it waits for
            needed = len(firsts) - count - room.coming
            return Plan(tuple(start), jobs, *_given_up(loads, room, needed, all_give=True))
        slots, memory = slots - 1, memory - needs
        if id_ == JOBS:
            jobs = 1
        else:
            start.append(id_)
    waiting = room.jobs_waiting - jobs
    jobs += max(0, slots - room.reserve)
    slots -= waiting + room.reserve
    memory -= room.job_memory_bytes if waiting else 0
    short = waiting > 0 and (slots < 0 or memory < 0)
    for load in sorted(filter(wants_more, loads), key=lambda load: (not _below_min(load), load.since_us)):
        if slots < 1 or load.memory_bytes > memory:
            short = True
            break
        slots, memory = slots - 1, memory - load.memory_bytes
        start.append(load.id)
    return Plan(tuple(start), jobs, *_given_up(loads, room, short - room.coming))


def _firsts(loads: Sequence[Load], room: Room) -> list[tuple[int, str, int]]:
    """(since when, id, memory) of those who go first."""
    firsts = [(load.since_us, load.id, load.memory_bytes) for load in loads if wants_first(load)]
    if room.jobs_waiting and not room.jobs_running:
        firsts.append((room.job_since_us, JOBS, room.job_memory_bytes))
    return sorted(firsts)


def _below_min(load: Load) -> bool:
    return load.staying < load.min


def _given_up(loads: Sequence[Load], room: Room, needed: int, all_give: bool = False) -> tuple[tuple[str, ...], int]:
    """Plan's `retire` and `close_idle_jobs`: `needed` slots come free, as far as there is who can give."""
    if needed < 1:
        return (), 0
    jobs = min(needed, room.jobs_idle)
    donors = _donors(loads, all_give)
    return tuple(id_ for _, id_ in zip(range(needed - jobs), donors, strict=False)), jobs


def _donors(loads: Sequence[Load], all_give: bool) -> Iterable[str]:
    """Who gives up a runner next, again and again."""
    rest = {load.id: [load.idle, load.staying, load.min] for load in loads if not load.queued}
    idle = sorted((load for load in loads if load.idle and not load.queued), key=lambda load: load.since_us)
    for above_min in (True, False) if all_give else (True,):
        for load in idle:
            has = rest[load.id]
            while has[0] and (has[1] > has[2] or not above_min):
                has[0], has[1] = has[0] - 1, has[1] - 1
                yield load.id
    if all_give:
        busy = [load for load in loads if load.serving - load.retiring > 1]
        largest = max(busy, key=lambda load: load.serving - load.retiring, default=None)
        if largest is not None and not rest.get(largest.id, [0])[0]:
            yield largest.id
