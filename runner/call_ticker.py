"""The thread that interrupts calls. As `runner.ticker`, but a call costs it no switch of threads.

It ticks every 5 ms while calls come, looks at each tick whether one runs and whether a signal was swallowed, and parks
itself after some idle ticks: 100 idle tickers would cost half a core. A call wakes it only if it is parked. A call's
deadline is counted in ticks from where the epoch stands at its start, and what the clock owes from there, so neither
what is pushed during one call nor how late the thread was before it reaches the next. (One tick may, that was decided
on just before: `ticks_of` has one to spare.)

A guest whose asker has gone is interrupted; one that blocks in the host, where no epoch reaches, has the alarm's margin
to return, and takes its process with it.

`running`, `_parked` and `_wake` change under the GIL alone: whoever parks says so before it looks for a call, whoever
begins one says so before it looks for the park; one of the two sees the other.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of it, at a price
import _thread
from time import monotonic_ns

from runner.invoke import ALARM_MARGIN_MS, TICK_MS
from runner.ticker import STACK_BYTES, TICK_NS, pushes_at

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable

    from runner.asker import Asker
    from runner.engine import Engine
    from runner.swallowed import Watch

# So many ticks without a call and it parks: a wake-up costs a call a switch of threads.
IDLE_TICKS = 2


class CallTicker:
    """One a process. `start` before the filter is installed; then `begin` and `end` around each call."""

    __slots__ = (
        *("_asker", "_cancel", "_due_ns", "_engine", "_idle", "_lock", "_looks", "_never", "_over", "_parked"),
        *("_started", "_stopped", "_stopping", "_ticks", "_wake", "_watch", "running"),
    )

    def __init__(self, engine: Engine, asker: Asker, watch: Watch) -> None:
        self._engine = engine
        self._asker = asker
        self._wake = _thread.allocate_lock()
        self._never = _thread.allocate_lock()
        self._started = _thread.allocate_lock()
        self._lock = _thread.allocate_lock()  # held by whoever touches the connection of a call that runs
        self._watch = watch
        self._ticks = self._idle = self._looks = self._stopping = self._due_ns = 0
        self._over: Callable[[], bool] | None = None
        self.running = self._cancel = self._stopped = False
        self._parked = False

    def start(self) -> None:
        """Start the thread and wait until it runs, so that a filter for all threads finds it."""
        for lock in (self._wake, self._never, self._started):
            lock.acquire()
        _thread.stack_size(STACK_BYTES)
        self._parked = True
        _thread.start_new_thread(self._run, ())
        self._started.acquire()

    def begin(self, ticks: int, cancel: bool, over: Callable[[], bool] | None = None) -> None:
        """A call begins, to be over after so many ticks.

        Args:
            cancel: stop it when its asker has gone.
            over: asked at each tick whether it has to be interrupted for a reason of its own.
        """
        self._ticks = ticks
        self._cancel = cancel
        self._over = over
        self._idle = self._looks = self._stopping = 0
        self._stopped = False
        self._due_ns = monotonic_ns() + TICK_NS
        self.running = True
        if self._parked:
            self._parked = False
            self._wake.release()

    def end(self) -> None:
        """The call is over: from here on nothing is sent but its answer."""
        with self._lock:
            self.running = False

    def stopped(self) -> bool:
        """Whether this call was stopped since its asker has gone."""
        return self._stopped

    def _run(self) -> None:
        self._started.release()
        while True:
            self._wake.acquire()
            self._tick_while_calls_come()

    def _tick_while_calls_come(self) -> None:
        tick, interval_s = self._engine.increment_epoch, TICK_MS / 1000
        due_ns = 0
        while True:
            self._never.acquire(True, interval_s)
            if self.running:
                # As many as the clock says: on a loaded node the thread comes late, and the deadline must not.
                now_ns = monotonic_ns()
                while (due_ns := max(due_ns, self._due_ns)) <= now_ns:
                    tick()
                    due_ns += TICK_NS
            self._watch.look()
            if self.running:
                self._look()
                continue
            self._idle += 1
            if self._idle > IDLE_TICKS and self._parks():
                return

    def _parks(self) -> bool:
        self._wake.acquire(False)  # a wake-up that came as it decided not to park
        self._parked = True
        if self.running:
            self._parked = False
            return False
        return True

    def _look(self) -> None:
        """At a tick within a call: tell its asker that it runs, and stop it where it has to be."""
        with self._lock:
            if not self.running:
                return
            self._looks += 1
            if self._looks == 2:  # at the first it may have run for no time at all
                self._asker.mark()
            if self._cancel and not self._stopped and not self._asker.is_there():
                self._stopped = True
                _alarm_soon()
            if self._stopped or (self._over is not None and self._over()):
                self._stopping += 1
                if pushes_at(self._stopping):
                    for _ in range(self._ticks):
                        self._engine.increment_epoch()


def _alarm_soon() -> None:
    """Have the call's alarm come within its margin."""
    margin_s = ALARM_MARGIN_MS / 1000
    left_s, _ = _signal.setitimer(_signal.ITIMER_REAL, margin_s)
    if left_s < margin_s:
        _signal.setitimer(_signal.ITIMER_REAL, left_s)
