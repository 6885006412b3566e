"""From exec to the first answer: the worker, and what one would use instead. And from SIGTERM to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.bench import API_WORKERS, Bench
from benchmarks.measure import Aim, Row
from benchmarks.node import node
from benchmarks.peer_servers import servers
from benchmarks.peers import PeerMissing

AIM = Aim("<=", 1.5, "ours")
OURS = "worker"

Start = Callable[[], AbstractContextManager[object]]


def rows(bench: Bench) -> Iterator[Row]:
    """Ready is when it answers: `/readyz` with 200, a peer with its hello."""
    starts: dict[str, Start] = {OURS: partial(node, "--api-workers", str(API_WORKERS))}
    for name, make in servers(API_WORKERS).items():
        try:
            with make():
                starts[name] = make
        except PeerMissing as missing:
            bench.skip(f"{name}: {missing}")
    measured = bench.alternate({name: partial(_start_and_stop_s, start) for name, start in starts.items()})
    ours = measured.pop(OURS)
    for name, theirs in measured.items():
        aim = AIM if name == "bare Falcon" else None
        yield Row.of("start to ready", "s", [start for start, _ in ours], (name, [start for start, _ in theirs]), aim)
    if not measured:
        yield Row.of("start to ready", "s", [start for start, _ in ours], aim=AIM)
    yield Row.of("SIGTERM to its end, idle", "s", [stop for _, stop in ours])


def _start_and_stop_s(start: Start) -> list[tuple[float, float]]:
    begun = time.perf_counter()
    with start():
        ready = time.perf_counter()
    return [(ready - begun, time.perf_counter() - ready)]
