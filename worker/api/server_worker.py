"""One gunicorn worker: an event loop, the application, and an end that loses no request.

Two ends: SIGHUP retires a worker whose successors serve already (a reload), SIGTERM stops it for good. In both it stops
accepting, finishes what is in flight and says `Connection: close` with it. They differ in how long an idle connection
may stay to be told so: a request may be on its way on it, and closing would lose that.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from gunicorn.workers.gasgi import ASGIWorker
from gunicorn.workers.workertmp import WorkerTmp

from worker import capabilities
from worker.api.server_connection import Connection
from worker.api.server_listeners import Listeners
from worker.errors import ExitCode
from worker.heartbeat import BEAT_MS
from worker.shared.page import PageReader

# When a worker stops for good, for a request that is on its way on an idle connection.
STOP_LINGER_S = 0.05
_POLL_S = 0.02
LATE_IMPORTS = ("concurrent.futures.thread", "email.utils", "encodings.idna", "encodings.latin_1", "traceback")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker process allows: connections at once, bytes, seconds."""

    connections: int
    head_bytes: int
    head_timeout_s: float
    write_timeout_s: float
    reload_linger_s: float


class Beat(WorkerTmp):  # type: ignore[misc] # gunicorn is untyped
    """gunicorn's heartbeat file, in memory: a touch each quarter of a second is nothing for a disk.

    Its time is CLOCK_MONOTONIC, 0 until the worker serves.
    """

    def __init__(self) -> None:
        self._tmp = os.fdopen(os.memfd_create("galago-worker-beat", os.MFD_CLOEXEC), "w+b", 0)
        os.utime(self._tmp.fileno(), (0, 0))
        self._last = 0.0

    def last_update(self) -> float:
        if not self._tmp.closed:
            self._last = os.fstat(self._tmp.fileno()).st_mtime
        return self._last

    def close(self) -> None:
        """What it said last is still known after."""
        self.last_update()
        self._tmp.close()


class Worker(ASGIWorker):  # type: ignore[misc] # gunicorn is untyped
    """A process that serves HTTP. The application gives it `limits` and `page`."""

    tmp: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tmp.close()
        self.tmp = Beat()
        self.born = time.monotonic()
        self.limits: Limits = self.app.limits
        self.announce_close = False
        self.connections: dict[Connection, None] = {}
        self._page: PageReader = self.app.page
        self._linger_s: float | None = None
        self._told_to_end: asyncio.Event
        self._listeners: Listeners

    # Connections

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more. An idle connection makes room: HTTP/1.1 allows to close it any time."""
        if len(self.connections) >= self.limits.connections:
            spare = next((other for other in self.connections if other.spare), None)
            if spare is None:
                return False
            spare.close_idle()
            self.release(spare)
        self.connections[connection] = None
        self._listeners.fit(len(self.connections))
        return True

    def release(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    # Signals

    def init_signals(self) -> None:
        super().init_signals()
        self._told_to_end = asyncio.Event()
        self.loop.add_signal_handler(signal.SIGHUP, self.end, self.limits.reload_linger_s)

    def handle_exit_signal(self) -> None:
        self.end(STOP_LINGER_S)

    def handle_quit_signal(self) -> None:
        self._quick_shutdown = True
        self.end(0)

    def end(self, linger_s: float) -> None:
        """Serve what is here and end. A second call may only shorten how long idle connections stay."""
        self._linger_s = linger_s if self._linger_s is None else min(linger_s, self._linger_s)
        self._told_to_end.set()

    # The life of the process

    def run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        except Exception:  # whatever it was, it is told, and the exit code says what it means
            self.log.exception("the worker failed")
            raise SystemExit(ExitCode.INTERNAL if self.tmp.last_update() else ExitCode.BOOT_FAILED) from None
        finally:
            self._cleanup()

    async def _serve(self) -> None:
        # Blocked by `Master.spawn_worker`, until now: uvloop loses a signal that comes before it runs.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.state["retiring"] = self._told_to_end
        await self._start_application()
        _import_late()
        capabilities.drop_all()
        makers = [partial(Connection, self, calls_only=index > 0) for index in range(len(self.sockets))]
        self._listeners = Listeners(self.loop, list(zip([each.sock for each in self.sockets], makers, strict=True)))
        await self._listeners.open()
        while not self._told_to_end.is_set() and self.ppid == os.getppid():
            self._show_life()
            self._listeners.fit(len(self.connections))
            await _wait(self._told_to_end, BEAT_MS / 1000)
        await self._finish()
        if self.lifespan and not self._quick_shutdown:
            await asyncio.wait_for(self.lifespan.shutdown(), self.limits.write_timeout_s)

    async def _start_application(self) -> None:
        from gunicorn.asgi.lifespan import LifespanManager

        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as exc:  # whatever it is, this application can't serve
            self.log.error("the application did not start: %s", exc)
            self.lifespan = None
            raise SystemExit(ExitCode.BOOT_FAILED) from exc

    def _show_life(self) -> None:
        self.notify()
        # A load balancer that keeps connections learns from each answer that it should leave.
        self.announce_close = self._told_to_end.is_set() or self._page.draining

    async def _finish(self) -> None:
        """Accept no more, answer what is here, and let go of the idle when they had their time."""
        self._listeners.close()
        started = self.loop.time()
        beat_at = started
        while self.connections and not self._quick_shutdown:
            now = self.loop.time()
            if now >= beat_at:
                self._show_life()
                beat_at = now + BEAT_MS / 1000
            if now - started >= self.cfg.graceful_timeout:
                self.log.warning("%d connections are cut", len(self.connections))
                return
            if now - started >= (self._linger_s or 0):
                for connection in list(self.connections):
                    if connection.idle:
                        connection.close_idle()
            await asyncio.sleep(_POLL_S)


def _import_late() -> None:
    """What is otherwise imported while serving, and might not be readable once the last capability is dropped."""
    for name in LATE_IMPORTS:
        importlib.import_module(name)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
