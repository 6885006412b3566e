"""How a call that no guest answered is told, from what a runner or its socket said; and what any call used."""

from __future__ import annotations

from collections.abc import Mapping

from runner.protocol.call import Answer
from worker.api.asking import End
from worker.api.problems import Problem
from worker.api.routes import Revision

EXIT = "exit"

# From a runner's reason to (code, what to say).
_REASONS: Mapping[str, tuple[str, str]] = {
    "nonzero_exit": ("guest_exit", "the guest exited with a code other than 0"),
    "trap": ("guest_trap", "the guest trapped"),
    "oom_guest": ("guest_oom", "the guest needs more memory than its memory_bytes"),
    "output_limit": ("guest_output_limit", "the guest wrote more than its output_bytes"),
    "fuel": ("fuel", "the guest used up its fuel"),
    "deadline": ("deadline", "the guest ran for longer than its wall_ms"),
    "init_failed": ("init_failed", "the guest could not be instantiated"),
    "link_failed": ("init_failed", "the guest's imports could not be linked"),
    "compile_failed": ("init_failed", "the guest's artifact could not be loaded"),
    "stopped": ("runner_died", "the call was interrupted: the revision is being stopped"),
}


def problem_of(answer: Answer) -> Problem:
    """What a runner reported, for an answer whose reason isn't EXIT."""
    code, what = _REASONS[answer.reason]
    extra: dict[str, object] = {}
    if answer.trap_code is not None:
        extra["trap_code"] = answer.trap_code
    if answer.exit_code is not None:
        extra["exit_code"] = answer.exit_code
    return Problem(code, f"{what}: {answer.detail}" if answer.detail else what, extra=extra)


def unanswered(end: End, revision: Revision, *, draining: bool) -> Problem:
    """What the socket said."""
    match end:
        case End.FULL:
            return Problem("function_queue_full", "as many calls wait for this revision as may; try again")
        case End.REFUSED | End.DROPPED | End.UNREAD:
            return _no_runner(end, revision, draining)
        case End.KILLED:
            return Problem("killed_deadline", "the runner went on past the call's wall_ms, and was killed")
        case End.BROKEN:
            return Problem("runner_died", "the runner answered what is no answer, and is killed")
        case End.DIED:
            return Problem("runner_died", "the runner ended, or was ended, without an answer")


def _no_runner(end: End, revision: Revision, draining: bool) -> Problem:
    if revision.trouble is not None and end is not End.UNREAD:
        return Problem("runner_backoff", f"the revision's runners don't start: {revision.trouble}")
    if draining:
        return Problem("draining", "this worker is ending; call another")
    return Problem("no_runner", f"no runner took the call within {revision.queue_s:g} s")


def trim(answer: Answer, most_us: int, most_fuel: int) -> None:
    """A runner's figures are as hostile as the rest: no time is longer than we waited, no fuel more than it had."""
    if answer.queue_us + answer.init_us + answer.run_us > most_us:
        answer.queue_us = min(answer.queue_us, most_us)
        answer.init_us = min(answer.init_us, most_us)
        answer.run_us = min(answer.run_us, most_us)
    answer.fuel_used = min(answer.fuel_used, most_fuel)


def usage(answer: Answer) -> list[tuple[bytes, bytes]]:
    """What a call used, as header fields for who may know."""
    times = b"queue;dur=%.3f, init;dur=%.3f, run;dur=%.3f" % (
        answer.queue_us / 1000,
        answer.init_us / 1000,
        answer.run_us / 1000,
    )
    return [(b"x-galago-fuel", b"%d" % answer.fuel_used), (b"server-timing", times)]
