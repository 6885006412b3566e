"""Artifacts at hand: from memory, from disk, or from a compiler; never compiled twice, however many wait for one.

Memory holds the sealed memfds that runners are given, up to a number of bytes, the longest unused leaving first.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.coordinator import audit
from worker.coordinator.artifact_store import ArtifactStore, artifact_key
from worker.coordinator.background import Background
from worker.coordinator.compile import Compilation, Compiled

# Modules that failed to compile are remembered, so that a module made to be slow is slow once.
REMEMBERED_FAILURES = 1024


@dataclass(frozen=True, slots=True)
class ArtifactEvents:
    """Who is told what: ready and failed for each `prepare`, evicted whenever memory lets one go."""

    ready: Callable[[str], None]
    failed: Callable[[str, str], None]
    evicted: Callable[[str], None]


class Artifacts:
    """
    Args:
        fingerprint: of every engine setting; part of each artifact's name.
        module_path: from a digest to the module's file.
        new_compilation: makes a Compilation that calls back with its end; injected for the tests.
        cache_bytes: how much memory the memfds may take, together.
        at_once: how many compilers may run at a time, and `wall_us` how long each may take.
        store_bytes: how much the store may take; the longest unused leave it first.
    """

    def __init__(
        self,
        store: ArtifactStore,
        background: Background,
        fingerprint: str,
        module_path: Callable[[str], Path],
        new_compilation: Callable[[Callable[[Compiled], None]], Compilation],
        events: ArtifactEvents,
        *,
        cache_bytes: int,
        at_once: int,
        wall_us: int,
        store_bytes: int = 2**62,
    ) -> None:
        self._store = store
        self._background = background
        self._fingerprint = fingerprint
        self._module_path = module_path
        self._new_compilation = new_compilation
        self._events = events
        self._cache_bytes = cache_bytes
        self._at_once = at_once
        self._wall_us = wall_us
        self._store_bytes = store_bytes
        self._memory: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._memory_bytes = 0
        self._failures: OrderedDict[str, str] = OrderedDict()
        self._loading: set[str] = set()
        self._waiting: deque[str] = deque()
        self.compiling: dict[str, Compilation] = {}
        self.compiled = 0

    def fd(self, digest: str) -> int:
        """The sealed memfd of an artifact that was told `ready` and not `evicted`.

        Raises:
            FileNotFoundError: it was evicted.
        """
        if digest not in self._memory:
            raise FileNotFoundError(errno.ENOENT, "the artifact has left the cache")
        self._memory.move_to_end(digest)
        return self._memory[digest][0]

    @property
    def memory_bytes(self) -> int:
        """What it counts its artifacts in memory to take."""
        return self._memory_bytes

    def sizes(self) -> dict[str, int]:
        """Bytes of each artifact in memory, by digest."""
        return {digest: size for digest, (_, size) in self._memory.items()}

    def children(self) -> dict[int, audit.Child]:
        """The compilers that are born, by pid, as the audit knows a child."""
        return {
            compilation.pid: audit.Child(f"the compiler of {digest}", compilation.child.watched)
            for digest, compilation in self.compiling.items()
            if compilation.child is not None and compilation.pid is not None
        }

    def fds(self) -> dict[int, str]:
        """Descriptors of artifacts and compilers, and what they are."""
        found = {fd: f"the artifact of {digest}" for digest, (fd, _) in self._memory.items()}
        for compilation in self.compiling.values():
            found.update(compilation.fds())
        return found

    def pids(self) -> list[int]:
        """The compilers' that run."""
        return [compilation.pid for compilation in self.compiling.values() if compilation.pid is not None]

    def prepare(self, digest: str) -> None:
        """Have it at hand; `ready` or `failed` follows, perhaps at once."""
        if digest in self._memory:
            self._events.ready(digest)
        elif digest in self._failures:
            self._events.failed(digest, self._failures[digest])
        elif digest not in self._loading:
            self._loading.add(digest)
            name = artifact_key(digest, self._fingerprint)
            self._background.submit(lambda: self._store.load(name), lambda found: self._looked_up(digest, found))

    def cancel(self, digest: str) -> None:
        """Nobody waits for it any more."""
        self._loading.discard(digest)
        if digest in self._waiting:
            self._waiting.remove(digest)
        compilation = self.compiling.get(digest)
        if compilation is not None:
            compilation.cancel()

    def trim(self) -> None:
        """Let the longest unused go while memory holds too much; the last one used stays.

        For the loop to call when every effect was carried out: until then the core counts on all that were told ready.
        """
        while self._memory_bytes > self._cache_bytes and len(self._memory) > 1:
            self._evict(next(iter(self._memory)))

    def trim_store(self) -> None:
        """Let the longest unused leave the disk, where it holds too much."""
        used = frozenset(artifact_key(digest, self._fingerprint) for digest in self._memory)
        self._background.submit(lambda: self._store.trim(self._store_bytes, used), lambda _: None)

    def kill_overdue(self, monotonic_us: int) -> None:
        """Kill the compilers that have had their time."""
        for compilation in list(self.compiling.values()):
            if monotonic_us - compilation.started_us > self._wall_us:
                compilation.kill(f"compiling took longer than {self._wall_us // 1_000_000} s (compile_wall_s)")

    def forget(self, digest: str) -> None:
        """The module is gone: so is all that was made of it."""
        self._evict(digest)
        self._failures.pop(digest, None)
        name = artifact_key(digest, self._fingerprint)
        self._background.submit(lambda: self._store.remove(name), lambda _: None)

    def close(self) -> None:
        for digest in list(self._memory):
            os.close(self._memory.pop(digest)[0])

    def _looked_up(self, digest: str, found: Any) -> None:
        if digest not in self._loading:  # cancelled meanwhile
            if isinstance(found, tuple):
                os.close(found[0])
            return
        if isinstance(found, tuple):
            self._loading.discard(digest)
            self._keep(digest, *found)
        else:  # not there, damaged, or the disk didn't give it: all of them are cured by compiling
            self._waiting.append(digest)
            self._compile_next()

    def _compile_next(self) -> None:
        while len(self.compiling) < self._at_once:
            # One that was cancelled and is dying still is not begun again before it is dead.
            digest = next((digest for digest in self._waiting if digest not in self.compiling), None)
            if digest is None:
                return
            self._waiting.remove(digest)
            compilation = self._new_compilation(lambda result, digest=digest: self._compiled(digest, result))  # type: ignore[misc]
            self.compiling[digest] = compilation
            compilation.start(self._module_path(digest))

    def _compiled(self, digest: str, result: Compiled) -> None:
        del self.compiling[digest]
        wanted = digest in self._loading
        if result.cancelled and wanted:
            if digest not in self._waiting:
                self._waiting.append(digest)
        elif result.artifact_fd < 0:
            self._loading.discard(digest)
            if wanted:
                self._remember_failure(digest, result)
                self._events.failed(digest, result.failure)
        else:
            self.compiled += 1
            if digest in self._waiting:  # asked for again while a cancelled compiler came to its end all the same
                self._waiting.remove(digest)
            name, fd = artifact_key(digest, self._fingerprint), result.artifact_fd
            self._background.submit(lambda: self._store.store(name, fd), lambda size: self._stored(digest, fd, size))
        self._compile_next()

    def _stored(self, digest: str, fd: int, size: Any) -> None:
        if isinstance(size, int):
            self._loading.discard(digest)
            self._keep(digest, fd, size)
            self.trim_store()
            return
        os.close(fd)
        self._loading.discard(digest)
        self._events.failed(digest, f"the artifact can't be sealed: {size}")

    def _keep(self, digest: str, fd: int, size: int) -> None:
        if digest in self._memory:
            old_fd, old_size = self._memory.pop(digest)
            self._memory_bytes -= old_size
            os.close(old_fd)
        self._memory[digest] = (fd, size)
        self._memory_bytes += size
        self._events.ready(digest)

    def _evict(self, digest: str) -> None:
        if digest in self._memory:
            fd, size = self._memory.pop(digest)
            self._memory_bytes -= size
            os.close(fd)
            self._events.evicted(digest)

    def _remember_failure(self, digest: str, result: Compiled) -> None:
        if result.deterministic:
            self._failures[digest] = result.failure
            if len(self._failures) > REMEMBERED_FAILURES:
                self._failures.popitem(last=False)
