"""Processes are killed or stopped at each step of one that serves: its calls are told the truth, and it is replaced.

As `test_crash_points.py` holds it for jobs. What strikes a runner in a call that an API worker made is in
`tests/e2e/test_calls.py`; here calls are made as an API worker makes them, so that all who serve can be struck too.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e import guests
from tests.e2e.calling import call, connection, read_answer, send_call
from tests.e2e.functions import deploy
from tests.e2e.harness import Worker, await_dead, fields, wait_for, wasm
from tests.hostile.playing import Playing, playing
from tests.hostile.test_crash_points import KILLED, OPTIONS, OTHERS, STOPPED, await_unharmed, ended

BOTH = pytest.mark.parametrize("number", [KILLED, STOPPED], ids=["killed", "stopped"])
NAP = {"abi": "export", "export": "nap"}
# Of an instance that is tried before its runner says READY.
START_WALL_MS = 2_000
SPINS = '(module (memory (export "memory") 1) (func $s (loop $l (br $l))) (start $s) (func (export "_start")))'


@pytest.fixture(scope="module")
def crashing() -> Iterator[Playing]:
    with playing("--max-runners", "3", *OPTIONS) as ready:
        yield ready


@pytest.fixture
def served(crashing: Playing) -> tuple[Worker, dict[str, Any]]:
    """A worker and a service that one runner serves."""
    worker = crashing.worker
    digest = worker.upload(wasm(guests.SLEEPER))
    scale = {"min": 1, "max": 1}
    return worker, deploy(worker, "nap", "r1", digest, handler=NAP, scale=scale)


def server(worker: Worker) -> psutil.Process:
    (found,) = wait_for(lambda: len(there := worker.role("runner")) == 1 and there, "one serves")
    process: psutil.Process = found
    return process


def nap(worker: Worker, task: dict[str, Any], ms: int) -> str:
    return call(worker, task["id"], struct.pack("<Q", ms)).reason


@contextlib.contextmanager
def in_a_call(worker: Worker, task: dict[str, Any], ms: int) -> Iterator[Any]:
    """A call that runs."""
    with connection(worker, task["id"]) as caller:
        send_call(caller, struct.pack("<Q", ms))
        wait_for(lambda: caller.recv(1, socket.MSG_PEEK), "it runs")  # its mark
        yield caller


def end(crashing: Playing, task: dict[str, Any], struck: list[psutil.Process]) -> None:
    """The service is stopped as it would have been, and all is as it was."""
    crashing.worker.await_ready()
    crashing.worker.order_stop(task["id"])
    told = ended(crashing.worker, task["id"])
    assert ("completed", "stopped") == fields(told, "state", "reason"), told
    await_unharmed(crashing, struck, told)


@BOTH
def test_the_death_of_all_who_have_no_part_in_it_costs_a_call_nothing(
    number: signal.Signals, crashing: Playing, served: tuple[Worker, dict[str, Any]]
) -> None:
    """Zygote, gunicorn's master and its workers, all at once; the next call is served by the same runner."""
    worker, task = served
    serves = server(worker)
    struck = [process for role in OTHERS for process in worker.role(role)]
    assert sum(OTHERS.values()) == len(struck)
    with in_a_call(worker, task, 1_500) as caller:
        for process in struck:
            process.send_signal(number)
        answer = read_answer(caller)
    assert answer is not None
    assert ("exit", "exit") == (answer.reason, nap(worker, task, 1))
    assert serves == server(worker)
    end(crashing, task, struck)


@BOTH
def test_the_coordinators_death_takes_what_serves_along_and_the_next_one_serves_again(
    number: signal.Signals, crashing: Playing, served: tuple[Worker, dict[str, Any]]
) -> None:
    worker, task = served
    serves, struck = server(worker), worker.one("coordinator")
    with in_a_call(worker, task, 60_000) as caller:
        struck.send_signal(number)
        assert None is read_answer(caller), "it died over the call: maybe it was executed"
    await_dead([serves], "its coordinator is dead")
    assert "exit" == nap(worker, task, 1)
    worker.await_ready()
    assert (2, "running") == fields(worker.await_state(task["id"], "running"), "attempts", "state")
    end(crashing, task, [struck])


@BOTH
def test_one_that_is_struck_while_it_rests_costs_no_call(
    number: signal.Signals, crashing: Playing, served: tuple[Worker, dict[str, Any]]
) -> None:
    """A stopped one has a call that waits for it: that one is served by the next, too."""
    worker, task = served
    struck = server(worker)
    struck.send_signal(number)
    # Before that it may still take a call, which would then be its own.
    if number == STOPPED:
        wait_for(lambda: struck.status() == psutil.STATUS_STOPPED, "it is stopped")
    else:
        await_dead([struck], "it was killed")
    assert ["exit"] * 2 == [nap(worker, task, 1) for _ in range(2)]
    await_dead([struck], "it was struck")
    assert "running" == worker.task(task["id"])["state"]
    end(crashing, task, [struck])


STARTS = {
    KILLED: ("failed", "crashed", "SIGKILL"),
    STOPPED: ("failed", "init_failed", None),
}


@pytest.mark.parametrize("number", STARTS, ids=["killed", "stopped"])
def test_one_that_is_struck_before_it_is_ready_ends_its_service_with_the_reason(
    number: signal.Signals, crashing: Playing
) -> None:
    """It tries an instance, whose start function doesn't come to its end."""
    worker = crashing.worker
    task_id = worker.start_task(
        worker.upload(wasm(SPINS)),
        kind="service",
        function={"name": "spins", "revision": "r1", "default": True},
        handler={"abi": "wagi"},
        limits={"wall_ms": START_WALL_MS if number == STOPPED else 30_000, "fuel": 10**15},
        scale={"min": 1, "max": 1},
    )
    struck = server(worker)
    wait_for(lambda: struck.cpu_times().user > 0.1, "its start function runs")
    struck.send_signal(number)
    told = ended(worker, task_id)
    assert STARTS[number] == fields(told, "state", "reason", "signal"), told
    await_unharmed(crashing, [struck], told)
