"""The task table at its size: what is read and written over HTTP with a million finished tasks, beside a thousand."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import HELLO
from benchmarks.node import Client, job_body, node
from benchmarks.table_builder import grow, task_id
from benchmarks.timing import timed_ms
from worker.config_values import TABLE_NAME

SIZES = (0, 1_000, 10_000, 100_000, 300_000, 1_000_000)
BASE = 1_000
PAGE = 50
# Retention would begin to remove where the curve ends.
KEEP_ALL = ("--retention-tasks", str(10 * SIZES[-1]))
AIM = Aim("<=", 1.2)
AIMED = ("GET /tasks/{id}", "GET /tasks, first page")


def rows(bench: Bench) -> Iterator[Row]:
    """A worker with a thousand tasks and one that grows; both are asked in turn at each size."""
    sizes = bench.effort.few(SIZES)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="galago-bench-")))
        temporary.chmod(0o755)  # whoever the worker runs as reaches what is below
        base, grown = temporary / "base", temporary / "grown"
        _first_task(base)
        subprocess.run(["cp", "-a", str(base), str(grown)], check=True)  # owners, too
        grow(_table(base), 0, BASE, BASE)
        beside = stack.enter_context(Client.of(stack.enter_context(node(data_dir=base)).port))
        made = 0
        for size in sizes:
            grow(_table(grown), made, size, SIZES[-1])
            made = size
            bench.progress.tick()
            started = time.perf_counter()
            with node(*KEEP_ALL, data_dir=grown) as running, Client.of(running.port) as client:
                ready_s = time.perf_counter() - started
                yield from _asked(bench, client, beside, size, size == sizes[-1])
            yield Row.of("start to ready", "s", [ready_s], axis="finished tasks", at=size)


def _first_task(directory: Path) -> None:
    """A data directory with one real task, which has ended."""
    with node(data_dir=directory) as running, Client.of(running.port) as client:
        client.job(job_body(client.upload(HELLO)))


def _table(directory: Path) -> Path:
    return directory / TABLE_NAME


def _asked(bench: Bench, client: Client, beside: Client, size: int, last: bool) -> Iterator[Row]:
    """What each is asked for, in turn; `last` is the row that the aim is of."""
    times = 10 * bench.effort.batch
    grown, base = _requests(client, size), _requests(beside, BASE)
    for what, request in grown.items():
        few = times if what != "POST /tasks, hello job to its end" else bench.effort.batch
        contenders = {"ours": partial(timed_ms, request, few), "peer": partial(timed_ms, base[what], few)}
        measured = bench.alternate(contenders)
        yield Row.of(what, "ms", measured["ours"], axis="finished tasks", at=size)
        if last:
            peer = (f"with {BASE:,}", measured["peer"])
            yield Row.of(f"{what}, with {size:,} tasks", "ms", measured["ours"], peer, AIM if what in AIMED else None)


def _requests(client: Client, size: int) -> dict[str, Callable[[], object]]:
    """By name; each looks at what it is answered."""
    body = job_body(client.upload(HELLO))
    first = json.loads(client.ask("GET", "/tasks?limit=1"))["tasks"][0]["id"]
    order = random.Random(1)
    ids = itertools.cycle([task_id(order.randint(1, size)) for _ in range(1000)] if size else [first])

    def one() -> None:
        wanted = next(ids)
        assert json.loads(client.ask("GET", f"/tasks/{wanted}"))["id"] == wanted

    def page() -> None:
        assert len(json.loads(client.ask("GET", f"/tasks?limit={PAGE}"))["tasks"]) >= min(PAGE, size)

    def stats() -> None:
        assert json.loads(client.ask("GET", "/stats"))["tasks"]["completed"] >= size

    return {
        AIMED[0]: one,
        AIMED[1]: page,
        "GET /stats": stats,
        "POST /tasks, hello job to its end": partial(client.job, body),
    }
