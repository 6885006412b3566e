"""The shared page: a few figures that API workers look at for every request, in one memfd of 4 KiB.

One writer, the coordinator; readers map it read-only. Little-endian or not: both ends are on one machine.

u64[0]  magic
u64[1]  version
u64[2]  route_generation        bumped when the routes in the table have changed
u64[3]  event_seq               of the newest event that is on disk
u64[4]  draining                1: takes no new work
u64[5]  ready                   1: the coordinator takes commands
u64[6]  coordinator_beat_us     CLOCK_MONOTONIC of its last turn
u64[7]  runners_total           slots for runners
u64[8]  runners_free            of them
u64[9]  queued_tasks            that wait for a slot
u64[10] waiting_calls           that wait for a runner, as seen last

Each figure is stored by one aligned 8-byte store, so a reader never sees half of one; two figures may be of different
moments. What a figure announces is in the table before it is bumped here.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from worker.errors import PageError

PAGE_BYTES = 4096
_MAGIC = int.from_bytes(b"galapage", "little")
_VERSION = 1
(_MAGIC_AT, _VERSION_AT, _ROUTE_GENERATION, _EVENT_SEQ, _DRAINING, _READY, _BEAT) = range(7)
_RUNNERS_TOTAL, _RUNNERS_FREE, _QUEUED_TASKS, _WAITING_CALLS = range(7, 11)


def create_page() -> int:
    """A new page's memfd, writable, all figures 0, and of a size that nobody can change (a reader would get SIGBUS)."""
    fd = os.memfd_create("galago-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        with mmap.mmap(fd, PAGE_BYTES) as mapping, memoryview(mapping).cast("Q") as words:
            words[_VERSION_AT] = _VERSION
            words[_MAGIC_AT] = _MAGIC
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_only(fd: int) -> int:
    """Another descriptor of the page, through which nothing can be written: for what parses HTTP."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


class PageReader:
    """The page, read-only. `fd` may be closed once this is made.

    Raises:
        PageError: not a page, or another version's.
    """

    _PROTECTION = mmap.PROT_READ

    def __init__(self, fd: int) -> None:
        try:
            self._mapping = mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED, self._PROTECTION)
        except (OSError, ValueError) as exc:
            raise PageError(f"descriptor {fd} is no shared page of {PAGE_BYTES} bytes: {exc}") from exc
        self._words = memoryview(self._mapping).cast("Q")
        magic, version = self._words[_MAGIC_AT], self._words[_VERSION_AT]
        if (magic, version) != (_MAGIC, _VERSION):
            self.close()
            raise PageError(f"a page has magic {_MAGIC:#x} and version {_VERSION}, this has {magic:#x} and {version}")

    def close(self) -> None:
        self._words.release()
        self._mapping.close()

    @property
    def route_generation(self) -> int:
        return self._words[_ROUTE_GENERATION]

    @property
    def event_seq(self) -> int:
        return self._words[_EVENT_SEQ]

    @property
    def draining(self) -> bool:
        return self._words[_DRAINING] != 0

    @property
    def ready(self) -> bool:
        return self._words[_READY] != 0

    @property
    def coordinator_beat_us(self) -> int:
        return self._words[_BEAT]

    @property
    def runners_total(self) -> int:
        return self._words[_RUNNERS_TOTAL]

    @property
    def runners_free(self) -> int:
        return self._words[_RUNNERS_FREE]

    @property
    def queued_tasks(self) -> int:
        return self._words[_QUEUED_TASKS]

    @property
    def waiting_calls(self) -> int:
        return self._words[_WAITING_CALLS]


class PageWriter(PageReader):
    """The page, for the coordinator. Figures outlive it: the next coordinator finds them."""

    _PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE

    def set_route_generation(self, generation: int) -> None:
        self._words[_ROUTE_GENERATION] = generation

    def set_event_seq(self, seq: int) -> None:
        self._words[_EVENT_SEQ] = seq

    def set_draining(self, draining: bool) -> None:
        self._words[_DRAINING] = int(draining)

    def set_ready(self, ready: bool) -> None:
        self._words[_READY] = int(ready)

    def beat(self, monotonic_us: int) -> None:
        self._words[_BEAT] = monotonic_us

    def set_load(self, runners_total: int, runners_free: int, queued_tasks: int, waiting_calls: int) -> None:
        """How full the worker is, for `/readyz`."""
        self._words[_RUNNERS_TOTAL] = runners_total
        self._words[_RUNNERS_FREE] = runners_free
        self._words[_QUEUED_TASKS] = queued_tasks
        self._words[_WAITING_CALLS] = waiting_calls
