"""The coordinator's loop: wait, tell the core what happened, carry out what it wants, and again. Nothing here decides.

One thread. Nothing in it waits for a disk, a peer or a child: commits, cached artifacts and stored ones go through
threads beside it, all sockets and pipes are nonblocking, and forking is the zygote's work.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from worker.coordinator.artifacts import Artifacts
from worker.coordinator.calls import Calls
from worker.coordinator.commit import CommitThread
from worker.coordinator.fetches import Fetches
from worker.coordinator.perform import Hands
from worker.coordinator.poller import READ, Poller
from worker.coordinator.zygote import Zygote
from worker.core.clock import Now
from worker.core.commands import Reply
from worker.core.node import Node
from worker.heartbeat import BEAT_MS, Heartbeat
from worker.shared.channel import Connection, Server
from worker.shared.page import PageWriter

# A worker that dies over an upload is nobody's connection, so that nobody would tell of it.
SWEEP_US = 2_000_000


def clock() -> Now:
    return Now(time.time_ns() // 1000, time.monotonic_ns() // 1000)


class ChannelAnswers:
    """Replies to API workers; an origin is (connection, request id)."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def send(self, origin: Any, reply: Reply) -> None:
        connection, request_id = origin
        self._server.send(connection, request_id, reply)

    def asker(self, origin: Any) -> Connection:
        connection: Connection = origin[0]
        return connection


class Loop:
    """Everything that the coordinator listens to, in one epoll.

    Args:
        drain_us: how long a drain may take before what still runs is stopped.
        sweep: called every SWEEP_US, to remove what a dead API worker was writing.
    """

    def __init__(
        self,
        node: Node,
        hands: Hands,
        *,
        poller: Poller,
        server: Server,
        commits: CommitThread,
        zygote: Zygote,
        artifacts: Artifacts,
        fetches: Fetches,
        calls: Calls,
        page: PageWriter,
        heartbeat: Heartbeat,
        drain_us: int,
        sweep: Callable[[], None],
    ) -> None:
        self._node = node
        self._hands = hands
        self._poller = poller
        self._server = server
        self._commits = commits
        self._zygote = zygote
        self._artifacts = artifacts
        self._fetches = fetches
        self._calls = calls
        self._page = page
        self._heartbeat = heartbeat
        self._drain_us = drain_us
        self._sweep = sweep
        self._next_sweep_us = 0
        self._drain_ends_us: int | None = None
        self._said_drained = False
        self._leaving = False
        self._connections: set[Connection] = set()
        self._next_beat_us = 0
        self._ready = False
        self._told_load: tuple[int, int, int] | None = None
        self._calls_waiting = 0
        self._signals, self._signals_in = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def fds(self) -> dict[int, str]:
        """Its own descriptors, and what they are."""
        return dict.fromkeys((self._signals.fileno(), self._signals_in.fileno()), "signals")

    def run(self) -> None:
        """Until it was drained and told to end: by a first SIGTERM or SIGINT, and a second."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._signals_in.fileno())
        self._poller.add(self._signals.fileno(), self._on_signal, READ)
        self._poller.add(self._server.fileno(), self._on_commands, READ)
        self._poller.add(self._commits.fileno(), self._on_commits, READ)
        self._zygote.ensure()
        self._settle()
        while not self._done():
            self._poller.poll(self._timeout_s())
            self._node.tick(clock())
            self._settle()

    def _settle(self) -> None:
        """Carry out effects until there are none: some are answered at once and lead to more."""
        self._beat()
        while effects := self._node.take_effects(clock()):
            self._hands.perform(effects)
        self._hands.answer_audits()
        self._artifacts.trim()
        self._tell_load()

    def _tell_load(self) -> None:
        """How full we are, for `/readyz`. Calls that wait are counted with each beat: there may be many services."""
        node = self._node
        load = (node.pool.slots, node.pool.free, len(node.jobs.queue))
        if load != self._told_load:
            self._told_load = load
            self._page.set_load(*load, self._calls_waiting)

    def _timeout_s(self) -> float:
        due_us = self._next_beat_us
        timer_us = self._node.timers.next_due_us()
        if timer_us is not None:
            due_us = min(due_us, timer_us)
        # Up, not down: waking a moment too early would be a turn for nothing.
        return max(0.0, (due_us - clock().monotonic_us + 999) // 1000 / 1000)

    def _beat(self) -> None:
        """Every 250 ms: say that we live, and look after those that should say so to us."""
        now_us = clock().monotonic_us
        if now_us < self._next_beat_us:
            return
        self._next_beat_us = now_us + BEAT_MS * 1000
        self._heartbeat.beat()
        self._page.beat(now_us)
        self._zygote.check_heartbeat(now_us)
        self._artifacts.kill_overdue(now_us)
        self._fetches.kill_overdue()
        self._calls.figures.forget_ended()
        self._calls.look()
        self._calls_waiting = self._node.services.waiting_calls
        self._told_load = None
        self._on_commands(0)  # a listener that had no descriptor left for a connection is listened to again
        self._forget_closed()
        if now_us >= self._next_sweep_us:
            self._next_sweep_us = now_us + SWEEP_US
            self._sweep()
        if not self._ready and self._zygote.ready:
            self._ready = True
            self._page.set_ready(True)
            self._heartbeat.ready()

    def _on_commands(self, _: int) -> None:
        for request in self._server.receive():
            self._connections.add(request.connection)
            self._node.command((request.connection, request.request_id), request.command, clock())

    def _on_commits(self, _: int) -> None:
        now = clock()
        for ticket, result in self._commits.results():
            assert isinstance(ticket, int)
            self._node.committed(ticket, result, now)

    def _forget_closed(self) -> None:
        """API workers that are gone: nobody watches for them."""
        gone = {connection for connection in self._connections if connection.closed}
        if gone:
            self._connections -= gone
            self._node.forget(lambda origin: isinstance(origin, tuple) and origin[0] in gone)

    def _on_signal(self, _: int) -> None:
        for number in self._signals.recv(64):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._told_to_stop()

    def _told_to_stop(self) -> None:
        """The first time: drain, say when that is done, and stay for the API workers' sake. The second time: end."""
        now = clock()
        if self._drain_ends_us is None:
            self._page.set_draining(True)
            self._node.drain(clock())
            self._drain_ends_us = now.monotonic_us + self._drain_us
        else:
            self._drain_ends_us, self._leaving = now.monotonic_us, True

    def _done(self) -> bool:
        """Whether to end; on the way there, stop what outlives the drain's budget."""
        if self._drain_ends_us is None:
            return False
        if self._node.idle:
            if not self._said_drained:
                self._said_drained = True
                self._heartbeat.drained()
            return self._leaving
        if clock().monotonic_us >= self._drain_ends_us:
            self._node.stop_running(clock())
            self._settle()
        return False
