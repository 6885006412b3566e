"""A progress bar on a terminal. No thread draws it: between its updates it costs what is measured nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

tqdm.monitor_interval = 0  # else a thread of tqdm's wakes beside what is measured


class Progress:
    """Counts in seconds: each section has its share of the run, and moves within it by the clock."""

    def __init__(self, seconds: float) -> None:
        self._bar = tqdm(
            total=round(seconds),
            file=sys.stderr,
            disable=None,  # where stderr is no terminal
            leave=False,
            bar_format="{desc:<44.44} {bar} {percentage:3.0f}% {elapsed} of about {total_fmt} s",
        )
        self._done = 0.0
        self._share = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()

    def section(self, name: str, share_s: float) -> None:
        """The next section begins; the one before is over, however long it took."""
        self._done += self._share
        self._share = share_s
        self._started = time.monotonic()
        self.tick(name)

    def tick(self, what: str = "") -> None:
        """Something was done."""
        within = min(time.monotonic() - self._started, self._share * 0.98)
        if what:
            self._bar.set_description_str(what, refresh=False)
        self._bar.n = round(self._done + within)
        self._bar.refresh()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)
