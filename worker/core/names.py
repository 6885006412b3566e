"""What functions, revisions, volumes and tasks may be called (CONTRACT, Conventions)."""

from __future__ import annotations

import re

NAME = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
_NAME = re.compile(NAME)


def is_name(text: str) -> bool:
    """Whether something may be called so."""
    return _NAME.fullmatch(text) is not None
