"""The runners that live: each forked by the zygote, given its jobs, listened to, and told of to the core."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runner.protocol import LAYERS, PROFILE_FILES, PROFILE_RUNNER
from runner.protocol.control import encode_job, encode_load, encode_stop
from runner.protocol.spawn import Spawn
from runner.protocol.status import BYE, OUTCOME, READY, STARTED, Frame, decode_outcome, decode_ready, decode_started
from worker.coordinator import audit
from worker.coordinator.child import Child
from worker.coordinator.jobs import to_job, to_load, to_report
from worker.coordinator.poller import Poller
from worker.coordinator.want import Tries, is_passing
from worker.coordinator.zygote import FORK_ATTEMPTS, Failure, Zygote
from worker.core.clock import Now
from worker.core.node import Node
from worker.core.task import Isolation, Reason, Task
from worker.core.verdict import Exit
from worker.shared.blobs import Blobs

_LAYER_MASKS: dict[int, tuple[str, ...]] = {}


def layer_names(mask: int) -> tuple[str, ...]:
    """The names of the layers in READY's bit mask; one mask is made once, since nearly all runners have the same."""
    if mask not in _LAYER_MASKS:
        _LAYER_MASKS[mask] = tuple(name for index, name in enumerate(LAYERS) if mask >> index & 1)
    return _LAYER_MASKS[mask]


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """`uid_first` + slot is a runner's uid; 0: all have the coordinator's, since an ordinary user has no other."""

    uid_first: int
    max_jobs_per_runner: int


@dataclass(slots=True)
class Birth:
    """What it takes to make one runner, however often it is tried.

    Args:
        need: gives the descriptors that `tell` takes along, ours or another's, or raises OSError.
        tell: queues the first messages, which take along the descriptors that are held for it.
        gone: called when there is no process any more, or will be none: how many calls it says to have answered.
    """

    runner_id: int
    slot: int
    task: Task
    profile: int
    need: Callable[[], tuple[int, ...]]
    tell: Callable[[Child, tuple[int, ...]], None]
    gone: Callable[[], int] = lambda: 0
    fds: tuple[int, ...] = ()
    attempts: int = FORK_ATTEMPTS
    tries: Tries = field(default_factory=Tries)
    failed: Failure | None = None  # the last try, while the next one is waited for

    def let_go(self) -> None:
        """It is born, or will not be: nothing is held for it any more."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


class RunnerListener:
    """What one runner does, told to the core in its terms."""

    def __init__(self, birth: Birth, node: Node, clock: Callable[[], Now]) -> None:
        self._id = birth.runner_id
        self._gone = birth.gone
        self._node = node
        self._clock = clock

    def frame(self, frame: Frame) -> None:
        if frame.kind == READY:
            ready = decode_ready(frame.payload)
            self._node.runner_ready(self._id, ready.uid, layer_names(ready.layers), ready.load_us, self._clock())
        elif frame.kind == STARTED:
            self._node.job_started(self._id, decode_started(frame.payload), self._clock())
        elif frame.kind == OUTCOME:
            outcome = decode_outcome(frame.payload)
            self._node.job_reported(self._id, outcome.job_id, to_report(outcome), self._clock())
        elif frame.kind == BYE:
            self._node.runner_said_bye(self._id, self._clock())

    def broke_protocol(self, detail: str) -> None:
        self._node.misbehaved(self._id, detail)

    def exited(self, exit_: Exit) -> None:
        self._node.exited(self._id, exit_, self._clock(), self._gone())


class Runners:
    """All runner processes, by the id that the core gave them."""

    def __init__(
        self,
        settings: RunnerSettings,
        poller: Poller,
        zygote: Zygote,
        blobs: Blobs,
        node: Node,
        clock: Callable[[], Now],
    ) -> None:
        self._settings = settings
        self._poller = poller
        self._zygote = zygote
        self._blobs = blobs
        self._node = node
        self._clock = clock
        self._children: dict[int, Child] = {}
        self._births: dict[int, Birth] = {}  # of those that aren't born yet

    def __len__(self) -> int:
        return len(self._children)

    def pids(self) -> dict[int, int]:
        """Runner id -> pid, of those that are born."""
        return {runner_id: child.pid for runner_id, child in self._children.items() if child.born}

    def ids(self) -> frozenset[int]:
        """Of those that are born, being born, or to be tried again."""
        return frozenset((*self._children, *self._births))

    def children(self) -> dict[int, audit.Child]:
        """Those that are born, by pid, as the audit knows a child."""
        return {
            child.pid: audit.Child(f"runner {runner_id}", child.watched)
            for runner_id, child in self._children.items()
            if child.born
        }

    def fds(self) -> dict[int, str]:
        """Our descriptors of them, and what they are."""
        found = {}
        for runner_id, child in self._children.items():
            found.update(child.fds(f"runner {runner_id}"))
        for runner_id, birth in self._births.items():
            found.update(dict.fromkeys(birth.fds, f"runner {runner_id}: held for its birth"))
        return found

    def start(self, runner_id: int, slot: int, task: Task, job_id: int, artifact: Callable[[], int]) -> None:
        """Fork a runner for the task: its seal, its artifact and its first job are queued before it is born."""
        warm = task.spec.isolation is Isolation.INSTANCE
        load = encode_load(to_load(task, self._settings.max_jobs_per_runner if warm else 1))

        def tell(child: Child, fds: tuple[int, ...]) -> None:
            child.tell(load, list(fds))
            self._tell_job(child, task, job_id)

        profile = PROFILE_FILES if task.spec.mounts else PROFILE_RUNNER
        # Held until it is born: by another try the cache may have let go of its own.
        self.bear(Birth(runner_id, slot, task, profile, lambda: (artifact(),), tell))

    def bear(self, birth: Birth) -> None:
        """Fork a runner; where the machine lacks something for it, it is tried again until the core has it killed."""
        self._births[birth.runner_id] = birth
        self._start(birth)

    def give(self, runner_id: int, task: Task, job_id: int) -> None:
        """Give a warm runner its next job. One that can't be told is dead, or soon is: the job never began there."""
        child = self._children.get(runner_id)
        if child is None:
            return
        try:
            self._tell_job(child, task, job_id)
        except OSError:
            self._node.not_given(runner_id)

    def interrupt(self, runner_id: int) -> None:
        child = self._children.get(runner_id)
        if child is not None:
            with contextlib.suppress(OSError):
                child.tell(encode_stop())

    def close(self, runner_id: int) -> None:
        child = self._children.get(runner_id)
        if child is not None:
            child.hang_up()

    def kill(self, runner_id: int) -> None:
        child = self._children.get(runner_id)
        if child is not None:
            child.kill()
        elif (birth := self._births.get(runner_id)) is not None and birth.failed is not None:
            self._give_up(birth, birth.failed)

    # -- within ------------------------------------------------------------------------------------------------------

    def _start(self, birth: Birth) -> None:
        """One try."""
        runner_id = birth.runner_id
        birth.failed = None
        try:
            if not birth.fds:
                self._hold(birth)
            listener = RunnerListener(birth, self._node, self._clock)
            child = Child(self._poller, listener, lambda _: self._forget(runner_id))
        except OSError as error:
            self._failed(birth, _no_channel(error))
            return
        self._children[runner_id] = child

        def born(pid: int) -> None:
            self._let_go(birth)
            self._node.spawned(runner_id, pid)

        def failed(failure: Failure) -> None:
            begun = failure.unseen and child.started_unseen()
            child.close()
            del self._children[runner_id]
            if begun:
                self._give_up(birth, failure, Reason.LOST)
            elif child.unwanted:
                self._give_up(birth, failure)
            else:
                self._failed(birth, failure)

        try:
            birth.tell(child, birth.fds)
        except OSError as error:
            failed(_no_channel(error))
            return
        self._zygote.spawn(child, self._spawn_of(birth), born, failed)

    def _spawn_of(self, birth: Birth) -> Spawn:
        uid = self._settings.uid_first + birth.slot if self._settings.uid_first else 0
        mounts = birth.task.spec.mounts
        bound = tuple((mount.volume.encode(), mount.path.encode(), mount.mode == "ro") for mount in mounts)
        return Spawn(0, birth.profile, uid, uid, bound)

    def _hold(self, birth: Birth) -> None:
        """Have descriptors of our own of what it needs."""
        held: tuple[int, ...] = ()
        try:
            for fd in birth.need():
                held += (os.dup(fd),)
        except OSError:
            for fd in held:
                os.close(fd)
            raise
        birth.fds = held

    def _failed(self, birth: Birth, failure: Failure) -> None:
        """One try was in vain: another, now or later, or none."""
        birth.attempts -= failure.zygote_died
        if failure.passing:
            birth.failed = failure
            self._poller.later(birth.tries.next_wait_s(), lambda: self._start_again(birth))
        elif failure.zygote_died and birth.attempts:
            self._start(birth)
        else:
            self._give_up(birth, failure)

    def _start_again(self, birth: Birth) -> None:
        if self._births.get(birth.runner_id) is birth:  # else it was given up meanwhile
            self._start(birth)

    def _give_up(self, birth: Birth, failure: Failure, reason: Reason = Reason.INIT_FAILED) -> None:
        """It was the last try: there is no process."""
        self._let_go(birth)
        birth.gone()
        self._node.spawn_failed(birth.runner_id, birth.tries.told(failure.detail), self._clock(), reason)

    def _let_go(self, birth: Birth) -> None:
        del self._births[birth.runner_id]
        birth.let_go()

    def _forget(self, runner_id: int) -> None:
        self._children.pop(runner_id, None)

    def _tell_job(self, child: Child, task: Task, job_id: int) -> None:
        with self._open_streams(task) as fds:
            child.tell(encode_job(to_job(task, job_id)), fds)

    @contextlib.contextmanager
    def _open_streams(self, task: Task) -> Iterator[list[int]]:
        """stdout, stderr, and stdin where there is one; ours are closed when the message has taken them along.

        A task that is tried again starts with empty output, as it did the first time.
        """
        fds: list[int] = []
        try:
            for path in self._blobs.output_paths(task.id):
                fds.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            if task.spec.stdin_bytes:
                fds.append(os.open(self._blobs.stdin_path(task.id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            yield fds
        finally:
            for fd in fds:
                os.close(fd)


def _no_channel(error: OSError) -> Failure:
    named = errno.errorcode.get(error.errno or 0, "?")
    detail = f"the runner's files or channels can't be opened: {error.strerror or error} ({named})"
    return Failure(detail, passing=is_passing(error))
