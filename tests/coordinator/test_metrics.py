"""The metrics' text: read back by Prometheus's own parser, and handed out in parts of whole lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.coordinator.background import Background
from worker.coordinator.call_figures import ServiceFigures
from worker.coordinator.metrics import PART_BYTES, Metrics, Reading, RevisionReading, render, split
from worker.coordinator.poller import Poller
from worker.core.commands import CallFigures
from worker.core.figures import empty


def _figures() -> ServiceFigures:
    figures, counts = ServiceFigures(), empty()
    counts[0], counts[3], counts[-1] = 4, 2, 1
    figures.add(CallFigures("a", (("ok", 6), ("guest_trap", 1)), fuel=70, run=tuple(counts), run_us=2_500_000))
    return figures


def _revision(function: str = "f", revision: str = "r1") -> RevisionReading:
    return RevisionReading(function, revision, {"idle": 2, "busy": 1, "starting": 0}, 3, 4, _figures())


READING = Reading(
    version="1.2",
    uptime_s=1.5,
    tasks={"pending": 1, "running": 2},
    queued_tasks=5,
    runners={"serving": 3, "free": 5},
    memory_bytes={"used": 10, "total": 20},
    layers={"seccomp": True, "cgroup": False},
    zygote_restarts=1,
    revisions=(_revision(), _revision("g", 'r"\\2')),
)


def _samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_the_node_is_told() -> None:
    samples = _samples(render(READING))
    for expected, name, *labels in (
        (1, "galago_worker_info", ("version", "1.2")),
        (1.5, "galago_uptime_seconds"),
        (2, "galago_tasks", ("state", "running")),
        (5, "galago_tasks_queued"),
        (3, "galago_runners", ("state", "serving")),
        (20, "galago_runners_memory_bytes", ("state", "total")),
        (1, "galago_seal_layer", ("layer", "seccomp")),
        (0, "galago_seal_layer", ("layer", "cgroup")),
        (1, "galago_zygote_restarts_total"),
    ):
        assert expected == samples[name, tuple(labels)]


@pytest.mark.parametrize(("function", "revision"), [("f", "r1"), ("g", 'r"\\2')])
def test_each_revision_is_told(function: str, revision: str) -> None:
    samples = _samples(render(READING))
    names = (("function", function), ("revision", revision))
    for expected, name, *labels in (
        (6, "galago_function_calls_total", ("code", "ok")),
        (1, "galago_function_calls_total", ("code", "guest_trap")),
        (2, "galago_function_runners", ("state", "idle")),
        (3, "galago_function_calls_queued"),
        (4, "galago_function_cold_starts_total"),
        (70, "galago_function_fuel_total"),
        (7, "galago_function_run_seconds_count"),
        (2.5, "galago_function_run_seconds_sum"),
        (4, "galago_function_run_seconds_bucket", ("le", "5e-05")),
        (6, "galago_function_run_seconds_bucket", ("le", "0.0005")),
        (6, "galago_function_run_seconds_bucket", ("le", "30.0")),
        (7, "galago_function_run_seconds_bucket", ("le", "+Inf")),
        (0, "galago_function_queue_seconds_count"),
    ):
        assert expected == samples[name, tuple(sorted((*names, *labels)))]


def test_a_node_without_functions_tells_its_own() -> None:
    bare = Reading("1", 0, {}, 0, {}, {}, {}, 0)
    assert 0 == _samples(render(bare))["galago_tasks_queued", ()]


@pytest.mark.parametrize("most", [1, 10, 1000, PART_BYTES])
def test_a_text_is_split_between_lines(most: int) -> None:
    text = render(READING)
    parts = split(text, most)
    assert text == b"".join(parts)
    assert all(part.endswith(b"\n") for part in parts)
    assert all(len(part) <= most or 1 == part.count(b"\n") for part in parts)


class Asking:
    """Metrics, and who asks for them."""

    def __init__(self, eventually: Callable[..., None]) -> None:
        self.poller = Poller()
        self.background = Background(self.poller)
        self.readings = 0
        self.metrics = Metrics(self._read, self.background, askers=4)
        self._eventually = eventually

    def _read(self) -> Reading:
        self.readings += 1
        many = tuple(_revision(f"f{number}") for number in range(30))
        return Reading(str(self.readings), 0, {}, 0, {}, {}, {}, 0, many)

    def part(self, asker: str, number: int) -> tuple[bytes, bool]:
        answers: list[tuple[bytes, bool]] = []
        self.metrics.part(asker, number, lambda body, more: answers.append((body, more)))

        def answered() -> bool:
            self.poller.poll(0.01)
            return bool(answers)

        self._eventually(answered)
        return answers[0]

    def close(self) -> None:
        self.background.close()
        self.poller.close()


@pytest.fixture
def asking(eventually: Callable[..., None]) -> Iterator[Asking]:
    made = Asking(eventually)
    yield made
    made.close()


def test_one_reading_comes_in_parts(asking: Asking) -> None:
    text, number, more = b"", 0, True
    while more:
        part, more = asking.part("a", number)
        assert 0 < len(part) <= PART_BYTES
        text, number = text + part, number + 1
    assert (True, 1) == (number > 1, asking.readings)
    assert 7 == _samples(text)["galago_function_run_seconds_count", (("function", "f29"), ("revision", "r1"))]
    assert (b"", False) == asking.part("a", number)


def test_two_askers_each_have_their_reading(asking: Asking) -> None:
    for asker in "ab":
        asking.part(asker, 0)
    whole = {asker: asking.part(asker, 1)[0] for asker in "ba"}
    assert (2, whole["a"]) == (asking.readings, whole["b"])


def test_readings_that_nobody_fetches_are_forgotten(asking: Asking) -> None:
    for number in range(5):
        asking.part(f"asker {number}", 0)
    assert (b"", False) == asking.part("asker 0", 1)
    assert all(asking.part(f"asker {number}", 1)[0] for number in range(1, 5))


@pytest.mark.parametrize("number", [-1, 1, 99])
def test_a_part_of_nothing_is_nothing(asking: Asking, number: int) -> None:
    assert ((b"", False), 0) == (asking.part("a", number), asking.readings)
