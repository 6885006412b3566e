"""The key that says of an artifact: this worker's own compiler made it. It lives in the coordinator alone."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

KEY_BYTES = 32
MAC_BYTES = 32


def load_or_create_key(path: Path) -> bytes:
    """The key in `path` (mode 0600), made at the first start.

    A key that is cut short is replaced: the only cost is that artifacts are compiled again.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) == KEY_BYTES:
        return key
    key = os.urandom(KEY_BYTES)
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, key)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    return key


def new(key: bytes, artifact_key: str) -> hmac.HMAC:
    """A running MAC over an artifact's bytes, bound to the name that it is cached under."""
    return hmac.new(key, artifact_key.encode(), hashlib.sha256)
