"""Artifacts on disk: `<key>.cwasm` = 32 bytes of MAC, then the artifact. Read into sealed memfds, never mapped here.

The key is the SHA-256 of the module's digest and of every engine setting, so that a change of either is another file.
A file whose MAC doesn't hold is removed and made again: it is damage or an attack, and both are cured alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from pathlib import Path

from worker.coordinator import mac, memfd
from worker.shared.faults import Fault, no_fault


def artifact_key(digest: str, fingerprint: str) -> str:
    """The name of a module's artifact: hex of SHA-256 over module digest and engine settings."""
    return hashlib.sha256(f"{digest}\n{fingerprint}".encode()).hexdigest()


class ArtifactStore:
    """The directory of artifacts. Its methods block on the disk: they belong on a thread beside the loop.

    Args:
        directory: made if it isn't there.
        key: the MAC key.
    """

    def __init__(self, directory: Path, key: bytes, fault: Fault = no_fault) -> None:
        self._directory = directory
        self._fault = fault
        self._key = key
        directory.mkdir(mode=0o700, exist_ok=True)

    def load(self, name: str) -> tuple[int, int] | None:
        """(sealed memfd, size in bytes) of the artifact called `name`; None where there is none that is ours."""
        path = self._path(name)
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            claimed = os.read(source, mac.MAC_BYTES)
            target = memfd.create("artifact")
            try:
                size = self._copy(source, target, running := mac.new(self._key, name))
                if hmac.compare_digest(running.digest(), claimed):
                    memfd.seal(target)
                    os.utime(path)  # the least used is the first to go
                    return target, size
            except BaseException:
                os.close(target)
                raise
            os.close(target)
        finally:
            os.close(source)
        path.unlink(missing_ok=True)
        return None

    def store(self, name: str, fd: int) -> int:
        """Seal the compiler's memfd `fd`, put it on disk, and return its size. A full disk costs the cache only."""
        memfd.seal(fd)
        os.lseek(fd, 0, os.SEEK_SET)
        temporary = self._directory / f"{name}.{os.getpid()}.new"
        running = mac.new(self._key, name)
        size = os.fstat(fd).st_size
        try:
            target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.lseek(target, mac.MAC_BYTES, os.SEEK_SET)
                self._copy(fd, target, running)
                os.pwrite(target, running.digest(), 0)
                os.fsync(target)
            finally:
                os.close(target)
            self._fault("artifact.written")
            temporary.rename(self._path(name))
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return size

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def trim(self, most_bytes: int, used: frozenset[str] = frozenset()) -> int:
        """Remove the artifacts that were loaded least lately until the rest takes `most_bytes` or less; how many.

        Args:
            used: names of those that are in memory, which load nothing from here and go last.
        """
        found = []
        for entry in os.scandir(self._directory):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.append(
                    (entry.name.removesuffix(".cwasm") in used, status.st_mtime_ns, status.st_size, entry.path)
                )
        excess, removed = sum(size for _, _, size, _ in found) - most_bytes, 0
        for _, _, size, path in sorted(found):
            if excess <= 0:
                break
            os.unlink(path)
            excess, removed = excess - size, removed + 1
        return removed

    def sweep(self) -> None:
        """Remove what a crash left half-made."""
        for path in self._directory.glob("*.new"):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.cwasm"

    @staticmethod
    def _copy(source: int, target: int, running: hmac.HMAC) -> int:
        size = 0
        while chunk := os.read(source, memfd.CHUNK_BYTES):
            running.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]
            size += len(chunk)
        return size
