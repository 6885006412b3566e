"""The two times that every decision is given: it never looks at a clock itself."""

from __future__ import annotations

from typing import NamedTuple


class Now(NamedTuple):
    """`wall_us`: microseconds since the epoch, for the record. `monotonic_us`: CLOCK_MONOTONIC, for every duration."""

    wall_us: int
    monotonic_us: int
