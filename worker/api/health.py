"""`/livez`, `/healthz`, `/readyz`: whether this process lives, and whether the worker takes work.

Being full is no reason to be taken out of a pool: `/readyz` is 200 then, and says how full in its body.
"""

from __future__ import annotations

from contextlib import suppress

import orjson
from falcon.asgi import Request, Response

from worker.api.problems import Problem
from worker.api.resource import Resource, answer
from worker.api.services import Services
from worker.core.task import State
from worker.errors import TableError


class Live(Resource):
    """This process answers."""

    async def on_get(self, _req: Request, resp: Response) -> None:
        answer(resp, b'{"status":"ok"}')


class Ready(Resource):
    """The worker takes work: it isn't starting, not draining, and has a coordinator."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, _req: Request, resp: Response) -> None:
        why = self._why_not()
        fullness = self._fullness(why)
        if why is not None:
            code, status, detail = why
            raise Problem(code, detail, executed="no", extra={"ready": False, "state": status, **fullness})
        answer(resp, orjson.dumps({"ready": True, "state": "ready", **fullness}))

    def _why_not(self) -> tuple[str, str, str] | None:
        """(code, state, detail) where the worker takes no work."""
        page = self._services.page
        if page.draining:
            return "draining", "draining", "this worker takes no new work"
        if not page.ready:
            return "coordinator_unavailable", "starting", "the coordinator is starting"
        silent_us = self._services.clock.monotonic_us() - page.coordinator_beat_us
        if silent_us > self._services.config.heartbeat_timeout_ms * 1000:
            return "coordinator_unavailable", "no_coordinator", f"the coordinator is silent for {silent_us // 1000} ms"
        return None

    def _fullness(self, why_not: tuple[str, str, str] | None) -> dict[str, object]:
        """How full it is: the table's figures as they are, the page's as they were a moment ago.

        What a coordinator that is gone left on the page says nothing any more.
        """
        page, config = self._services.page, self._services.config
        found: dict[str, object] = {"max_queued": config.max_queued, "max_runners": config.max_runners}
        with suppress(TableError):
            counts = self._services.reader.counts()
            found["tasks_waiting"] = counts[State.PENDING]
            found["tasks_running"] = counts[State.SCHEDULED] + counts[State.RUNNING]
        if why_not is None or why_not[0] == "draining":
            found["tasks_queued"], found["calls_waiting"] = page.queued_tasks, page.waiting_calls
            found["runners_total"], found["runners_free"] = page.runners_total, page.runners_free
        return found
