"""gunicorn's master, made to judge by the quarter of a second, to reload without a gap, and not to boot in a loop.

What its own does otherwise: it looks once a second, its timeouts are whole seconds; SIGABRT, its first blow, is nothing
to a stopped worker; a worker that never boots is never judged; one that ends while it boots comes back at full speed; a
reload ends the old workers before the new ones serve, waits for them deaf to signals, and lets them be killed meanwhile
as silent; a reload that can't boot ends everything; and a signal to a worker that was only just forked is lost.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from worker.errors import ExitCode
from worker.heartbeat import BEAT_MS, Heartbeat

# So many workers in a row that ended before they served, and there is no use in another.
BOOT_FAILURE_LIMIT = 3
# How soon it is seen that the first worker serves.
BOOT_POLL_S = 0.02


class Master(Arbiter):  # type: ignore[misc] # gunicorn is untyped
    """The parent of the API workers.

    Args:
        app: the gunicorn application.
        heartbeat: to the launcher; beaten by the loop that reaps.
        heartbeat_timeout_s: a worker silent that long is dead.
        start_timeout_s: so is one that doesn't serve after that long.
    """

    def __init__(self, app: Any, heartbeat: Heartbeat, heartbeat_timeout_s: float, start_timeout_s: float) -> None:
        super().__init__(app)
        self._heartbeat = heartbeat
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._start_timeout_s = start_timeout_s
        self._said_ready = False
        self._boot_failures = 0
        self._superseded: set[int] = set()
        self._retired: set[int] = set()
        self._judged = self._listening_since = time.monotonic()

    # The loop's turns

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        self._beat()
        patience_s = BEAT_MS / 1000 if self._said_ready else BOOT_POLL_S
        signals: list[int] = super().wait_for_signals(min(timeout, patience_s))
        return signals

    def reap_workers(self) -> None:
        """Reap, and judge: while it stops, this is all that the master does each tenth of a second."""
        self._beat()
        try:
            super().reap_workers()
        except HaltServer as halt:
            self._count_boot_failure(halt.reason)
        self.murder_workers()

    def _beat(self) -> None:
        self._heartbeat.beat()
        if any(self._serves(pid) for pid in self._current()):
            self._boot_failures = 0
            if not self._said_ready:
                self._said_ready = True
                self._heartbeat.ready()

    def murder_workers(self) -> None:
        """Kill the silent. A judge that was asleep itself (SIGSTOP) listens anew first."""
        now = time.monotonic()
        if now - self._judged > self._heartbeat_timeout_s / 2:
            self._listening_since = now
        self._judged = now
        for pid, worker in list(self.WORKERS.items()):
            beat = worker.tmp.last_update()
            since = max(beat or worker.born, self._listening_since)
            patience_s = self._heartbeat_timeout_s if beat else self._start_timeout_s
            if now - since > patience_s:
                self.log.error("worker %d is killed: no heartbeat for %.1f s", pid, now - since)
                self.kill_worker(pid, signal.SIGKILL)

    # How many, and which

    def manage_workers(self) -> None:
        """Keep `num_workers` of the current generation; retire the one before once all of this one serve."""
        self._superseded &= self.WORKERS.keys()
        self._retired &= self.WORKERS.keys()
        current = self._current()
        for _ in range(self.num_workers - len(current)):
            self.spawn_worker()
        if self._superseded and all(self._serves(pid) for pid in self._current()):
            self._retire(self._superseded)
        surplus = sorted(current, key=lambda pid: self.WORKERS[pid].age)[: max(0, len(current) - self.num_workers)]
        self._superseded.update(surplus)

    def spawn_worker(self) -> int:
        """Fork with all signals blocked, until the worker has its own handlers: else one that comes early goes into its
        copy of our queue, and it never ends (`Worker` unblocks them)."""
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid: int = super().spawn_worker()
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reload(self) -> None:
        """SIGHUP: a new generation by the configuration as it is now; the old one serves until the new one does."""
        try:
            self.app.reload()
        except Exception:  # a wrong configuration must not end what runs by the right one
            self.log.exception("the configuration can't be read again; everything stays as it was")
            return
        self.setup(self.app)
        self._superseded.update(self.WORKERS)
        self.manage_workers()

    def handle_usr2(self) -> None:
        """gunicorn would exec a second master here; ours are started by the launcher alone."""
        self.log.warning("SIGUSR2 does nothing")

    def note_exit(self, worker: Any) -> None:
        """gunicorn's child_exit hook: one was reaped."""
        if not worker.tmp.last_update() and worker.pid not in self._superseded:
            self._count_boot_failure(f"worker {worker.pid} ended before it served")

    def _current(self) -> list[int]:
        return [pid for pid in self.WORKERS if pid not in self._superseded]

    def _serves(self, pid: int) -> bool:
        return bool(self.WORKERS[pid].tmp.last_update())

    def _retire(self, pids: set[int]) -> None:
        for pid in pids - self._retired:
            self._retired.add(pid)
            self.kill_worker(pid, signal.SIGHUP)

    def _count_boot_failure(self, reason: str) -> None:
        """Give up after too many: keep the old generation if there is one, else end."""
        self._boot_failures += 1
        self.log.error("%s (%d of %d)", reason, self._boot_failures, BOOT_FAILURE_LIMIT)
        if self._boot_failures < BOOT_FAILURE_LIMIT:
            return
        kept = self._superseded - self._retired
        if not kept:
            raise HaltServer("the API workers don't boot", ExitCode.BOOT_FAILED)
        self.log.error("the reload failed; the workers from before it stay")
        for pid in self._current():
            self.kill_worker(pid, signal.SIGKILL)
        self._retired.update(self._current())
        self._superseded = set(self._current())
        self._boot_failures = 0
