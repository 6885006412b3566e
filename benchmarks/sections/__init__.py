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
    """`share`: of the time of a whole run, in no unit; `shares_node`: it uses the worker of the section before."""

    name: str
    rows: Callable[[Bench], Iterator[Row]]
    share: int
    shares_node: bool


SECTIONS = (
    Section("cold job", cold_job.rows, 10, True),
    Section("cold call", cold_call.rows, 10, True),
    Section("warm call", warm_call.rows, 100, True),
    Section("concurrency", concurrency.rows, 400, True),
    Section("compute overhead", compute_overhead.rows, 120, True),
    Section("compile and cache", compile_and_cache.rows, 80, True),
    Section("job throughput", job_throughput.rows, 120, True),
    Section("density", density.rows, 80, False),
    Section("startup", startup.rows, 40, False),
    Section("sealing cost", sealing_cost.rows, 40, False),
    Section("table at size", table_at_size.rows, 180, False),
)
