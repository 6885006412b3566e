"""What is measured: each section yields its rows, each as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.measure import Row
from benchmarks.sections import (
    cold_call,
    cold_job,
    compile_and_cache,
    compute_overhead,
    concurrency,
    density,
    job_throughput,
    sealing_cost,
    startup,
    table_at_size,
    warm_call,
)


@dataclass(frozen=True, slots=True)
class Section:
    """`share`: of the time that a whole run takes; `shares_node`: it uses the worker of the section before."""

    name: str
    rows: Callable[[Bench], Iterator[Row]]
    share: float
    shares_node: bool


SECTIONS = (
    Section("cold job", cold_job.rows, 0.06, True),
    Section("cold call", cold_call.rows, 0.03, True),
    Section("warm call", warm_call.rows, 0.18, True),
    Section("concurrency", concurrency.rows, 0.3, True),
    Section("compute overhead", compute_overhead.rows, 0.1, True),
    Section("job throughput", job_throughput.rows, 0.1, True),
    Section("density", density.rows, 0.08, False),
    Section("startup", startup.rows, 0.03, False),
    Section("compile and cache", compile_and_cache.rows, 0.05, False),
    Section("sealing cost", sealing_cost.rows, 0.02, False),
    Section("table at size", table_at_size.rows, 0.05, False),
)
