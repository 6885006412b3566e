"""Commands to the coordinator, and what the client is told where one isn't carried out."""

from __future__ import annotations

from worker.api.problems import KINDS, Problem, internal
from worker.api.services import Services
from worker.core.commands import Command, Done, Reply, WatchTask
from worker.errors import NoAnswer, NotSent, WorkerError

# A watch is answered when its time has come; what comes later than this doesn't come.
_WATCH_MARGIN_S = 1.0
# What the client called it; the coordinator knows no headers and no paths.
_FIELDS = {
    "idempotency_mismatch": "idempotency-key",
    "idempotency_in_progress": "idempotency-key",
    "revision_exists": "function.revision",
    "generation_mismatch": "if-match",
}


async def order(services: Services, command: Command, location: str) -> Done:
    """Have a command carried out.

    Args:
        location: where the client finds out, if nobody can say whether it was.

    Raises:
        Problem: coordinator_unavailable, or the coordinator's own refusal.
    """
    try:
        reply = await services.channel.ask(command, services.command_timeout_s)
    except NotSent as exc:
        raise Problem("coordinator_unavailable", f"{exc}; try again", executed="no") from exc
    except NoAnswer as exc:
        detail = f"{exc}; it may have been carried out: look at {location}"
        raise Problem("coordinator_unavailable", detail, headers={"location": location}) from exc
    return _done(reply)


async def watch(services: Services, task_id: str, wait_s: int) -> bool:
    """Wait until a task is final, for `wait_s` at most. False where nobody could say when it is."""
    until_us = services.clock.monotonic_us() + wait_s * 1_000_000
    try:
        await services.channel.ask(WatchTask(task_id, until_us), wait_s + _WATCH_MARGIN_S)
    except (NotSent, NoAnswer):
        return False
    return True


def _done(reply: Reply) -> Done:
    if isinstance(reply, Done):
        return reply
    if reply.code not in KINDS or reply.code == "internal":
        refusal = WorkerError(f"the coordinator refused with {reply.code}: {reply.detail}")
        raise internal(refusal, "a command", executed="no")
    raise Problem(reply.code, reply.detail, reply.field or _FIELDS.get(reply.code))
