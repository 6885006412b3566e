"""Tasks and modules as JSON, with exactly the fields of the contract. The values of `env` are never given back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import orjson

from worker.api.posted import short_digest
from worker.core.changes import Note
from worker.core.module import Extern, Module
from worker.core.task import RunnerInfo, Service, Task, TaskSpec
from worker.core.values import write_values

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Document = dict[str, object]


def rfc3339(at_us: int | None) -> str | None:
    """Microseconds since the epoch as `2026-01-31T23:59:59.000001Z`."""
    if at_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds")[:-6] + "Z"


def task_json(task: Task, notes: Iterable[Note]) -> bytes:
    """One task, whole."""
    document = _task(task)
    document["events"] = [_note(note) for note in notes]
    return orjson.dumps(document)


def tasks_json(tasks: Iterable[Task], after: str | None) -> bytes:
    """A page of tasks, without their events."""
    return orjson.dumps({"tasks": [_task(task) for task in tasks], "next": after})


def module_json(module: Module) -> bytes:
    return orjson.dumps(_module(module))


def modules_json(modules: Iterable[Module], after: str | None) -> bytes:
    """A page of modules."""
    return orjson.dumps({"modules": [_module(module) for module in modules], "next": after})


def _task(task: Task) -> Document:
    status = task.status
    usage = status.usage
    return {
        "id": task.id,
        "state": status.state,
        "previous_state": status.previous_state,
        "reason": status.reason,
        **_spec(task.spec),
        "trap_code": status.trap_code,
        "signal": status.signal,
        "exit_code": status.exit_code,
        "result": None if status.result is None else write_values(status.result),
        "detail": status.detail,
        "truncated": status.truncated,
        "fuel_used": usage.fuel_used,
        "wall_us": usage.wall_us,
        "queue_us": usage.queue_us,
        "init_us": usage.init_us,
        "run_us": usage.run_us,
        "cpu_us": usage.cpu_us,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "attempts": status.attempts,
        "runner": None if status.runner is None else _runner(status.runner),
        "created_at": rfc3339(task.created_at_us),
        "scheduled_at": rfc3339(status.scheduled_at_us),
        "started_at": rfc3339(status.started_at_us),
        "finished_at": rfc3339(status.finished_at_us),
    }


def _spec(spec: TaskSpec) -> Document:
    limits, entry = spec.limits, spec.entry
    return {
        "kind": spec.kind,
        "name": spec.name or (short_digest(spec.digest) if spec.digest else None),
        "module": {"digest": spec.digest, "url": spec.url},
        "entry": None if entry is None else {"export": entry.export, "params": orjson.Fragment(entry.params_json)},
        "args": spec.args,
        "env": dict.fromkeys([name for name, _ in spec.env]),
        "stdin": {"size_bytes": spec.stdin_bytes},
        "limits": {
            "fuel": limits.fuel,
            "memory_bytes": limits.memory_bytes,
            "wall_ms": limits.wall_ms,
            "output_bytes": limits.output_bytes,
        },
        "queue_ms": spec.queue_ms,
        "callback_url": spec.callback_url,
        "callback": None,
        "mounts": [
            {"volume": mount.volume, "path": mount.path, "guest": mount.guest, "mode": mount.mode}
            for mount in spec.mounts
        ],
        "isolation": spec.isolation,
        "unknown_imports": spec.unknown_imports,
        "labels": dict(spec.labels),
        "retry": {"max": spec.retry_max},
        "priority": spec.priority,
        **(_NO_SERVICE if spec.service is None else service_members(spec.service)),
    }


_NO_SERVICE: Document = dict.fromkeys(("function", "handler", "scale", "reuse"))


def service_members(service: Service) -> Document:
    """The members of a task's document that a service alone has a value for."""
    handler, scale, reuse = service.handler, service.scale, service.reuse
    return {
        "function": {"name": service.function, "revision": service.revision, "default": service.default},
        "handler": {
            "abi": handler.abi,
            "export": handler.export or None,
            "auth": handler.auth,
            "expose_usage": handler.expose_usage,
            "retryable": handler.retryable,
            "on_disconnect": handler.on_disconnect,
        },
        "scale": {"min": scale.min, "max": scale.max, "idle_ms": scale.idle_ms, "queue": scale.queue},
        "reuse": {"max_calls": reuse.max_calls, "max_memory_bytes": reuse.max_memory_bytes},
    }


def _runner(runner: RunnerInfo) -> Document:
    return {"pid": runner.pid, "uid": runner.uid, "layers": runner.layers}


def _note(note: Note) -> Document:
    return {
        "at": rfc3339(note.at_us),
        "event": note.event,
        "state": note.state,
        "reason": note.reason,
        "detail": note.detail,
    }


def _module(module: Module) -> Document:
    return {
        "digest": module.digest,
        "size_bytes": module.size_bytes,
        "imports": [{"module": found.module, **_extern(found)} for found in module.imports],
        "exports": [_extern(found) for found in module.exports],
        "created_at": rfc3339(module.created_at_us),
    }


def _extern(found: Extern) -> Document:
    extern: Document = {"name": found.name, "kind": found.kind}
    if found.kind == "func":
        extern |= {"params": found.params, "results": found.results}
    return extern
