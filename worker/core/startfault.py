"""Whether a service's runner that is gone could not even start, and why. Others went for reasons that are no fault."""

from __future__ import annotations

from dataclasses import replace

from worker.core.clock import Now
from worker.core.events import Ended
from worker.core.lifecycle import ENDS_WITH, TRIED
from worker.core.pool import Runner
from worker.core.task import Reason, State
from worker.core.verdict import Context, Exit, Report, from_exit

# Who dies this soon after it was ready, and has begun no call, has not really started.
SOON_US = 1_000_000
# What a runner may report of itself before it is ready: that it can't be made, or how its trial of an instance ended.
SAYS = ENDS_WITH[State.SCHEDULED] & {Reason.LINK_FAILED, Reason.INIT_FAILED} | TRIED - {Reason.KILLED_DEADLINE}


def could_not_start(report: Report) -> bool:
    """Whether a report says, in good order, why a runner will never be ready."""
    return report.reason in SAYS


def start_fault(runner: Runner, exit_: Exit, calls: int, asked: bool, now: Now) -> Ended | None:
    """Why a runner that is gone could not start; None where it had, or was ended by us.

    Args:
        calls: how many it had answered or begun, as its record tells it.
        asked: one of the service's runners was asked to end before it said that it does.
    """
    ready_at_us = runner.ready_at_us
    if runner.killed_because in ("stop", "deadline", "stuck"):
        return None
    if ready_at_us is not None and (calls or now.monotonic_us - ready_at_us >= SOON_US or (runner.bye and asked)):
        return None
    context = Context(
        State.SCHEDULED,
        killed_because=runner.killed_because,
        protocol_error=runner.protocol_error,
        finished=runner.bye,
    )
    ended = from_exit(runner.report, exit_, context)
    if ready_at_us is not None and runner.bye and exit_.signal is None:
        return Ended(Reason.CRASHED, detail="the runner ended as soon as it was ready, without a call")
    unforced = runner.killed_because is None and runner.report is None
    if ready_at_us is None and unforced and exit_.signal == "SIGALRM":  # armed before READY for a trial alone
        detail = "its start function still ran after its deadline, outside the reach of its epoch; killed by its alarm"
        return replace(ended, reason=Reason.KILLED_DEADLINE, signal=None, detail=detail)
    return ended
