"""How long a thing takes, and how often a second several clients together can have it done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

Client = TypeVar("Client")


def timed_ms(work: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each of `times` runs."""
    samples = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        samples.append((time.perf_counter() - start) * 1000)
    return samples


def rate(
    work: Callable[[Client], object],
    make: Callable[[], AbstractContextManager[Client]],
    clients: int,
    seconds: float,
) -> float:
    """How often a second `work(client)` was done by `clients` threads together, each with a client of its own.

    Raises:
        Exception: the first of what any of them raised.
    """
    done = [0] * clients
    failed: list[Exception] = []
    made, go = threading.Barrier(clients + 1), threading.Event()
    until = [0.0]

    def one(index: int) -> None:
        try:
            with make() as client:
                made.wait()
                go.wait()
                while time.perf_counter() < until[0]:
                    work(client)
                    done[index] += 1
        except Exception as exc:  # noqa: BLE001 - told by the thread that waits for this one
            failed.append(exc)
            made.abort()

    threads = [threading.Thread(target=one, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    try:
        made.wait()
    except threading.BrokenBarrierError:
        seconds = 0
    start = time.perf_counter()
    until[0] = start + seconds
    go.set()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done) / (time.perf_counter() - start)
