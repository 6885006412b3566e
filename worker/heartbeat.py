"""What a process tells the launcher: one byte at a time into the pipe that it inherited as GALAGO_FD_BEAT.

| byte | means |
| ---- | ----- |
| `.`  | alive: the loop that does the work has come round; at least every BEAT_MS |
| `R`  | ready, once: from here on its death isn't a failed start |
| `D`  | drained, once: nothing is in flight any more |
"""

from __future__ import annotations

import os
from contextlib import suppress

BEAT_MS = 250
ALIVE, READY, DRAINED = b".", b"R", b"D"


class Heartbeat:
    """The writing end. Never blocks: a full pipe means a launcher that doesn't listen, and nothing is lost by that."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def beat(self) -> None:
        self._tell(ALIVE)

    def ready(self) -> None:
        self._tell(READY)

    def drained(self) -> None:
        self._tell(DRAINED)

    def close(self) -> None:
        """For a forked child: its parent's heartbeat isn't its own."""
        os.close(self._fd)

    def _tell(self, byte: bytes) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, byte)
