"""What makes a posted task a service: which fields it has, and the Service that they give."""

from __future__ import annotations

from pathlib import Path

from msgspec import UNSET

from worker.api.admission import Facts
from worker.api.problems import Problem
from worker.api.schemas import Post, PostedFunction, PostedHandler, PostedReuse, PostedScale
from worker.core.task import Handler, Limits, Reuse, Scale, Service

# In `/revisions/default` and `/functions/{function}/default` it stands for something else.
RESERVED = "default"
DEFAULT_QUEUE_MS = 5_000  # how long a call waits for a runner
DEFAULT_QUEUE = 256

_JOB_FIELDS = ("entry", "stdin", "retry", "isolation")
_SERVICE_FIELDS = ("function", "handler", "scale", "reuse")
_SERVICE_NEEDS = ("function", "handler")
_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
_FEW = 128  # its value before Linux 5.4, where it can't be read


def longest_queue() -> int:
    """How many calls the kernel lets wait on one socket: it cuts a longer `listen` silently (listen(2))."""
    try:
        return int(_SOMAXCONN.read_text())
    except (OSError, ValueError):
        return _FEW


def check_kind(post: Post) -> None:
    """Whether the fields are those of the task's kind.

    Raises:
        Problem: field_conflict, field_missing.
    """
    job = post.kind == "job"
    whose = "a service's, and this is a job" if job else "a job's, and this is a service"
    for name in _SERVICE_FIELDS if job else _JOB_FIELDS:
        if getattr(post, name) is not UNSET:
            raise Problem("field_conflict", f"{name} is {whose}", name)
    for name in () if job else _SERVICE_NEEDS:
        if getattr(post, name) is UNSET:
            raise Problem("field_missing", f"a service has a {name}", name)
    if post.isolation == "instance" and post.mounts:
        raise Problem("field_conflict", "isolation is process where there are mounts", "isolation")


def make_service(post: Post, facts: Facts | None, limits: Limits, most_queued: int) -> Service:
    """The service of a post that `check_kind` has passed.

    Args:
        facts: what is known of the module, None where it is still to be fetched; its signature is checked then.
        limits: the task's own.
        most_queued: `longest_queue`.

    Raises:
        Problem: field_range, field_missing, field_conflict, import_unknown, entry_invalid.
    """
    assert post.function, "check_kind has seen to it"
    assert post.handler, "and to this"
    _check_names(post.function)
    return Service(
        function=post.function.name,
        revision=post.function.revision,
        handler=_handler(post.handler, facts, post.unknown_imports),
        default=post.function.default,
        scale=_scale(post.scale or PostedScale(), most_queued),
        reuse=_reuse(post.reuse or PostedReuse(), limits),
    )


def _check_names(function: PostedFunction) -> None:
    for field, name in (("function.name", function.name), ("function.revision", function.revision)):
        if name == RESERVED:
            detail = f"{field} may not be {RESERVED}: in a path it stands for the default revision"
            raise Problem("field_range", detail, field)


def _handler(posted: PostedHandler, facts: Facts | None, unknown_imports: str) -> Handler:
    export = posted.export or None
    if posted.abi == "export" and export is None:
        raise Problem("field_missing", "handler.export must be given: the name of the export to call", "handler.export")
    if posted.abi == "wagi" and export is not None:
        detail = "a wagi handler is entered at `_start`; handler.export is for the abi export"
        raise Problem("field_conflict", detail, "handler.export")
    params, results = facts.check_handler(export, unknown_imports) if facts is not None else ((), ())
    return Handler(
        abi=posted.abi,
        export=export or "",
        params=params,
        results=results,
        auth=posted.auth,
        expose_usage=posted.expose_usage,
        retryable=posted.retryable,
        on_disconnect=posted.on_disconnect,
    )


def _scale(posted: PostedScale, most_queued: int) -> Scale:
    if posted.min > posted.max:
        detail = f"scale.min may be up to scale.max, which is {posted.max}, not {posted.min}"
        raise Problem("field_range", detail, "scale.min")
    queue = min(DEFAULT_QUEUE, most_queued) if posted.queue is UNSET else posted.queue
    if queue > most_queued:
        detail = f"scale.queue may be up to {most_queued}, this machine's net.core.somaxconn, not {queue}"
        raise Problem("field_range", detail, "scale.queue")
    return Scale(posted.min, posted.max, posted.idle_ms, queue)


def _reuse(posted: PostedReuse, limits: Limits) -> Reuse:
    most = limits.memory_bytes
    memory_bytes = most if posted.max_memory_bytes is UNSET else posted.max_memory_bytes
    if memory_bytes > most:
        detail = f"reuse.max_memory_bytes may be up to limits.memory_bytes, which is {most}, not {memory_bytes}"
        raise Problem("field_range", detail, "reuse.max_memory_bytes")
    return Reuse(posted.max_calls, memory_bytes)
