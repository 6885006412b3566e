"""A zygote that can't be: the coordinator gives up with a reason, and does not start it for ever."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from runner.protocol.spawn import EXIT_WITHOUT
from tests.conftest import child_pids
from worker import spawn
from worker.coordinator.poller import Poller
from worker.coordinator.zygote import FAILURE_LIMIT, Process, Zygote
from worker.errors import ExitCode, Unsealed, WorkerError, ZygoteFailed


class Starts:
    """Starts a program of ours in the zygote's place, which ends as told; `beats`: it says first that it is ready."""

    def __init__(self, end: int | str, beats: bool = False) -> None:
        self.count = 0
        said = "os.write(3, bytes([22])); " if beats else ""
        ending = end if isinstance(end, str) else f"raise SystemExit({end})"
        self._argv = (sys.executable, "-I", "-S", "-c", f"import os; {said}{ending}")

    def __call__(self) -> Process:
        self.count += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = spawn.spawn(spawn.Program(self._argv, fds={"zygote": theirs.fileno()}, name_fds=False))
        theirs.close()
        return Process(process.pid, process.pidfd, ours)


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def ended(starts: Starts, poller: Poller, at_most: int = 100) -> WorkerError | None:
    """The error that the loop ends with; None where it would go on after so many starts."""
    others = child_pids()  # of this process, which a coordinator would take for forks of a zygote that died
    zygote = Zygote(poller, starts, 60_000_000, lambda: others)
    try:
        zygote.ensure()
        while starts.count < at_most:
            poller.poll(10)
    except WorkerError as error:
        return error
    finally:
        zygote.close()
    return None


def test_it_is_given_up_after_so_many_starts(poller: Poller) -> None:
    starts = Starts(3)
    error = ended(starts, poller)
    assert isinstance(error, ZygoteFailed)
    assert (FAILURE_LIMIT, FAILURE_LIMIT, 3) == (starts.count, error.attempts, error.status)


def test_one_that_was_ready_is_always_started_again(poller: Poller) -> None:
    assert ended(Starts(3, beats=True), poller, at_most=FAILURE_LIMIT + 3) is None


def test_one_that_is_killed_before_it_is_ready_is_always_started_again(poller: Poller) -> None:
    """By the coordinator itself, on a machine so busy that it was silent for too long."""
    assert ended(Starts("os.kill(os.getpid(), 9)"), poller, at_most=FAILURE_LIMIT + 3) is None


@pytest.mark.parametrize("layer", EXIT_WITHOUT)
def test_a_layer_that_can_not_be_had_is_named_at_once(poller: Poller, layer: str) -> None:
    starts = Starts(EXIT_WITHOUT[layer])
    error = ended(starts, poller)
    assert isinstance(error, Unsealed)
    assert (1, ExitCode.UNSEALED, True) == (starts.count, error.exit_code, f"the layer {layer} " in str(error))
