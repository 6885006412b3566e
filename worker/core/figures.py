"""How long calls took, as counts by bucket: API workers gather them, the coordinator adds up and tells quantiles."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# Upper bounds, microseconds: three a decade, from what a warm call takes to the longest that may be asked for.
BUCKETS_US = (
    *(50, 100, 200, 500),
    *(1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000),
    *(1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000),
)

# Where sums and counts stop rising, since whoever is told of them has 64 bits, or a float. Fuel is up to 2**63 - 1 a
# call, and what API workers say may be made up.
MOST_SUM, MOST_COUNT = 2**63 - 1, 2**53


def empty() -> list[int]:
    """A histogram with nothing in it: a count for each of BUCKETS_US, and one for what is longer."""
    return [0] * (len(BUCKETS_US) + 1)


def bucket(duration_us: int) -> int:
    """The index of the bucket that a duration belongs to."""
    return bisect_left(BUCKETS_US, duration_us)


def quantile(counts: Sequence[int], share: float) -> int | None:
    """The upper bound (microseconds) of the bucket in which the quantile lies; None without any count.

    What is longer than every bound is told as the last bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank, seen = share * total, 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= rank and count:
            return BUCKETS_US[min(index, len(BUCKETS_US) - 1)]
    return BUCKETS_US[-1]
