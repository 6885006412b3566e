"""The thread that interrupts a guest: it pushes the engine's epoch every 5 ms while a job runs, else it is parked.

At each tick it looks for a STOP on the control socket, without waiting, and pushes the epoch past the guest's deadline
if there is one; and whether a signal was swallowed (`runner.swallowed`). 100 idle tickers would cost half a core, so
between jobs it sleeps on a lock that nobody holds.
"""

from __future__ import annotations

import _thread
from time import monotonic_ns

from runner.invoke import TICK_MS, ticks_of
from runner.protocol import CONTROL_FD
from runner.protocol.control import STOP

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable

    from runner.engine import Engine
    from runner.messages import Mailbox
    from runner.swallowed import Watch

# The least that a Python thread lives in; each page of it that is touched is paid for at every fork.
STACK_BYTES = 128 * 1024
_ENDED = -2
TICK_NS = TICK_MS * 1_000_000


def pushes_at(stopping: int) -> bool:
    """Whether the epoch is pushed past the deadline at the tick of that number, counted from 1, of a guest that has to
    stop. Once is enough, but for a deadline that was set just after; each time would be thousands of pushes a tick."""
    return not stopping & (stopping - 1)


class Ticker:
    """One a process. `start` before the filter is installed; then `begin` and `end` around each job."""

    __slots__ = (
        "_engine",
        "_idle",
        "_listening",
        "_mailbox",
        "_over",
        "_park",
        "_stopped",
        "_ticks",
        "_wake",
        "_watch",
    )

    def __init__(self, engine: Engine, mailbox: Mailbox, watch: Watch) -> None:
        """Nothing starts yet: made in the zygote, so that the child finds it warm."""
        self._engine = engine
        self._mailbox = mailbox
        self._wake = _thread.allocate_lock()
        self._park = _thread.allocate_lock()
        self._idle = _thread.allocate_lock()
        self._ticks = 0
        self._over: Callable[[], bool] | None = None
        self._stopped = False
        self._listening = True
        self._watch = watch

    def start(self) -> None:
        """Start the thread and wait until it runs, so that a filter for all threads finds it."""
        for lock in (self._wake, self._park, self._idle):
            lock.acquire()
        _thread.stack_size(STACK_BYTES)
        _thread.start_new_thread(self._run, ())
        self._idle.acquire()

    def begin(self, wall_ms: int, over: Callable[[], bool] | None = None) -> None:
        """A job begins. `over` is asked at each tick whether it has to be interrupted for a reason of its own."""
        self._ticks = ticks_of(wall_ms)
        self._over = over
        self._stopped = False
        self._wake.release()

    def end(self) -> None:
        """The job is over: returns once the thread is parked, so that it never touches the next one's deadline."""
        self._park.release()
        self._idle.acquire()

    def stopped(self) -> bool:
        """Whether a STOP came during this job."""
        return self._stopped

    def _run(self) -> None:
        interval_s = TICK_MS / 1000
        tick = self._engine.increment_epoch
        while True:
            self._idle.release()
            self._wake.acquire()
            due_ns = monotonic_ns() + TICK_NS
            stopping = 0  # ticks since it has to stop
            while not self._park.acquire(True, interval_s):
                # As many as the clock says: on a loaded node the thread comes late, and the deadline must not.
                now_ns = monotonic_ns()
                while due_ns <= now_ns:
                    tick()
                    due_ns += TICK_NS
                self._watch.look()
                if self._has_to_stop():
                    stopping += 1
                    if pushes_at(stopping):
                        for _ in range(self._ticks):
                            tick()

    def _has_to_stop(self) -> bool:
        if self._listening:
            kind = self._mailbox.look(CONTROL_FD)
            if kind == STOP:
                self._mailbox.skip(CONTROL_FD)
                self._stopped = True
            elif kind == _ENDED:
                self._listening = False  # nothing will come any more; the job goes on
        return self._stopped or (self._over is not None and self._over())
