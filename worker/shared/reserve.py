"""A file that holds disk space back, so that the end of a running task can still be recorded on a full disk.

New work is refused while the reserve isn't held; it is taken back as soon as there is room again. On a file system that
copies on write or compresses the promise is weaker.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# A commit alone writes some 10 pages of 4 KiB to the log: this lets several hundred tasks end.
RESERVE_BYTES = 16 * 1024 * 1024


class Reserve:
    """`size_bytes` of disk space under `path`, 0 for none."""

    def __init__(self, path: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self.held = False

    def take(self) -> bool:
        """Hold the space, if it isn't held yet and there is room; whether it is held now."""
        if self.held:
            return True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            if self._size_bytes:
                os.posix_fallocate(fd, 0, self._size_bytes)
            self.held = True
        except OSError:
            os.ftruncate(fd, 0)  # half a reserve only takes the room that others need
        finally:
            os.close(fd)
        return self.held

    def release(self) -> None:
        """Give the space to what is written next."""
        if self.held:
            self.held = False
            with suppress(FileNotFoundError):
                os.truncate(self._path, 0)
