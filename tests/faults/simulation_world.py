"""The world around a node, without a process or a disk: it carries out effects, and checks each of them.

What it knows of runners it knows from the effects alone, as the real coordinator does; a runner here is a few words of
where an honest one would stand, so that the machine can let it go on, lie, or die.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from tests.faults.simulation_calls import Calls
from tests.faults.simulation_table import Table
from worker.core.changes import Result
from worker.core.clock import Now
from worker.core.commands import AddTask, Command, Done, Refused, Reply, StopTask, WatchTask
from worker.core.effects import (
    Answer,
    AnswerStats,
    CancelArtifact,
    CancelFetch,
    CloseRunner,
    Commit,
    Effect,
    GiveJob,
    InterruptJob,
    KillRunner,
    PrepareArtifact,
    RemoveModule,
    StartFetch,
    StartRunner,
    StartServer,
)
from worker.core.jobs import JobSettings
from worker.core.node import Node, NodeSettings
from worker.core.task import Isolation, Task

SLOTS = 3
LAZY_COMMIT_US = 40_000
SETTINGS = NodeSettings(
    JobSettings(SLOTS, init_us=5_000_000, stop_grace_us=1_000_000, idle_us=10_000_000, max_jobs_per_runner=3),
    max_queued=6,
    max_open_per_token=8,
)


@dataclass
class FakeRunner:
    """One process. `phase`: asked, born, ready, running, over (its one job is done). `jobs` waits in its socket."""

    id: int
    slot: int
    warm: bool
    jobs: deque[tuple[Task, int]] = field(default_factory=deque)
    phase: str = "asked"
    job: tuple[Task, int] | None = None
    closed: bool = False
    interrupted: bool = False
    killed: bool = False
    service: str | None = None  # whose calls it answers; it has no job then
    deadline_us: int = 0  # of the call that it is at, as its record tells it
    calls: int = 0
    told: bool = False  # to end after its call
    lied: bool = False  # so that where it stands isn't where the node thinks that it does


class World:
    """A node, the disk, the processes, the fetches and the artifacts; and who asked what, and was told what."""

    def __init__(self, modules: set[str]) -> None:
        self.now = Now(1_700_000_000_000_000, 1_000_000)
        self.table = Table(modules)
        self.runners: dict[int, FakeRunner] = {}
        self.calls = Calls(self.runners)
        self.reaped: set[int] = set()
        self.artifacts: set[str] = set()
        self.asked: dict[str, Command] = {}  # who waits for an answer
        self.told: dict[str, Reply | None] = {}
        self.accepted: set[str] = set()
        self.commits: deque[Commit] = deque()  # submitted, not yet on disk
        self.results: deque[tuple[int, Result]] = deque()  # on disk, not yet told
        self.settings = SETTINGS
        self.begin()

    def begin_lazily(self) -> None:
        """A node again, from the start, that lets a change wait that nobody waits for."""
        self.settings = replace(SETTINGS, lazy_commit_us=LAZY_COMMIT_US)
        self.begin()

    def begin(self) -> None:
        self.reaped.clear()
        self.gathering = 0  # how many more events come before the node's effects are carried out
        self.node = Node(self.settings)
        self.fetching: dict[str, Task] = {}
        self.preparing: set[str] = set()
        modules = sorted(self.table.modules)
        begun = frozenset(self.table.ran)
        self.node.restore(self.table.unfinished(), modules, self.now, begun, self.table.functions_in_order())
        self.settle()

    # -- what the machine lets happen --------------------------------------------------------------------------------

    def ask(self, origin: str, command: Command) -> None:
        assert origin not in self.asked
        expired = command.expires_at_us != 0 and command.expires_at_us <= self.now.monotonic_us
        if not expired:
            self.asked[origin] = command
        self.node.command(origin, command, self.now)
        self.settle()

    def crash(self) -> None:
        """The coordinator dies, its runners with it; a new one reads the table."""
        self.commits.clear()
        self.results.clear()
        self.runners.clear()
        self.calls.clear()
        self.artifacts.clear()
        self.asked.clear()
        self.begin()

    def pass_time(self, us: int, wall_jump_us: int = 0) -> None:
        self.now = Now(max(0, self.now.wall_us + us + wall_jump_us), self.now.monotonic_us + us)
        self.node.tick(self.now)
        self.settle()

    def write(self, count: int, full: bool) -> None:
        """The disk does the next few commits, in order; nobody is told yet."""
        for _ in range(min(count, len(self.commits))):
            commit = self.commits.popleft()
            self.results.append((commit.ticket, self.table.apply(commit.change, full)))

    def tell(self, count: int) -> None:
        for _ in range(min(count, len(self.results))):
            ticket, result = self.results.popleft()
            self.node.committed(ticket, result, self.now)
        self.settle()

    # -- the hands ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out what the node wants until it wants nothing more; later, while a round of events is gathered."""
        self.gathering = max(0, self.gathering - 1)
        if self.gathering:
            return
        rounds = 0
        while effects := self.node.take_effects(self.now):
            rounds += 1
            assert rounds < 50, f"the node never rests: {effects}"
            for effect in effects:
                self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Commit():
                self.commits.append(effect)
            case Answer(origin, reply):
                self._answer(str(origin), reply)
            case AnswerStats(origin):
                self._answer(str(origin), Done(body=b"{}"))
            case StartFetch(task):
                assert task.id not in self.fetching
                self.fetching[task.id] = task
            case CancelFetch(task_id):
                self.fetching.pop(task_id, None)  # it may be over: its module is on the way to the disk
            case PrepareArtifact(digest):
                assert digest not in self.preparing, "two compilers for one module"
                self.preparing.add(digest)
            case CancelArtifact(digest):
                self.preparing.discard(digest)  # it may have come in the same round
            case RemoveModule(digest):
                self.table.files.discard(digest)
                self._evict(digest)
            case _:
                self._perform_on_runner(effect)

    def _perform_on_runner(self, effect: Effect) -> None:
        if self.calls.perform(effect, self._sampled, self._asked):
            return
        if not isinstance(effect, StartRunner | StartServer) and getattr(effect, "runner_id", None) in self.reaped:
            return  # it went by itself in the same round
        match effect:
            case StartRunner(runner_id, slot, task, job_id):
                assert task.spec.digest in self.artifacts, "a runner without its artifact"
                assert slot not in {runner.slot for runner in self.runners.values()}, "two runners in one slot"
                assert runner_id not in self.runners
                runner = FakeRunner(runner_id, slot, task.spec.isolation is Isolation.INSTANCE)
                runner.jobs.append((task, job_id))
                self.runners[runner_id] = runner
            case StartServer(runner_id, slot, task):
                assert task.spec.digest in self.artifacts, "a runner without its artifact"
                assert slot not in {runner.slot for runner in self.runners.values()}, "two runners in one slot"
                assert runner_id not in self.runners
                assert task.id in self.calls.queues, "a runner without its listener"
                self.runners[runner_id] = FakeRunner(runner_id, slot, warm=False, service=task.id)
            case GiveJob(runner_id, task, job_id):
                runner = self.runners[runner_id]
                ends, busy = runner.closed or runner.killed, bool(runner.jobs) or runner.job is not None
                assert not ends, "a job for a runner that ends"
                assert runner.lied or not busy, "a job for a busy runner"
                runner.jobs.append((task, job_id))
            case InterruptJob(runner_id):
                runner = self.runners[runner_id]
                assert runner.lied or not runner.interrupted, "a grace that moves"
                runner.interrupted = True
            case CloseRunner(runner_id):
                assert not self.runners[runner_id].closed
                self.runners[runner_id].closed = True
            case KillRunner(runner_id):
                assert not self.runners[runner_id].killed
                self.runners[runner_id].killed = True
            case _:
                raise AssertionError(f"nobody carries out {effect}")

    def _sampled(self, task_id: str, queued: int, busy: dict[int, int], calls: int) -> None:
        self.node.services.sampled(task_id, queued, busy, calls, self.now)

    def _asked(self, task_id: str, runner_id: int | None) -> None:
        self.node.traffic.retire_asked(task_id, runner_id, self.now)

    def _evict(self, digest: str) -> None:
        if digest in self.artifacts:
            self.artifacts.discard(digest)
            self.node.artifact_evicted(digest)

    def _answer(self, origin: str, reply: Reply) -> None:
        """An answer comes once, to one who waits for it, and what it says is on disk."""
        command = self.asked.pop(origin, None)
        assert command is not None, f"{origin} was answered and wasn't waiting"
        self.told[origin] = reply
        if isinstance(reply, Refused):
            return
        row = self.table.rows.get(reply.task_id)
        match command:
            case AddTask():
                assert row is not None, "201 for a task that isn't on disk"
                if reply.created:
                    assert reply.task_id == command.task_id
                    self.accepted.add(reply.task_id)
            case StopTask():
                assert row is None or row.task.final or row.task.status.stopping, "204 for a stop that isn't on disk"
            case WatchTask():
                assert not reply.created or row is None or row.task.final, "told that it ended, and it hasn't"
            case _:
                pass
