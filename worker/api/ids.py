"""Ids of tasks: UUID version 7 (RFC 9562, 5.7), so that they sort by the time at which they were made."""

from __future__ import annotations

import os
import re
import time
from uuid import UUID

_TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VERSION_AND_VARIANT = 7 << 76 | 2 << 62


def new_task_id() -> str:
    """48 bits of milliseconds since the epoch, and 74 random ones."""
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10), "little")
    fields = (random & 0xFFF) << 64 | random >> 12 & (1 << 62) - 1
    return str(UUID(int=milliseconds << 80 | _VERSION_AND_VARIANT | fields))


def is_task_id(text: str) -> bool:
    """Whether a task could have this id."""
    return _TASK_ID.fullmatch(text) is not None
