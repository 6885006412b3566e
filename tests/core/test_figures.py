"""Figures: each duration is in one bucket, and a quantile is the bound of the bucket that it lies in."""

from __future__ import annotations

import pytest

from worker.core.figures import BUCKETS_US, bucket, empty, quantile


def counts(*durations_us: int) -> list[int]:
    histogram = empty()
    for duration_us in durations_us:
        histogram[bucket(duration_us)] += 1
    return histogram


def test_bounds_rise() -> None:
    assert sorted(set(BUCKETS_US)) == list(BUCKETS_US)


@pytest.mark.parametrize(
    ("duration_us", "expected"),
    [(0, 0), (50, 0), (51, 1), (1_000, 4), (30_000_000, len(BUCKETS_US) - 1), (10**12, len(BUCKETS_US))],
)
def test_a_bound_belongs_to_its_own_bucket(duration_us: int, expected: int) -> None:
    assert expected == bucket(duration_us)


@pytest.mark.parametrize(
    ("durations_us", "share", "expected"),
    [
        ((), 0.5, None),
        ((70,), 0.5, 100),
        ((40, 70, 150, 400), 0.5, 100),
        ((40, 70, 150, 400), 0.75, 200),
        ((40, 70, 150, 400), 0.99, 500),
        ((40, 70, 150, 400), 0.0, 50),
        ((10**12,), 0.5, BUCKETS_US[-1]),
    ],
)
def test_a_quantile_is_told_as_the_bound_of_its_bucket(
    durations_us: tuple[int, ...], share: float, expected: int | None
) -> None:
    assert expected == quantile(counts(*durations_us), share)


def test_a_share_above_all_is_the_last_bound() -> None:
    assert BUCKETS_US[-1] == quantile(counts(70), 1.5)
