"""Paths as they were sent. Each has one spelling, so that no load balancer's rule is passed by another.

Routes are matched on the raw bytes. Only a segment that names something (an id, a digest) may be percent-encoded, and
is decoded after it was routed.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from worker.api.problems import Problem

# The whole of nearly all paths: non-empty segments of characters that stand for themselves (RFC 3986, 3.3).
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?|/")
_SEGMENT = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")
# Below a revision the path is the guest's (CONTRACT, Calls): /functions/{function}/{revision}/anything
_CALLS = b"/functions/"
_CALL_SEGMENTS = 3


def check_path(raw: bytes) -> str:
    """The path to route by, which is the raw one.

    Raises:
        Problem: bad_path, for a routed segment that is empty, `.` or `..`, or has an encoded slash or NUL, or for what
            isn't a path at all.
    """
    if _PLAIN.fullmatch(raw) is None or b"/." in raw:
        _check_segments(raw)
    return raw.decode("ascii", "replace")


def _check_segments(raw: bytes) -> None:
    if not raw.startswith(b"/"):
        raise Problem("bad_path", "a path starts with `/`")
    segments = raw[1:].split(b"/")
    last = len(segments) - 1
    if raw.startswith(_CALLS):
        segments = segments[:_CALL_SEGMENTS]
    for index, segment in enumerate(segments):
        if not segment and index < last:
            raise Problem("bad_path", "a path has no `//`: send one slash")
        if _SEGMENT.fullmatch(segment) is None:
            raise Problem("bad_path", "a path has visible ASCII characters and `%` with two hexadecimal digits")
        if b"%" in segment or segment.startswith(b"."):
            _check_decoded(unquote_to_bytes(segment))


def _check_decoded(segment: bytes) -> None:
    if segment in (b".", b".."):
        raise Problem("bad_path", "a path has no `.` and no `..` segments: send what they lead to")
    if b"/" in segment or b"\0" in segment:
        raise Problem("bad_path", "a path has no encoded slash (%2F) and no NUL (%00)")
