"""Somebody sends a runner a signal from outside: the task tells the truth of it, and nobody else is troubled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.e2e import guests
from tests.e2e.harness import Worker, await_dead, fields, pid_of, wait_for, wasm
from tests.e2e.test_limits import assert_figures
from tests.hostile.playing import Playing, playing

INIT_MS = 1500
WALL_MS = 1500
NUMBERS = {"wall_ms": 30_000, "fuel": 10**15}
# In Wasm, and blocked in a host call.
HELD = ["loop", "block"]
DEADLY = [
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTERM,
    signal.SIGTRAP,
    signal.SIGXCPU,
    signal.SIGALRM,  # long before it is due
]
# What the engine handles, and the runner has to look for.
SWALLOWED = [signal.SIGSEGV, signal.SIGILL, signal.SIGFPE]


@pytest.fixture(scope="module")
def place_of_signals() -> Iterator[Playing]:
    with playing("--max-runners", "3", "--init-ms", str(INIT_MS), "--stop-grace-ms", "200") as ready:
        ready.worker.run(ready.worker.upload(wasm(guests.SLEEPER)))
        yield ready


@pytest.fixture
def worker(place_of_signals: Playing) -> Iterator[Worker]:
    """Before and after each case nothing is left, and an ordinary job completes."""
    yield place_of_signals.worker
    place_of_signals.await_ordinary()


@pytest.mark.parametrize("export", HELD)
@pytest.mark.parametrize("number", DEADLY, ids=[number.name for number in DEADLY])
def test_a_deadly_signal_is_told_by_its_name(export: str, number: signal.Signals, worker: Worker) -> None:
    """wasmtime swallows the first of three of them, wherever its guest is: the runner sees that and dies of it."""
    job = worker.hold(export, limits=NUMBERS, retry={"max": 3})  # a crash is no loss: it isn't tried again
    worker.kill_runner(job, number)
    ended = worker.await_end(job["id"])
    expected = ("failed", "crashed", number.name, f"the runner died by {number.name}", None, 1)
    assert expected == fields(ended, "state", "reason", "signal", "detail", "exit_code", "attempts"), ended
    assert b"before\n" == worker.stdout(job["id"]), "what it had written is kept"
    assert_figures(ended, "fuel_used")


@pytest.mark.parametrize("export", HELD)
def test_a_stopped_runner_is_killed_at_its_deadline(export: str, worker: Worker) -> None:
    other = worker.hold(limits=NUMBERS)
    job = worker.hold(export, limits={"wall_ms": WALL_MS, "fuel": 10**15}, retry={"max": 3})
    worker.kill_runner(job, signal.SIGSTOP)
    ended = worker.await_end(job["id"])
    assert ("failed", "killed_deadline", None, 1) == fields(ended, "state", "reason", "signal", "attempts"), ended
    assert f"still ran after {WALL_MS} ms" in ended["detail"]
    assert_figures(ended, "fuel_used")
    assert "running" == worker.task(other["id"])["state"]
    worker.order_stop(other["id"], force=True)
    worker.await_end(other["id"])


@pytest.mark.parametrize("export", HELD)
def test_a_stopped_runner_that_goes_on_before_its_deadline_ends_as_it_would_have(export: str, worker: Worker) -> None:
    job = worker.hold(export, limits={"wall_ms": WALL_MS, "fuel": 10**15})
    worker.kill_runner(job, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(job["runner"]["pid"]).status() == psutil.STATUS_STOPPED, "it is stopped")
    worker.kill_runner(job, signal.SIGCONT)
    ended = worker.await_end(job["id"])
    reason = "deadline" if export == "loop" else "killed_deadline"
    assert ("failed", reason, None) == fields(ended, "state", "reason", "signal"), ended


def test_a_stopped_runner_is_stopped_for_good_when_its_task_is(worker: Worker) -> None:
    job = worker.hold("loop", limits=NUMBERS)
    worker.kill_runner(job, signal.SIGSTOP)
    worker.order_stop(job["id"])
    assert ("completed", "stopped") == fields(worker.await_end(job["id"]), "state", "reason")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGRTMIN + 3], ids=["USR1", "HUP", "RT"])
def test_a_signal_that_means_nothing_here_is_deadly_too(number: int, worker: Worker) -> None:
    job = worker.hold("block", limits=NUMBERS)
    worker.kill_runner(job, number)
    ended = worker.await_end(job["id"])
    assert ("failed", "crashed") == fields(ended, "state", "reason"), ended
    assert (signal.Signals(number).name if number < signal.SIGRTMIN else f"SIG{number}") == ended["signal"]


# -- a warm runner that rests ------------------------------------------------------------------------------------------

WARM = {"entry": {"export": "count"}, "isolation": "instance", "limits": {"wall_ms": 2_000}}


def counted(worker: Worker) -> dict[str, Any]:
    """One job of a warm runner; it sees a fresh instance, whoever ran before."""
    done = worker.run(worker.upload(wasm(guests.COUNTER)), **WARM)
    assert ("completed", "exit", [1, 1], 1) == fields(done, "state", "reason", "result", "attempts"), done
    return done


def end_rest(worker: Worker, task: dict[str, Any]) -> None:
    """No warm runner is left behind."""
    os.kill(pid_of(task), signal.SIGKILL)


@pytest.mark.parametrize("number", DEADLY, ids=[number.name for number in DEADLY])
def test_a_warm_runner_that_is_struck_while_it_rests_costs_no_next_job(number: signal.Signals, worker: Worker) -> None:
    first = counted(worker)
    (runner,) = [process for process in worker.role("fork") if process.pid == pid_of(first)]
    os.kill(runner.pid, number)
    if number in SWALLOWED:  # one that finds its job before it finds the signal begins it, and dies of both
        await_dead([runner], f"{number.name} is its end")
    second = counted(worker)
    assert pid_of(first) != pid_of(second)
    await_dead([runner], f"{number.name} is its end")
    end_rest(worker, second)


def test_a_warm_runner_that_is_stopped_while_it_rests_costs_no_next_job(worker: Worker) -> None:
    """The next job is handed to it, and to a new one when it has not begun within init_ms."""
    first = counted(worker)
    os.kill(pid_of(first), signal.SIGSTOP)
    second = counted(worker)
    story = [event["event"] for event in second["events"]]
    assert ["accepted", "slot_assigned", "runner_replaced", "runner_started", "ended"] == story
    assert "the runner did not start in time (init_ms) and was killed" in [e["detail"] for e in second["events"]]
    assert pid_of(first) != pid_of(second)
    third = counted(worker)
    assert pid_of(second) == pid_of(third)
    end_rest(worker, third)


def test_a_warm_runner_that_is_struck_in_its_second_job_ends_that_one_alone(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = {"isolation": "instance", "limits": NUMBERS}
    first = worker.run(digest, entry={"export": "nap", "params": [0]}, **task)
    second = worker.hold("loop", **task)
    assert pid_of(first) == second["runner"]["pid"]
    worker.kill_runner(second, signal.SIGSEGV)
    ended = worker.await_end(second["id"])
    assert ("failed", "crashed", "SIGSEGV", 1) == fields(ended, "state", "reason", "signal", "attempts"), ended
    assert ("completed", "exit") == fields(worker.task(first["id"]), "state", "reason")
