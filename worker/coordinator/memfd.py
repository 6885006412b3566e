"""Anonymous files that cross process borders: written by one side, then sealed so that nobody can change them."""

from __future__ import annotations

import fcntl
import os

# Linux's names are missing from Python 3.11's fcntl on some builds; the numbers are ABI (linux/fcntl.h).
F_ADD_SEALS = 1033
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1, 2, 4, 8
_ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE

CHUNK_BYTES = 1 << 20


def create(name: str) -> int:
    """A memfd that can still be written, and sealed later."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(fd: int) -> None:
    """No write, no change of size, no lifting of this: from here on a reader may map it without a fear of SIGBUS."""
    fcntl.fcntl(fd, F_ADD_SEALS, _ALL_SEALS)
