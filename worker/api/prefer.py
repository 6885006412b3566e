"""`Prefer: wait=N` (RFC 7240): how long an answer may wait for a task to be final."""

from __future__ import annotations

import re

from worker.api.problems import Problem

MAX_WAIT_S = 60
_WAIT = re.compile(r"wait[ \t]*=[ \t]*(\"?)([^\";]*)\1[ \t]*(?:;.*)?", re.IGNORECASE)


def read_wait(prefer: bytes | None) -> int | None:
    """Seconds, or None where the client has no such preference. Other preferences are passed over.

    Raises:
        Problem: bad_header, for a wait that isn't a number of seconds in the range.
    """
    if prefer is None:
        return None
    for preference in prefer.decode("latin-1").split(","):
        if not preference.strip().lower().startswith("wait"):
            continue
        found = _WAIT.fullmatch(preference.strip())
        text = found[2].strip() if found else ""
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= MAX_WAIT_S):
            if found is None and not re.match(r"wait[ \t]*(;|$)", preference.strip(), re.IGNORECASE):
                continue  # `waiting=…`: another preference
            raise Problem("bad_header", f"`Prefer: wait=N` takes whole seconds from 0 to {MAX_WAIT_S}", "prefer")
        return int(text)
    return None
