"""What many functions cost one node: memory by runner, CPU while nobody calls, and what each one more changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.bench import API_WORKERS, Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import CALL_WAGI, HELLO_BODY, WAGI
from benchmarks.node import Client, Node, deployed, node
from benchmarks.timing import timed_ms

FUNCTIONS = (1, 10, 25, 50, 100, 200, 300, 400, 500)
MEMORY_AIMS = {"before": Aim("<=", 0.8, "ours"), "after": Aim("<=", 1.3, "ours")}
CPU_AIM = Aim("<=", 2, "ours")
MIB = 1 << 20
# What is promised to runners together has no part in this: a node that overcommits is asked for on purpose.
OPTIONS = ("--api-workers", str(API_WORKERS), "--max-runners", "600", "--max-runners-memory-bytes", str(1 << 40))


def rows(bench: Bench) -> Iterator[Row]:
    """First functions with a runner each, then with none."""
    yield from _with_runners(bench)
    yield from _without_runners(bench)


def _with_runners(bench: Bench) -> Iterator[Row]:
    count = bench.effort.functions
    with node(*OPTIONS) as running, Client.of(running.port) as client, ExitStack() as stack:
        paths = []
        for number in range(count):
            paths.append(stack.enter_context(deployed(client, f"f{number}", WAGI, CALL_WAGI, min=1, max=1)))
            bench.progress.tick()
        yield _uss(running, "before", count)
        yield _idle(bench, running, count)
        for path in paths:
            _call(client, path)
        yield _uss(running, "after", count)
        stack.pop_all()  # the node goes, and all of them with it


def _uss(running: Node, when: str, count: int) -> Row:
    samples = [process.memory_full_info().uss / 1e6 for process in running.runners()]
    assert len(samples) >= count, len(samples)
    return Row.of(f"idle runner, {when} its first call", "MB USS", samples, aim=MEMORY_AIMS[when])


def _idle(bench: Bench, running: Node, count: int) -> Row:
    processes = running.processes()

    def used_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    samples = []
    for _ in range(3):
        before, started = used_s(), time.monotonic()
        time.sleep(bench.effort.idle_s)
        samples.append((used_s() - before) / (time.monotonic() - started) * 100)
        bench.progress.tick()
    aim = CPU_AIM if count >= 100 else None
    return Row.of(f"node with {count} idle runners, CPU", "% of a core", samples, aim=aim)


def _without_runners(bench: Bench) -> Iterator[Row]:
    """Functions from zero, all deployed and all callable; one of them is warm and called among all the others."""
    with node(*OPTIONS) as running, Client.of(running.port) as client, ExitStack() as stack:
        warm = stack.enter_context(deployed(client, "warm", WAGI, CALL_WAGI, min=1, max=1))
        deployed_now = 0
        for count in bench.effort.few(FUNCTIONS):
            took = []
            for number in range(deployed_now, count):
                function = deployed(client, f"f{number}", WAGI, CALL_WAGI, min=0, max=1, idle_ms=1)
                started = time.perf_counter()
                path = stack.enter_context(function)
                took.append((time.perf_counter() - started) * 1000)
                bench.progress.tick()
            deployed_now = count
            _call(client, path)  # the newest, and it starts from zero
            calls = timed_ms(partial(_call, client, warm), 20 * bench.effort.batch)
            for what, unit, samples in (
                ("deploy one more, until it runs", "ms", took),
                ("call of a warm one among them", "ms", calls),
                ("the node's own processes together", "MB USS", [running.own_uss_mb()]),
            ):
                yield Row.of(what, unit, samples, axis="functions", at=count)
        stack.pop_all()  # as above


def _call(client: Client, path: str) -> None:
    assert client.ask("GET", path) == HELLO_BODY
