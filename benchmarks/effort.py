"""How long a run takes: for a figure, for a look, or only to see that everything still runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Sizes of everything that is measured."""

    name: str
    seconds: float  # what all sections take together, about; for the progress bar alone
    rounds: int  # in which all contenders take their turn
    batch: int  # single shots of a contender in its turn
    load_s: float  # how long a contender is loaded in its turn
    work: float  # of the work that a guest does to be timed, the share
    idle_s: float  # how long a node is watched doing nothing
    points: int  # of each curve
    functions: int  # deployed at once in `density`
    largest: float  # of what has to be made first, the largest share that is tried: 1 is all
    large_guests: bool  # CPython, whose compilation takes longer than everything else

    def some(self, points: Sequence[int]) -> list[int]:
        """Those of a curve's points that are taken: the ends, and what fits between; of one, the middle."""
        if len(points) <= self.points:
            return list(points)
        if self.points == 1:
            return [points[len(points) // 2]]
        step = (len(points) - 1) / (self.points - 1)
        return [points[round(index * step)] for index in range(self.points)]

    def few(self, points: Sequence[int]) -> list[int]:
        """As `some`, of what takes the longer to make ready the larger it is."""
        return self.some([point for point in points if point <= points[-1] * self.largest] or [points[0]])


FULL = Effort("full", 1200, 6, 20, 2.0, 1.0, 10.0, 12, 100, 1.0, True)
QUICK = Effort("quick", 120, 2, 8, 1.0, 0.3, 2.0, 3, 100, 0.1, False)
# Every path once: what it answers is judged, no figure of it means anything.
CHECK = Effort("check", 30, 1, 2, 0.1, 0.0, 0.1, 1, 3, 0.001, False)
