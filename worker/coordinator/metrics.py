"""The metrics in Prometheus's text format (0.0.4), rendered from plain figures; nothing here is gathered or kept.

A reading is rendered whole and handed out in parts, each of whole lines, because a message to an API worker is bounded.
It takes 0.7 ms for each revision, so it is done in a thread beside the loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.coordinator.background import Background
from worker.coordinator.call_figures import Histogram, ServiceFigures
from worker.core.figures import BUCKETS_US

PART_BYTES = 128 * 1024
_BOUNDS = [str(bound_us / 1_000_000) for bound_us in BUCKETS_US]
_REVISION = ("function", "revision")


@dataclass(frozen=True, slots=True)
class RevisionReading:
    """One revision: its runners by state, what waits, and its calls."""

    function: str
    revision: str
    runners: Mapping[str, int]
    queued: int
    cold_starts: int
    figures: ServiceFigures


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is told, at one moment. `runners` are the node's slots by what they are."""

    version: str
    uptime_s: float
    tasks: Mapping[str, int]
    queued_tasks: int
    runners: Mapping[str, int]
    memory_bytes: Mapping[str, int]
    layers: Mapping[str, bool]
    zygote_restarts: int
    revisions: tuple[RevisionReading, ...] = ()


class Metrics:
    """Hands out readings part by part.

    Args:
        read: takes a new reading, of figures that don't change any more.
        background: renders it.
        askers: how many may ask at a time.
    """

    def __init__(self, read: Callable[[], Reading], background: Background, askers: int) -> None:
        self._read = read
        self._background = background
        self._most_readings = askers
        self._parts: OrderedDict[Hashable, list[bytes]] = OrderedDict()

    def part(self, asker: Hashable, number: int, answer: Callable[[bytes, bool], None]) -> None:
        """Answer with part `number` of the reading that `asker` began with part 0, and whether another follows.

        What isn't there is answered as nothing, and no more.
        """
        if number != 0:
            self._hand_out(asker, number, answer)
            return
        reading = self._read()

        def rendered(parts: list[bytes]) -> None:
            self._parts.pop(asker, None)
            self._parts[asker] = parts
            if len(self._parts) > self._most_readings:
                self._parts.popitem(last=False)
            self._hand_out(asker, 0, answer)

        self._background.submit(lambda: split(render(reading)), rendered)

    def _hand_out(self, asker: Hashable, number: int, answer: Callable[[bytes, bool], None]) -> None:
        parts = self._parts.get(asker, [])
        if not 0 <= number < len(parts):
            answer(b"", False)
            return
        more = number + 1 < len(parts)
        if not more:
            del self._parts[asker]
        answer(parts[number], more)


def split(text: bytes, most: int = PART_BYTES) -> list[bytes]:
    """Whole lines, up to `most` bytes together."""
    parts, size = [bytearray()], 0
    for line in text.splitlines(keepends=True):
        if size and size + len(line) > most:
            parts.append(bytearray())
            size = 0
        parts[-1] += line
        size += len(line)
    return [bytes(part) for part in parts]


def render(reading: Reading) -> bytes:
    """The whole text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(reading))
    return generate_latest(registry)


class _Once(Collector):
    """One reading as a collector, for one rendering."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        yield from _node(self._reading)
        yield from _functions(self._reading)


def _node(reading: Reading) -> Iterator[Metric]:
    info = GaugeMetricFamily("galago_worker_info", "The worker's version.", labels=["version"])
    info.add_metric([reading.version], 1)
    yield info
    yield _gauge("galago_uptime_seconds", "Since the coordinator was started.", "", {"": reading.uptime_s})
    yield _gauge("galago_tasks", "Tasks in the table.", "state", reading.tasks)
    yield _gauge("galago_tasks_queued", "Tasks that wait for a slot.", "", {"": reading.queued_tasks})
    yield _gauge("galago_runners", "Runner slots, by what they are.", "state", reading.runners)
    yield _gauge("galago_runners_memory_bytes", "Memory limits of runners.", "state", reading.memory_bytes)
    layers = {name: int(found) for name, found in reading.layers.items()}
    yield _gauge("galago_seal_layer", "Whether runners have this layer of the seal.", "layer", layers)
    restarts = CounterMetricFamily("galago_zygote_restarts", "Zygotes that had to be replaced.")
    restarts.add_metric([], reading.zygote_restarts)
    yield restarts


def _gauge(name: str, what: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, what, labels=[label] if label else [])
    for value_of, value in values.items():
        gauge.add_metric([value_of] if label else [], value)
    return gauge


def _functions(reading: Reading) -> Iterator[Metric]:
    calls = CounterMetricFamily("galago_function_calls", "Calls, by how they ended.", labels=[*_REVISION, "code"])
    runners = GaugeMetricFamily("galago_function_runners", "Runners of a revision.", labels=[*_REVISION, "state"])
    queued = GaugeMetricFamily("galago_function_calls_queued", "Calls that wait for a runner.", labels=_REVISION)
    cold = CounterMetricFamily("galago_function_cold_starts", "Calls that found no runner.", labels=_REVISION)
    fuel = CounterMetricFamily("galago_function_fuel", "Fuel that calls used.", labels=_REVISION)
    times = {
        "queue": HistogramMetricFamily("galago_function_queue_seconds", "Wait for a runner.", labels=_REVISION),
        "init": HistogramMetricFamily("galago_function_init_seconds", "Making of the instance.", labels=_REVISION),
        "run": HistogramMetricFamily("galago_function_run_seconds", "Run time of the guest.", labels=_REVISION),
    }
    for revision in reading.revisions:
        names = [revision.function, revision.revision]
        for code, number in sorted(revision.figures.outcomes.items()):
            calls.add_metric([*names, code], number)
        for state, number in revision.runners.items():
            runners.add_metric([*names, state], number)
        queued.add_metric(names, revision.queued)
        cold.add_metric(names, revision.cold_starts)
        fuel.add_metric(names, revision.figures.fuel)
        for name, family in times.items():
            _add_histogram(family, names, getattr(revision.figures, name))
    yield from (calls, runners, queued, cold, fuel, *times.values())


def _add_histogram(family: HistogramMetricFamily, names: list[str], histogram: Histogram) -> None:
    """Prometheus's buckets hold what the smaller ones hold, too."""
    buckets, so_far = [], 0
    for bound, count in zip([*_BOUNDS, "+Inf"], histogram.counts, strict=True):
        so_far += count
        buckets.append((bound, float(so_far)))
    family.add_metric(names, buckets, histogram.sum_us / 1_000_000)
