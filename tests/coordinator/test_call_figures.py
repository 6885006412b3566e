"""What API workers report of calls is added up for each service that lives, and what is no report counts nothing."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from worker.coordinator.call_figures import MOST_CODES, Figures, ServiceFigures
from worker.core.commands import CallFigures
from worker.core.figures import BUCKETS_US, bucket, empty


def _counts(*durations_us: int) -> tuple[int, ...]:
    counts = empty()
    for duration_us in durations_us:
        counts[bucket(duration_us)] += 1
    return tuple(counts)


SEEN = CallFigures(
    "a",
    (("ok", 2), ("deadline", 1)),
    fuel=1000,
    queue=_counts(10, 10, 10),
    queue_us=30,
    init=_counts(30, 30, 30),
    init_us=90,
    run=_counts(100, 200, 10_000),
    run_us=10_300,
)


@pytest.fixture
def alive() -> set[str]:
    return {"a", "b"}


@pytest.fixture
def figures(alive: set[str]) -> Figures:
    return Figures(alive.__contains__)


def test_reports_are_added_up(figures: Figures) -> None:
    figures.add((SEEN, SEEN))
    figures.add((replace(SEEN, outcomes=(("guest_trap", 1),), queue=(), queue_us=0),))
    document = figures.of("a").document()
    assert (7, {"deadline": 2, "guest_trap": 1}, 3000) == (document["calls"], document["errors"], document["fuel"])
    assert {"p50": 50, "p90": 50, "p99": 50, "mean": 10} == document["queue_us"]
    assert {"p50": 200, "p90": 10_000, "p99": 10_000, "mean": 3433} == document["run_us"]


def test_what_was_never_called_has_no_times(figures: Figures) -> None:
    nothing = {"p50": None, "p90": None, "p99": None, "mean": None}
    times = {"queue_us": nothing, "init_us": nothing, "run_us": nothing}
    assert {"calls": 0, "errors": {}, "fuel": 0, **times} == figures.of("a").document()


def test_services_are_told_apart(figures: Figures) -> None:
    figures.add((SEEN, replace(SEEN, task_id="b", outcomes=(("ok", 5),))))
    assert (3, 5) == (figures.of("a").calls, figures.of("b").calls)


def test_a_service_that_ended_is_forgotten_and_never_comes_back(figures: Figures, alive: set[str]) -> None:
    figures.add((SEEN,))
    alive.discard("a")
    figures.forget_ended()
    figures.add((SEEN,))
    alive.add("a")
    assert 0 == figures.of("a").calls


@pytest.mark.parametrize(
    "bad",
    [
        replace(SEEN, task_id="nobody"),
        replace(SEEN, outcomes=(("ok", -1),)),
        replace(SEEN, outcomes=(("ok", 2**63),)),
        replace(SEEN, outcomes=(("x" * 41, 1),)),
        replace(SEEN, outcomes=(("", 1),)),
        replace(SEEN, outcomes=(('a"} 1\nb', 1),)),
        replace(SEEN, outcomes=(("é", 1),)),
        replace(SEEN, outcomes=tuple((f"c{number}", 1) for number in range(MOST_CODES + 1))),
        replace(SEEN, fuel=-1),
        replace(SEEN, run_us=-1),
        replace(SEEN, queue=(1, 2)),
        replace(SEEN, run=(*empty(), 0)),
        replace(SEEN, init=(-1, *empty()[1:])),
    ],
)
def test_what_is_no_report_counts_nothing(figures: Figures, bad: CallFigures) -> None:
    figures.add((bad, replace(SEEN, task_id="b")))
    assert (ServiceFigures(), 3) == (figures.of(bad.task_id), figures.of("b").calls)


def test_what_is_made_up_stops_rising_where_it_could_not_be_told(figures: Figures) -> None:
    most = 2**63 - 1
    full = tuple(most for _ in empty())
    made_up = CallFigures("a", (("ok", most), ("fuel", most)), most, full, most, full, most, full, most)
    figures.add([made_up] * 4)
    found = figures.of("a")
    orjson.dumps(found.document())
    assert (2**53, 2**53, {"fuel": 2**53}, most) == (found.calls, found.failed, found.errors, found.fuel)
    assert ([2**53] * len(full), most) == (found.run.counts, found.run.sum_us)


def test_codes_cannot_pile_up(figures: Figures) -> None:
    for number in range(MOST_CODES * 2):
        figures.add((replace(SEEN, outcomes=((f"c{number}", 1),)),))
    assert MOST_CODES == figures.of("a").calls


def test_a_copy_stays_as_it_was(figures: Figures) -> None:
    figures.add((SEEN,))
    copy = figures.of("a").copy()
    before = copy.document()
    figures.add((SEEN, SEEN))
    assert (before, 9) == (copy.document(), figures.of("a").calls)


def test_a_histogram_has_a_bucket_for_what_is_longest(figures: Figures) -> None:
    figures.add((replace(SEEN, run=_counts(10**12), run_us=10**12),))
    assert BUCKETS_US[-1] == figures.of("a").document()["run_us"]["p50"]
