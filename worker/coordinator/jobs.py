"""A task in a runner's terms, and a runner's outcome in the core's. Pure translation between two vocabularies."""

from __future__ import annotations

from runner.protocol import VALUE_NAMES
from runner.protocol.control import ENTRY_COMMAND, ENTRY_EXPORT, FLAG_ONE_JOB, FLAG_STDIN, FLAG_STUB_IMPORTS, Job, Load
from runner.protocol.status import Outcome
from worker.core.task import Task
from worker.core.verdict import Report

VALUE_KINDS = {name: kind for kind, name in enumerate(VALUE_NAMES)}
# A runner's CPU time is bounded beside its wall time, for code outside the reach of epoch and alarm.
CPU_MARGIN_S = 2
# Where a volume is bound within a runner's root: the n-th mount is at /m<n>.
MOUNT_POINT = b"/m%d"


def to_load(task: Task, jobs: int) -> Load:
    """LOAD for a runner that will do up to `jobs` jobs like this task."""
    limits = task.spec.limits
    flags = (FLAG_STUB_IMPORTS if task.spec.unknown_imports == "stub" else 0) | (FLAG_ONE_JOB if jobs == 1 else 0)
    cpu_s = jobs * -(-limits.wall_ms // 1000) + CPU_MARGIN_S
    return Load(limits.memory_bytes, min(cpu_s, 2**31), flags)


def preopens_of(task: Task) -> tuple[tuple[bytes, bytes, bool], ...]:
    """The task's mounts: (path in the runner's root, path for the guest, read-only)."""
    return tuple(
        (MOUNT_POINT % index, mount.guest.encode(), mount.mode == "ro") for index, mount in enumerate(task.spec.mounts)
    )


def to_job(task: Task, job_id: int) -> Job:
    """JOB for one run of this task."""
    spec = task.spec
    entry = spec.entry
    return Job(
        job_id,
        entry=ENTRY_COMMAND if entry is None else ENTRY_EXPORT,
        flags=FLAG_STDIN if spec.stdin_bytes else 0,
        fuel=spec.limits.fuel,
        memory_bytes=spec.limits.memory_bytes,
        wall_ms=spec.limits.wall_ms,
        output_bytes=spec.limits.output_bytes,
        export=b"_start" if entry is None else entry.export.encode(),
        params=tuple((VALUE_KINDS[name], bits) for name, bits in (entry.params or () if entry else ())),
        args=(spec.name.encode(), *(arg.encode() for arg in spec.args)) if entry is None else (),
        env=tuple(f"{name}={value}".encode() for name, value in spec.env),
        preopens=preopens_of(task),
    )


def to_report(outcome: Outcome) -> Report:
    """OUTCOME for the core."""
    return Report(
        reason=outcome.reason,
        trap_code=outcome.trap_code,
        exit_code=outcome.exit_code,
        results=tuple((VALUE_NAMES[kind], bits) for kind, bits in outcome.results),
        detail=outcome.detail,
        truncated=outcome.stdout_truncated or outcome.stderr_truncated,
        fuel_used=outcome.fuel_used,
        run_us=outcome.run_us,
        cpu_us=outcome.cpu_us,
        peak_memory_bytes=outcome.peak_memory_bytes,
    )
