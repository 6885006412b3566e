"""A service in a runner's terms: the LOAD and SERVE that a serving runner is told. Pure translation."""

from __future__ import annotations

from dataclasses import dataclass

from runner.protocol.control import ABI_EXPORT, ABI_WAGI, FLAG_STUB_IMPORTS, FLAG_TRY_INSTANCE, Load, Serve
from worker.coordinator.jobs import CPU_MARGIN_S, VALUE_KINDS, preopens_of
from worker.core.task import Service, State, Task

ABIS = {"wagi": ABI_WAGI, "export": ABI_EXPORT}


@dataclass(frozen=True, slots=True)
class Recycling:
    """After how many calls, and after how much CPU time (seconds), a serving runner ends and is replaced."""

    calls: int = 100_000
    cpu_s: int = 3_600


def service_of(task: Task) -> Service:
    """What makes the task a service; only asked of one that is."""
    assert task.spec.service is not None, "a service has one"
    return task.spec.service


def to_server_load(task: Task, recycling: Recycling) -> Load:
    """LOAD: the CPU time is what it is recycled by, and a last call's on top. A service that has not run yet tries an
    instance; later runners owe nothing to that."""
    limits = task.spec.limits
    flags = FLAG_STUB_IMPORTS if task.spec.unknown_imports == "stub" else 0
    if task.status.state is State.SCHEDULED:
        flags |= FLAG_TRY_INSTANCE
    cpu_s = recycling.cpu_s + -(-limits.wall_ms // 1000) + CPU_MARGIN_S
    return Load(limits.memory_bytes, min(cpu_s, 2**31), flags)


def to_serve(task: Task, record: int, recycling: Recycling) -> Serve:
    """SERVE, for the runner whose record is in page `record`."""
    spec, service = task.spec, service_of(task)
    handler, limits = service.handler, spec.limits
    wagi = handler.abi == "wagi"
    return Serve(
        ABIS[handler.abi],
        fuel=limits.fuel,
        memory_bytes=limits.memory_bytes,
        wall_ms=limits.wall_ms,
        output_bytes=limits.output_bytes,
        record=record,
        reuse_calls=service.reuse.max_calls,
        reuse_memory_bytes=service.reuse.max_memory_bytes or limits.memory_bytes,
        recycle_calls=recycling.calls,
        recycle_cpu_us=recycling.cpu_s * 1_000_000,
        export=handler.export.encode(),
        params=tuple(VALUE_KINDS[name] for name in handler.params),
        results=tuple(VALUE_KINDS[name] for name in handler.results),
        args=(spec.name.encode(), *(arg.encode() for arg in spec.args)) if wagi else (),
        env=tuple(f"{name}={value}".encode() for name, value in spec.env),
        preopens=preopens_of(task),
    )
