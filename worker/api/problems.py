"""Everything that the worker can refuse, in one table, and how a refusal is written (RFC 9457).

The rest of the package raises `Problem` with a code; what status, title and `executed` go with it stands here alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

import orjson

from worker.errors import WorkerError

CONTENT_TYPE = "application/problem+json"
MAX_DETAIL_BYTES = 4096
# The load balancer's, for what it may repeat (DESIGN 9): no code has it, and no guest may answer it.
RETRY_STATUS = 425
_logger = logging.getLogger("galago.api")
_MAX_FIELD_BYTES = 512
# C0, DEL, C1, and what turns or breaks a line on a terminal or page that shows it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means. `executed`: whether what was asked for was done: `no`, `maybe` or `yes`."""

    status: int
    title: str
    executed: str = "no"
    retry_after_s: int | None = None


KINDS: Mapping[str, Kind] = {
    "bad_json": Kind(400, "The body is not JSON"),
    "bad_path": Kind(400, "The path is spelled ambiguously"),
    "bad_header": Kind(400, "A header is wrong"),
    "body_truncated": Kind(400, "The body ended early"),
    "unauthorized": Kind(401, "A token is needed"),
    "forbidden": Kind(403, "The token may not do this"),
    "origin_refused": Kind(403, "Requests from this origin are refused"),
    "host_refused": Kind(421, "This host is not served here"),
    "route_unknown": Kind(404, "There is no such route"),
    "task_unknown": Kind(404, "There is no such task"),
    "module_unknown": Kind(404, "There is no such module"),
    "function_unknown": Kind(404, "There is no such function"),
    "revision_unknown": Kind(404, "There is no such revision"),
    "no_default_revision": Kind(404, "The function has no default revision"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "request_timeout": Kind(408, "The request came too slowly"),
    "module_in_use": Kind(409, "The module is in use"),
    "revision_exists": Kind(409, "The revision exists already"),
    "revision_not_running": Kind(409, "The revision is not running"),
    "idempotency_in_progress": Kind(409, "A request with this key is in progress", retry_after_s=1),
    "generation_mismatch": Kind(412, "The generation is another"),
    "body_too_large": Kind(413, "The body is too large"),
    "module_too_large": Kind(413, "The module is too large"),
    "headers_too_large": Kind(431, "The headers are too large"),
    "media_type": Kind(415, "The media type is wrong"),
    "module_text": Kind(415, "The module is in the text format"),
    "module_component": Kind(415, "The module is a component"),
    "module_precompiled": Kind(415, "The module is compiled code"),
    "field_unknown": Kind(422, "A field is unknown"),
    "field_missing": Kind(422, "A field is missing"),
    "field_type": Kind(422, "A field has the wrong type"),
    "field_range": Kind(422, "A field is out of its range"),
    "field_conflict": Kind(422, "Fields exclude each other"),
    "limit_above_ceiling": Kind(422, "A limit is above the ceiling"),
    "module_malformed": Kind(422, "The module is malformed"),
    "module_limit": Kind(422, "The module has too much of something"),
    "import_unknown": Kind(422, "The module imports what is not here"),
    "entry_invalid": Kind(422, "The entry does not fit the module"),
    "mount_refused": Kind(422, "A mount is refused"),
    "url_refused": Kind(422, "The URL is refused"),
    "signature_refused": Kind(422, "The signature is refused"),
    "idempotency_mismatch": Kind(422, "The key came with another body"),
    "queue_full": Kind(429, "The queue is full", retry_after_s=1),
    "function_queue_full": Kind(429, "The function's queue is full", retry_after_s=1),
    "streams_full": Kind(429, "Too many streams are open", retry_after_s=5),
    "internal": Kind(500, "The worker failed", "maybe"),
    "storage_full": Kind(507, "The storage is full", retry_after_s=30),
    "guest_trap": Kind(502, "The guest trapped", "yes"),
    "guest_oom": Kind(502, "The guest ran out of memory", "yes"),
    "guest_output_limit": Kind(502, "The guest wrote too much", "yes"),
    "guest_bad_response": Kind(502, "The guest's answer is malformed", "yes"),
    "guest_exit": Kind(502, "The guest exited with an error", "yes"),
    "init_failed": Kind(502, "The guest could not be started", "yes"),
    "runner_died": Kind(502, "The runner died", "maybe"),
    "draining": Kind(503, "The worker is draining", retry_after_s=1),
    "no_runner": Kind(503, "No runner was free in time", retry_after_s=1),
    "runner_backoff": Kind(503, "The function's runners fail to start", retry_after_s=1),
    "coordinator_unavailable": Kind(503, "The coordinator does not answer", "maybe", retry_after_s=1),
    "fuel": Kind(504, "The fuel was used up", "yes"),
    "deadline": Kind(504, "The time was used up", "yes"),
    "killed_deadline": Kind(504, "The runner was killed past its time", "yes"),
}


class Problem(WorkerError):
    """A refusal for the client.

    Args:
        code: one of KINDS.
        detail: what was wrong and what would be right. Not for `internal`, whose detail is an id and nothing else.
        field: the field, query parameter or header in question, as a path.
        executed: where the truth is another than the code's usual one.
        headers: of the answer.
        extra: further members of the document.

    Attributes:
        status: the code's own; another only for a load balancer that asked for it (DESIGN 9).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        field: str | None = None,
        *,
        executed: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.kind = KINDS[code]
        self.status = self.kind.status
        self.detail = detail
        self.field = field
        self.executed = executed or self.kind.executed
        self.headers = dict(headers or {})
        self.extra = extra or {}
        if self.kind.retry_after_s is not None:
            self.headers.setdefault("retry-after", str(self.kind.retry_after_s))

    def render(self) -> bytes:
        """The document."""
        document: dict[str, object] = {
            "type": f"urn:galago:problem:{self.code}",
            "title": self.kind.title,
            "status": self.status,
            "code": self.code,
            "detail": printable(self.detail, MAX_DETAIL_BYTES),
        }
        if self.field is not None:
            document["field"] = printable(self.field, _MAX_FIELD_BYTES)
        document["executed"] = self.executed
        return orjson.dumps({**document, **self.extra})


def printable(text: str, max_bytes: int) -> str:
    """`text` with its control characters escaped, cut to `max_bytes` of UTF-8."""
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text[:max_bytes])
    raw = text.encode()
    return text if len(raw) <= max_bytes else raw[:max_bytes].decode("utf-8", "ignore")


def not_allowed(method: str, allowed: tuple[str, ...]) -> Problem:
    """A 405 that says what would be right."""
    right = ", ".join(allowed)
    detail = f"{method} is not allowed here; {right or 'no method'} is"
    return Problem("method_not_allowed", detail, headers={"allow": right})


def route_unknown(path: str) -> Problem:
    return Problem("route_unknown", f"there is no {path[:256]} here; /openapi.json has what there is")


def internal(error: BaseException, doing: str, executed: str = "maybe") -> Problem:
    """The answer to a failure of our own: an id to find it by in the log, and nothing of what it was."""
    error_id = uuid4().hex
    _logger.error("internal error %s in %s", error_id, doing, exc_info=error)
    return Problem("internal", f"error {error_id}; the worker's log has it under this id", executed=executed)
