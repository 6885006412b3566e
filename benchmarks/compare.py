"""One run beside an older one: what changed by more than either of them scatters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Row

# What has to be the same for two runs to be comparable, as they stand in a run's description.
CONDITIONS = ("cores", "processor", "kernel", "python", "root", "versions", "settings")


@dataclass(frozen=True, slots=True)
class Change:
    """Of one row: the older median, and the new one's ratio to it; `verdict` is "" within the spread."""

    before: float
    ratio: float
    verdict: str  # "better", "worse" or ""

    def __str__(self) -> str:
        return f"x{self.ratio:.2f} {self.verdict.upper()}".rstrip()


def compare(old: Sequence[Row], new: Sequence[Row]) -> dict[tuple[Any, ...], Change]:
    """By a row's key. It has changed where the two ranges between the quartiles don't touch.

    A row with a peer is judged only if its ratio to the peer moved the same way: what hit both alike is the machine's.
    """
    before = {row.key: row for row in old}
    found = {}
    for row in new:
        if (earlier := before.get(row.key)) is not None and earlier.ours.median:
            ratio = row.ours.median / earlier.ours.median
            found[row.key] = Change(earlier.ours.median, ratio, _verdict(earlier, row))
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What else differs between the two runs, a line each."""
    return [
        f"{name}: {old.get(name)} then, {new.get(name)} now" for name in CONDITIONS if old.get(name) != new.get(name)
    ]


def _verdict(old: Row, new: Row) -> str:
    grew, shrank = new.ours.low > old.ours.high, new.ours.high < old.ours.low
    if old.ratio is not None and new.ratio is not None:
        grew, shrank = grew and new.ratio > old.ratio, shrank and new.ratio < old.ratio
    if not (grew or shrank):
        return ""
    return "better" if grew == (new.better == "higher") else "worse"
