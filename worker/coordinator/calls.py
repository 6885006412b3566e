"""Calls, as far as the coordinator has to do with them: their listeners, who serves them, and what is told of both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from worker.coordinator.call_figures import Figures
from worker.coordinator.listeners import Listeners
from worker.coordinator.servers import Servers
from worker.coordinator.serving import service_of
from worker.core.clock import Now
from worker.core.node import Node
from worker.core.task import Task

_log = logging.getLogger("worker.coordinator")


class Calls:
    """What the core's effects need of listeners, servers and figures together."""

    def __init__(
        self, node: Node, listeners: Listeners, servers: Servers, figures: Figures, clock: Callable[[], Now]
    ) -> None:
        self._node = node
        self.listeners = listeners
        self.servers = servers
        self.figures = figures
        self._clock = clock

    def open(self, task: Task) -> None:
        """Have the service's listener. Where that fails, the start of its next runner tries again, and tells."""
        try:
            self.listeners.open(task.id, service_of(task).scale.queue)
        except OSError as error:
            _log.warning("the calls of %s can't be listened for: %s", task.id, error)

    def close(self, task_id: str) -> None:
        self.listeners.close(task_id)

    def retire(self, task_id: str) -> None:
        """Have one of its runners end after its call, and tell the core which was told, if one could be."""
        runner_id = self.servers.retire(task_id, self.listeners.waiting(task_id) > 0)
        if runner_id is not None or self.listeners.retire(task_id):
            self._node.traffic.retire_asked(task_id, runner_id, self._clock())

    def look(self) -> None:
        """Tell the core of services whose runners' records show that something went on since the last look.

        A call that an idle runner takes at once may never be seen to wait on its listener.
        """
        for task_id in self.servers.active():
            self._node.traffic.look(task_id, self._clock())

    def sample(self, task_ids: Iterable[str]) -> None:
        """Tell the core how many calls wait, and which runners are busy."""
        for task_id in task_ids:
            if task_id in self.listeners:
                busy, calls = self.servers.seen(task_id)
                self._node.services.sampled(task_id, self.listeners.waiting(task_id), busy, calls, self._clock())
