"""Any process is killed or stopped: all is back, or with the launcher all is dead, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.process.launched import Launched, wait_for
from worker.supervise import Policy

KINDS = ["coordinator", "master", "worker"]
# What is stopped before its first heartbeat has the start timeout.
FAST = ("--heartbeat-timeout-ms", "1000", "--start-timeout-ms", "4000")


# The signal, and how often it comes: the kill more often than the circuit breaker allows failed starts.
STRUCK = {"killed": (signal.SIGKILL, Policy().failure_limit + 1), "stopped": (signal.SIGSTOP, 1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", STRUCK)
def test_what_is_killed_or_stopped_is_replaced_each_time(launch: Callable[..., Launched], kind: str, how: str) -> None:
    launched = launch(*FAST)
    launched.await_whole()
    number, times = STRUCK[how]
    for _ in range(times):
        others = {pid for other in KINDS if other != kind for pid in launched.pids(other)}
        launched.end(kind, number)
        if kind == "worker":
            assert others <= set(launched.marked()), "nothing else was restarted"
    assert launched.stop() == 0
    launched.await_nothing()


def test_the_launchers_death_ends_all(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    launched.process.kill()
    launched.process.wait()
    launched.await_nothing()


def test_the_launchers_death_ends_even_what_is_stopped(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    for pid in launched.marked():
        os.kill(pid, signal.SIGSTOP)
    launched.process.kill()
    launched.process.wait()
    launched.await_nothing()


def test_a_master_that_is_killed_takes_its_workers_along(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    workers = launched.pids("worker")
    os.kill(launched.pids("master")[0], signal.SIGKILL)
    wait_for(lambda: not set(workers) & set(launched.marked()), "the old workers are gone")
    launched.await_whole()


def test_a_launcher_that_was_stopped_judges_nobody_by_its_own_absence(launch: Callable[..., Launched]) -> None:
    launched = launch(*FAST)
    launched.await_whole()
    before = launched.marked().keys()
    launched.process.send_signal(signal.SIGSTOP)
    seen = len(launched.text())
    # Longer than the heartbeat timeout, and than a judgement after it: measured is exactly that nothing happens.
    deaf_s, judged_s = 1.2, 0.5
    with pytest.raises(AssertionError):
        wait_for(lambda: launched.marked().keys() != before, "somebody died", within_s=deaf_s)
    launched.process.send_signal(signal.SIGCONT)
    with pytest.raises(AssertionError):
        wait_for(lambda: launched.marked().keys() != before, "somebody died", within_s=judged_s)
    assert "is killed" not in launched.text()[seen:]


def test_everything_stopped_at_once_goes_on_where_it_was(launch: Callable[..., Launched]) -> None:
    launched = launch(*FAST)
    launched.await_whole()
    before = launched.marked().keys()
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(AssertionError):
        wait_for(lambda: launched.marked().keys() != before, "somebody died", within_s=1.2)
    for pid in sorted(before, key=lambda pid: pid != launched.process.pid):  # the judges first
        os.kill(pid, signal.SIGCONT)
    launched.await_serving()
    assert (launched.marked().keys(), "is killed" in launched.text()) == (before, False)


def test_a_worker_whose_loop_is_blocked_is_replaced(launch: Callable[..., Launched]) -> None:
    launched = launch("--api-workers", "1", *FAST)
    launched.await_whole(api_workers=1)
    (pid,) = launched.pids("worker")
    with pytest.raises(OSError):  # noqa: PT011 - a reset or an end of file, by chance
        launched.get("/block/60000")
    wait_for(lambda: pid not in launched.pids("worker"), "the blocked worker is gone")
    launched.await_whole(api_workers=1)


def test_the_worker_works_and_dies_the_same_for_an_ordinary_user(
    launch: Callable[..., Launched], ordinary: dict[str, object], scratch: object
) -> None:
    os.chmod(str(scratch), 0o777)
    launched = launch(**ordinary)
    launched.await_whole()
    for kind in KINDS:
        launched.end(kind, signal.SIGKILL)
    assert launched.report()["permitted"] == 0
    launched.process.kill()
    launched.process.wait()
    launched.await_nothing()
