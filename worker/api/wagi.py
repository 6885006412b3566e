"""The handler ABI `wagi`: the guest's stdout is a CGI response (RFC 3875, 6): header lines, an empty line, the body.

A guest is hostile: what it says of the connection, of the answer's length or of the worker is dropped, and an answer
that could be read in two ways is none.
"""

from __future__ import annotations

import re

from runner.protocol.call import Answer
from worker.api.problems import RETRY_STATUS, Problem
from worker.core.task import Handler

MAX_FIELDS = 100
MAX_HEAD_BYTES = 64 * 1024

# One pattern for a whole line, with blanks around the value, would try them in every way: hours for 64 KiB.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_STATUS = re.compile(rb"([2-5][0-9][0-9])(?: .*)?")
_END = re.compile(rb"\r?\n\r?\n")
_DROPPED = frozenset(
    (
        *(b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"content-length", b"date", b"server", b"server-timing"),
        *(b"x-sendfile", b"x-reproxy-url", b"alt-svc", b"clear-site-data", b"service-worker-allowed"),
    )
)
_DROPPED_PREFIXES = (b"x-galago-", b"x-accel-")

Head = tuple[int, tuple[tuple[bytes, bytes], ...]]

# Heads that were parsed, since a guest often sends the same one again.
_MAX_KEPT, _MAX_KEPT_BYTES = 256, 1024
_kept: dict[bytes, Head] = {}


class Wagi:
    """A WASI command: variables and stdin in, stdout out."""

    wants_variables = True

    def __init__(self, _handler: Handler) -> None:
        pass

    @staticmethod
    def most_answer_bytes(output_bytes: int) -> int:
        return output_bytes

    @staticmethod
    def request(body: bytes) -> bytes:
        return body

    @staticmethod
    def response(answer: Answer) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        head, body = split(answer.body)
        found = _kept.get(head)
        if found is None:
            found = parse_head(head)
            if len(head) <= _MAX_KEPT_BYTES:
                if len(_kept) >= _MAX_KEPT:
                    _kept.clear()
                _kept[head] = found
        return found[0], list(found[1]), body


def split(stdout: bytes) -> tuple[bytes, bytes]:
    """(head without its empty line, body). Raises: Problem: guest_bad_response: no head, or too long a one."""
    found = _END.search(stdout, 0, MAX_HEAD_BYTES + 4)
    if found is None or found.start() > MAX_HEAD_BYTES:
        if len(stdout) > MAX_HEAD_BYTES:
            raise _bad(f"its head has at most {MAX_HEAD_BYTES} bytes")
        raise _bad("stdout has header lines, an empty line, and then the body")
    return stdout[: found.start()], stdout[found.end() :]


def parse_head(head: bytes) -> Head:
    """(status, fields by names in lower case), what a guest may not say left out.

    Raises:
        Problem: guest_bad_response.
    """
    lines = head.replace(b"\r\n", b"\n").split(b"\n")
    if len(lines) > MAX_FIELDS:
        raise _bad(f"it has at most {MAX_FIELDS} header fields")
    fields: list[tuple[bytes, bytes]] = []
    status = None
    dropped: set[bytes] = set()
    for line in lines:
        name, value = _read_line(line)
        if name == b"status":
            if status is not None:
                raise _bad("Status comes once")
            status = _read_status(value)
        elif name == b"connection":  # what it names is hop-by-hop, too (RFC 9110, 7.6.1)
            dropped.update(nominated.strip().lower() for nominated in value.split(b","))
        elif name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES):
            fields.append((name, value))
    if dropped:
        fields = [(name, value) for name, value in fields if name not in dropped]
    if status is None:
        status = 302 if any(name == b"location" for name, _ in fields) else 200
    return status, tuple(fields)


def _read_line(line: bytes) -> tuple[bytes, bytes]:
    """(name in lower case, value without the blanks around it)."""
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or _NAME.fullmatch(name) is None or _CONTROL.search(value) is not None:
        raise _bad("a header line is `name: value`, the name a token, the value without control characters")
    return name.lower(), value


def _read_status(value: bytes) -> int:
    found = _STATUS.fullmatch(value)
    status = int(found[1]) if found else 0
    if not found or status == RETRY_STATUS:
        raise _bad(f"Status is from 200 to 599 and not {RETRY_STATUS}")
    return status


def _bad(why: str) -> Problem:
    return Problem("guest_bad_response", f"the guest's answer is malformed: {why}")
