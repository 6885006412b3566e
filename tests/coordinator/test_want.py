"""What the machine lacks for a moment is tried again, for longer and longer, and nobody is left behind meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.protocol import PROFILE_RUNNER
from runner.protocol.spawn import Spawn, Spawned, encode_spawned
from tests.conftest import child_pids
from tests.coordinator.test_zygote_starts import Starts
from tests.shared.samples import make_task, task_id
from worker import spawn
from worker.config import Config
from worker.coordinator.child import Child
from worker.coordinator.compile import Compilation
from worker.coordinator.fetches import Fetches
from worker.coordinator.poller import Poller
from worker.coordinator.want import LONGEST_WAIT_S, PATIENCE_S, Tries, is_passing
from worker.coordinator.zygote import Failure, Process, Zygote
from worker.core.clock import Now
from worker.errors import ExitCode, SpawnError

LASTING = "import signal; signal.pause()"


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def test_each_wait_is_twice_as_long_up_to_a_limit_and_patience_ends() -> None:
    tries = Tries()
    assert "no" == tries.told("no")
    waits = [tries.next_wait_s() for _ in range(16)]
    assert [0.01, 0.02, 0.04, 0.08] == waits[:4]
    assert (LONGEST_WAIT_S, True) == (waits[-1], tries.over)
    assert tries.waited_s >= PATIENCE_S
    assert f"no; tried again for {tries.waited_s:.1f} s" == tries.told("no")


@pytest.mark.parametrize(("error", "passing"), [(errno.EMFILE, True), (errno.EAGAIN, True), (errno.EACCES, False)])
def test_what_may_be_had_again_is_told_from_what_will_not(error: int, passing: bool) -> None:
    assert passing == is_passing(OSError(error, "")) == is_passing(SpawnError("p", "fork", error, ""))
    assert not is_passing(ValueError())


def test_the_poller_calls_when_the_time_is_over_in_the_order_of_times(poller: Poller) -> None:
    called: list[str] = []
    poller.later(0.02, lambda: called.append("second"))
    poller.later(0.0, lambda: called.append("first"))
    while len(called) < 2:
        poller.poll(None)
    assert ["first", "second"] == called


class Lacking(Starts):
    """So many starts are refused by the system, the next one is a zygote that lives."""

    def __init__(self, refused: int, error: int = errno.EMFILE) -> None:
        super().__init__(LASTING, beats=True)
        self._refused = [OSError(error, os.strerror(error))] * refused

    def __call__(self) -> Process:
        if self._refused:
            raise self._refused.pop()
        return super().__call__()


def test_a_zygote_that_can_not_be_started_now_is_started_later_and_who_asks_meanwhile_is_told(poller: Poller) -> None:
    others = child_pids()
    zygote = Zygote(poller, Lacking(3), 60_000_000, lambda: others)
    child, failures = Child(poller, None, lambda _: None), []  # type: ignore[arg-type]
    try:
        zygote.ensure()
        zygote.spawn(child, Spawn(0, PROFILE_RUNNER, 0, 0, ()), lambda _: None, failures.append)
        assert [Failure("there is no zygote, and none can be started now", passing=True)] == failures
        while not zygote.ready:
            poller.poll(10)
        assert 0 == zygote.restarts
    finally:
        child.close()
        zygote.close()


def test_a_zygote_that_can_not_be_started_for_good_ends_the_coordinator(poller: Poller) -> None:
    with pytest.raises(PermissionError):
        Zygote(poller, Lacking(1, errno.EACCES), 60_000_000, set).ensure()


class Played:
    """A zygote whose answers are the test's."""

    def __init__(self) -> None:
        self.socket, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = spawn.spawn(spawn.Program((sys.executable, "-I", "-S", "-c", LASTING)))

    def start(self) -> Process:
        return Process(self._process.pid, self._process.pidfd, self._ours)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (lambda pid: Spawned(1, 0, errno.EAGAIN, "clone"), "fork failed at clone: Resource temporarily unavailable"),
        (lambda pid: Spawned(1, pid), "no descriptor was left for the new process (EMFILE)"),
    ],
    ids=["refused", "its pidfd is lost"],
)
def test_a_fork_that_came_to_nothing_leaves_no_process(
    poller: Poller, answer: Callable[[int], Spawned], detail: str
) -> None:
    played = Played()
    born = subprocess.Popen([sys.executable, "-I", "-S", "-c", LASTING])
    others = child_pids()
    zygote = Zygote(poller, played.start, 60_000_000, lambda: others)
    child, failures = Child(poller, None, lambda _: None), []  # type: ignore[arg-type]
    told = answer(born.pid)
    try:
        zygote.spawn(child, Spawn(0, PROFILE_RUNNER, 0, 0, ()), lambda _: None, failures.append)
        played.socket.send(encode_spawned(told))
        while not failures:
            poller.poll(10)
        (failure,) = failures
        assert (True, bool(told.pid)) == (failure.passing, failure.unseen)
        assert failure.detail.startswith(detail)
        assert (born.poll() is None) == (not told.pid), "one that nobody can watch does not live on"
    finally:
        child.close()
        zygote.close()
        played.socket.close()
        born.kill()
        born.wait()


def test_a_program_that_can_not_be_watched_does_not_live_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(SpawnError, match="Too many open files") as caught:
        spawn.spawn(spawn.Program((sys.executable, "-I", "-S", "-c", LASTING)))
    assert errno.EMFILE == caught.value.errno


def test_the_death_of_a_thread_is_the_coordinators() -> None:
    source = """import threading
from worker.coordinator.__main__ import end_with_thread
threading.excepthook = end_with_thread
thread = threading.Thread(target=lambda: 1 / 0, name="commit")
thread.start()
thread.join()"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert ExitCode.INTERNAL == ended.returncode
    assert "the thread commit died: ZeroDivisionError" in ended.stderr


class Later:
    """A poller that calls at once what is to be called later, and counts for how long it would have waited."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.waited_s += delay_s
        action()


def test_patience_is_had_once_for_all_who_wait_for_the_same() -> None:
    """With a full disk, what waits behind the first is told with it, and not one task in every five seconds."""
    refused: list[str] = []
    later = Later()

    def full() -> None:
        raise OSError(errno.ENFILE, "no room")

    blobs: Any = SimpleNamespace(new_temporary=full)
    node: Any = SimpleNamespace(refused=lambda task_id, *_: refused.append(task_id))
    fetches = Fetches(Config(data_dir="/tmp"), later, blobs, node, lambda: Now(0, 0), 0)  # type: ignore[arg-type]
    for number in range(3):
        fetches._waiting.append(make_task(number))
    fetches._start_next()
    assert [task_id(number) for number in range(3)] == refused
    assert PATIENCE_S <= later.waited_s < 2 * PATIENCE_S
    fetches.start(make_task(3))
    assert (4, True) == (len(refused), later.waited_s >= 2 * PATIENCE_S), "who comes later has patience of its own"


def test_what_a_compiler_waited_for_before_it_could_be_started_is_no_time_of_its_own(
    poller: Poller, tmp_path: Path
) -> None:
    spawned: list[Child] = []
    zygote: Any = SimpleNamespace(spawn=lambda child, *_: spawned.append(child))
    compilation = Compilation(poller, zygote, 0, 1 << 20, lambda _: None)
    compilation.started_us = 0
    module = tmp_path / "module"
    module.write_bytes(b"wasm")
    compilation.start(module)
    (child,) = spawned
    try:
        assert compilation.started_us > 0
    finally:
        os.close(next(iter(fd for fd, what in compilation.fds().items() if what.endswith("artifact"))))
        child.close()
