"""From exec to the first answer: the worker, and what one would use instead. And from SIGTERM to its end.

And again with what a worker may have behind it and before it: many ended tasks, and many that wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.bench import API_WORKERS, Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import HELLO, SLEEPER
from benchmarks.node import Client, job_body, node
from benchmarks.peer_servers import servers
from benchmarks.peers import PeerMissing
from benchmarks.table_builder import grow
from worker.config_values import TABLE_NAME

AIM = Aim("<=", 1.5, "ours")
RESTART_AIM = Aim("<=", 2.0, "ours")
ENDED = (1_000, 100_000)
WAITING = 1_000
# One runs at a time, and for long: the others wait over all restarts.
ONE_AT_A_TIME = ("--max-runners", "1", "--drain-s", "0")
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
    yield from _restarts(bench)


def _start_and_stop_s(start: Start) -> list[tuple[float, float]]:
    begun = time.perf_counter()
    with start():
        ready = time.perf_counter()
    return [(ready - begun, time.perf_counter() - ready)]


def _restarts(bench: Bench) -> Iterator[Row]:
    ended = bench.effort.few(ENDED)[-1]
    waiting = WAITING if ended == ENDED[-1] else WAITING // 20
    bench.directory.chmod(0o755)  # whoever the worker runs as reaches what is below
    directory = bench.directory / "restarted"
    with node(*ONE_AT_A_TIME, data_dir=directory) as running, Client.of(running.port) as client:
        client.job(job_body(client.upload(HELLO)))
    grow(directory / TABLE_NAME, 0, ended, ended)
    with node(*ONE_AT_A_TIME, data_dir=directory) as running, Client.of(running.port) as client:
        body = job_body(client.upload(SLEEPER), limits={"wall_ms": 30_000}, retry={"max": 10})
        for _ in range(waiting):
            client.ask("POST", "/tasks", body, {"content-type": "application/json"})

    def restart_s() -> list[float]:
        begun = time.perf_counter()
        with node(*ONE_AT_A_TIME, data_dir=directory) as again, Client.of(again.port) as asked:
            ready_s = time.perf_counter() - begun
            tasks = json.loads(asked.ask("GET", "/stats"))["tasks"]
        assert tasks["completed"] >= ended, tasks
        assert tasks["pending"] >= waiting // 2, tasks
        return [ready_s]

    samples = bench.alternate({OURS: restart_s})[OURS]
    what = f"start to ready, {ended:,} tasks ended, {waiting:,} waiting"
    yield Row.of(what, "s", samples, aim=RESTART_AIM if ended == ENDED[-1] else None)
