"""`Prefer: wait=N` (RFC 7240): how long an answer may wait for a task to be final."""

from __future__ import annotations

import re

from worker.api.problems import Problem

MAX_WAIT_S = 60
# No two parts of it can take the same blank: it would be tried in every way to share them out.
_SECONDS = re.compile(r'([0-9]{1,9})|"[ \t]*([0-9]{1,9})[ \t]*"')


def read_wait(prefer: bytes | None) -> int | None:
    """Seconds, or None where the client has no such preference. Other preferences are passed over.

    Raises:
        Problem: bad_header, for a wait that isn't a number of seconds in the range.
    """
    if prefer is None:
        return None
    for preference in prefer.decode("latin-1").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() != "wait":
            continue
        found = _SECONDS.fullmatch(value.strip())
        seconds = int(found[1] or found[2]) if found is not None else -1
        if not 0 <= seconds <= MAX_WAIT_S:
            raise Problem("bad_header", f"`Prefer: wait=N` takes whole seconds from 0 to {MAX_WAIT_S}", "prefer")
        return seconds
    return None
