"""How a task ended, told from what its runner reported and how its process went. Neither alone is the truth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from worker.core.events import Ended
from worker.core.lifecycle import ENDS_WITH, TRIED
from worker.core.task import Reason, State, Usage

# A figure that a runner reports may be any u64; what reads ours may know no more than 63 bits (SQLite, JSON in Java).
MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Report:
    """OUTCOME as the core sees it: what the runner says of its job. Hostile, but well-formed: any u64 for a figure."""

    reason: str
    trap_code: str | None = None
    exit_code: int | None = None
    results: tuple[tuple[str, int], ...] = ()
    detail: str = ""
    truncated: bool = False
    fuel_used: int = 0
    run_us: int = 0
    cpu_us: int = 0
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process went: `signal` by name ("SIGSEGV") or `code`; its CPU time, and its peak resident memory."""

    signal: str | None = None
    code: int | None = None
    cpu_us: int = 0
    peak_rss_bytes: int = 0
    oom_killed: bool = False  # proven by a cgroup of its own


@dataclass(frozen=True, slots=True)
class Context:
    """What the coordinator knows by itself: where the task stood, why it killed (if it did), and since when it ran."""

    state: State
    killed_because: str | None = None
    protocol_error: str | None = None
    stopping: bool = False
    wall_ms: int = 0
    ran_us: int | None = None
    queue_us: int | None = None
    init_us: int | None = None
    finished: bool = True  # BYE was read


def contradiction(report: Report, context: Context) -> str | None:
    """Why a job's report can't be true, whatever the guest did; None where it can."""
    reason = Reason(report.reason)
    untold = TRIED if context.state is State.SCHEDULED else frozenset()  # a job is tried by running
    if reason not in ENDS_WITH[context.state] - untold:
        return f"OUTCOME says {reason}, which a {context.state} job can't end with"
    if reason is Reason.STOPPED and not context.stopping:
        return "OUTCOME says stopped, and nobody asked for it"
    if reason is Reason.EXIT and report.exit_code:
        return f"OUTCOME says exit with code {report.exit_code}, which is a nonzero_exit"
    if reason is Reason.NONZERO_EXIT and not report.exit_code:
        return f"OUTCOME says nonzero_exit with code {report.exit_code}"
    return None


def from_report(report: Report, context: Context) -> Ended:
    """The end of a job as its runner told it, where nothing contradicts that and its process gives no doubt."""
    reason = Reason(report.reason)
    usage = Usage(
        fuel_used=min(report.fuel_used, MOST),
        queue_us=context.queue_us,
        init_us=context.init_us,
        run_us=min(report.run_us, MOST),
        cpu_us=min(report.cpu_us, MOST),
        peak_memory_bytes=min(report.peak_memory_bytes, MOST) or None,
    )
    return Ended(
        reason,
        trap_code=report.trap_code,
        exit_code=report.exit_code,
        result=report.results if reason is Reason.EXIT and report.exit_code is None else None,
        detail=report.detail or None,
        truncated=report.truncated,
        usage=usage,
    )


def from_exit(report: Report | None, exit_: Exit, context: Context) -> Ended:
    """The end of a job whose process is gone: its report if it ended in order, else what the death shows.

    A report counts only when BYE followed and no signal ended it. A runner that reported and then died otherwise is
    `crashed`, unless it died by our own hand after its report ("linger").
    """
    if report is not None and context.protocol_error is None:
        clean = (exit_.signal is None and context.finished) or context.killed_because == "linger"
        if clean:
            ended = from_report(report, context)
            peak = ended.usage.peak_memory_bytes or exit_.peak_rss_bytes
            usage = dataclasses.replace(ended.usage, cpu_us=exit_.cpu_us, peak_memory_bytes=peak)
            return dataclasses.replace(ended, usage=usage)
    usage = Usage(
        queue_us=context.queue_us,
        init_us=context.init_us,
        run_us=context.ran_us,
        cpu_us=exit_.cpu_us,
        peak_memory_bytes=exit_.peak_rss_bytes,
    )
    reason, detail = _reason_of_death(exit_, context)
    signal = exit_.signal if reason is Reason.CRASHED else None
    return Ended(reason, signal=signal, detail=detail, usage=usage, truncated=reason is Reason.OUTPUT_LIMIT)


def _reason_of_death(exit_: Exit, context: Context) -> tuple[Reason, str]:
    if context.protocol_error is not None:
        return Reason.CRASHED, f"the runner broke its protocol and was killed: {context.protocol_error}"
    if context.killed_because == "stop" or (context.stopping and exit_.signal in ("SIGALRM", "SIGKILL")):
        return Reason.STOPPED, "did not end within its grace and was killed"
    if context.state is State.RUNNING:
        over_time = _killed_over_time(exit_, context)
        if over_time is not None:
            return Reason.KILLED_DEADLINE, over_time
        if exit_.signal == "SIGXFSZ":
            return Reason.OUTPUT_LIMIT, "wrote more than it may; what came before is kept"
    if exit_.oom_killed:
        return Reason.OOM_KERNEL, "the kernel killed the runner for its memory"
    if context.killed_because == "init":
        return Reason.INIT_FAILED, "the runner did not start in time (init_ms) and was killed"
    if context.killed_because == "handover":
        return Reason.INIT_FAILED, "the job could not be handed to its warm runner, which was killed"
    if exit_.signal is not None:
        return Reason.CRASHED, f"the runner died by {exit_.signal}"
    return Reason.CRASHED, f"the runner ended with status {exit_.code} and no word of how its job went"


def _killed_over_time(exit_: Exit, context: Context) -> str | None:
    """Why the death is the hard deadline's: ours, the runner's own alarm once it was due, or its CPU limit."""
    limit = f"still ran after {context.wall_ms} ms outside the reach of its epoch"
    if context.killed_because == "deadline":
        return f"{limit}; killed by the worker"
    ran_us = context.ran_us or 0
    if exit_.signal == "SIGALRM" and ran_us >= context.wall_ms * 1000:
        return f"{limit}; killed by its alarm"
    # Its limit is above its wall time: with less than that used, somebody else sent the signal.
    if exit_.signal == "SIGXCPU" and exit_.cpu_us >= context.wall_ms * 1000:
        return "used up its CPU time outside the reach of its epoch"
    return None
