"""A reload under a keep-alive load loses no request, whatever its clients do between two of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from tests.process.launched import Launched, wait_for
from tests.process.load import Load, Tally, run_for


async def load_while(
    launched: Launched, pause_s: float, act: Callable[[], None], path: str = "/", seconds: float = 3.0
) -> Tally:
    """Load for a while, with `act` in the middle of it."""
    load = Load("127.0.0.1", launched.port, path, connections=16, pause_s=pause_s)
    running = asyncio.ensure_future(run_for(load, seconds))
    await asyncio.sleep(0.5)
    act()
    return await running


@pytest.mark.parametrize(("path", "pause_s"), [("/", 0.3), ("/slow/20", 0.0)], ids=["long pauses", "slow answers"])
def test_a_reload_loses_nothing(launch: Callable[..., Launched], path: str, pause_s: float) -> None:
    """Whether its clients' connections rest when it comes, or each waits for an answer and asks again at once."""
    launched = launch()
    launched.await_whole()
    before = {b"%d" % pid for pid in launched.pids("worker")}
    tally = asyncio.run(load_while(launched, pause_s, lambda: launched.process.send_signal(signal.SIGHUP), path))
    assert (tally.failures, tally.idle_closes) == (Counter(), 0)
    assert tally.pids - before, "the new workers answered too"
    wait_for(lambda: not before & {b"%d" % pid for pid in launched.pids("worker")}, "the old workers are gone")
    launched.await_whole()


def test_the_death_of_a_worker_loses_only_what_it_had(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    victim = launched.pids("worker")[0]
    tally = asyncio.run(load_while(launched, 0.0, lambda: os.kill(victim, signal.SIGKILL), seconds=1.5))
    assert sum(tally.failures.values()) <= 16, "at most one a connection"
    assert tally.answered > 100


def test_idle_connections_are_let_go_after_the_linger_time(launch: Callable[..., Launched]) -> None:
    launched = launch("--reload-linger-s", "0.5")
    launched.await_whole()
    before = launched.pids("worker")
    idle = Load("127.0.0.1", launched.port, "/", connections=4, pause_s=2.0)

    async def act() -> Tally:
        running = asyncio.ensure_future(run_for(idle, 2.3))
        await asyncio.sleep(0.3)
        launched.process.send_signal(signal.SIGHUP)
        return await running

    tally = asyncio.run(act())
    assert (tally.failures, tally.idle_closes) == (Counter(), 4)
    wait_for(lambda: not set(before) & set(launched.pids("worker")), "the old workers are gone")
