"""Files below the data directory: modules, stdin, stdout and stderr. Written under a temporary name, then renamed.

<data_dir>/blobs/
    tmp/<32 hex>                    being written, or waiting for its row; its writer holds a lock on it
    modules/<64 hex>                a module, named by its digest
    stdin/<task id>                 until its task is final
    out/<2 hex>/<task id>.stdout    sharded by the id's last two digits
    out/<2 hex>/<task id>.stderr

No path is made of a name that wasn't checked: digests, ids and temporary names have no dot and no slash.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from worker.errors import BadName
from worker.shared.faults import Fault, no_fault

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TASK_ID = re.compile(r"[0-9a-f-]{34}[0-9a-f]{2}")
_TEMPORARY = re.compile(r"[0-9a-f]{32}")
_OUTPUT = re.compile(r"([0-9a-f-]{36})\.(?:stdout|stderr)")
OUTPUT_SHARDS = tuple(f"{number:02x}" for number in range(256))
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


class TemporaryBlob:
    """A blob being written. Use it as a context manager that outlives the answer to the command that names it.

    The lock that it holds tells the sweep of a new coordinator that somebody alive still wants the file. What has got
    its final name by the time it is left stays; what hasn't is removed.
    """

    def __init__(self, path: Path, fd: int, fault: Fault = no_fault) -> None:
        """Only `Blobs.new_temporary` makes one; `fd` holds the lock."""
        self._path = path
        self._fd = fd
        self._fault = fault
        self.size_bytes = 0

    @property
    def name(self) -> str:
        return self._path.name

    def fileno(self) -> int:
        """For reading back (with pread or mmap) what was written, before it is handed over."""
        return self._fd

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`.

        Raises:
            OSError: ENOSPC, EDQUOT or EIO; what was written so far goes with `discard`.
        """
        view = memoryview(data).cast("B")
        while view:
            written = os.write(self._fd, view)
            self.size_bytes += written
            view = view[written:]

    def finish(self) -> str:
        """The name for a command to carry; all bytes are on disk when this returns."""
        self._fault("blob.written")
        os.fsync(self._fd)
        self._fault("blob.synced")
        return self.name

    def discard(self) -> None:
        """Let go of the file; it is removed unless it has got its final name. Harmless when called again."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def release(self) -> None:
        """Let go of a finished file without removing it: its name is on its way to the commit thread."""
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> TemporaryBlob:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.discard()


class Blobs:
    """The files of one data directory. Any process of the worker may hold one; `claim_...` is the commit thread's."""

    def __init__(self, data_dir: str | Path, fault: Fault = no_fault) -> None:
        self._fault = fault
        root = Path(data_dir) / "blobs"
        self._temporary, self._modules, self._stdin, self._out = (
            root / name for name in ("tmp", "modules", "stdin", "out")
        )

    def create(self) -> None:
        """Make the directories that aren't there."""
        for directory in (self._temporary, self._modules, self._stdin, self._out):
            directory.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        present = set(os.listdir(self._out))
        for shard in OUTPUT_SHARDS:
            if shard not in present:
                (self._out / shard).mkdir(_DIRECTORY_MODE)
        for directory in (self._temporary.parent.parent, self._temporary.parent, self._out):
            sync_directory(directory)

    def new_temporary(self) -> TemporaryBlob:
        """A new empty blob.

        Raises:
            OSError: ENOSPC, EDQUOT, EMFILE, EROFS.
        """
        while True:
            path = self._temporary / secrets.token_hex(16)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._fault("blob.created")
                return TemporaryBlob(path, fd, self._fault)
            os.close(fd)  # a sweep came between the two calls and took it for a dead writer's

    def module_path(self, digest: str) -> Path:
        """Raises: BadName."""
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise BadName("digest", digest)
        return self._modules / found[1]

    def stdin_path(self, task_id: str) -> Path:
        """Raises: BadName."""
        return self._stdin / _checked_id(task_id)

    def output_paths(self, task_id: str) -> tuple[Path, Path]:
        """(stdout, stderr). Raises: BadName."""
        stem = self._output_stem(task_id)
        return Path(f"{stem}.stdout"), Path(f"{stem}.stderr")

    def temporary_path(self, name: str) -> Path:
        """Raises: BadName."""
        if _TEMPORARY.fullmatch(name) is None:
            raise BadName("temporary name", name)
        return self._temporary / name

    def _output_stem(self, task_id: str) -> str:
        """A string, since the commit thread takes two for every task that ends, and a Path costs five times as much."""
        return f"{self._out}/{_checked_id(task_id)[-2:]}/{task_id}"

    def claim(self, name: str, target: Path) -> None:
        """Give a finished temporary blob its final name. Done before, it is done: a batch may be tried again.

        Raises:
            FileNotFoundError: there is neither the one nor the other: its writer gave up, or died and was swept.
        """
        try:
            self.temporary_path(name).replace(target)
        except FileNotFoundError:
            if not target.exists():
                raise
        self._fault("blob.renamed")

    def drop_temporary(self, name: str) -> None:
        """Remove a blob that no row wants. Raises: BadName."""
        self.temporary_path(name).unlink(missing_ok=True)

    def cut_output(self, task_id: str, most_bytes: int) -> bool:
        """Cut a task's stdout and stderr to `most_bytes` each, once nobody writes them: whether one was longer.

        A runner keeps to that by itself. One with mounts that was killed may not have come to it, and one that a guest
        has taken over may have made a file as long as it likes, to push all that others keep out of the store.
        """
        stem = self._output_stem(task_id)
        longer = [path for path in (f"{stem}.stdout", f"{stem}.stderr") if _file_size(path) > most_bytes]
        for path in longer:
            os.truncate(path, most_bytes)
        return bool(longer)

    def sync_output(self, task_id: str) -> int:
        """Bring a task's stdout and stderr to disk: their size in bytes. What was never opened counts nothing."""
        stem = self._output_stem(task_id)
        total = _sync_file(f"{stem}.stdout") + _sync_file(f"{stem}.stderr")
        if total:
            sync_directory(os.path.dirname(stem))
        return total

    def output_bytes(self, task_id: str) -> int:
        """The size of a task's stdout and stderr together."""
        stem = self._output_stem(task_id)
        return _file_size(f"{stem}.stdout") + _file_size(f"{stem}.stderr")

    def listed_outputs(self, shard: str) -> dict[str, list[Path]]:
        """The files in one directory of outputs by the task that their name tells; "" for names that tell none."""
        listed: dict[str, list[Path]] = {}
        for name in os.listdir(self._out / shard):
            found = _OUTPUT.fullmatch(name)
            listed.setdefault(found[1] if found else "", []).append(self._out / shard / name)
        return listed

    def unclaimed(self, older_than_s: float) -> list[str]:
        """Temporary blobs whose writer is dead or has let go, not written for `older_than_s`: their names."""
        names = []
        now_s = time.time()
        for entry in os.scandir(self._temporary):
            with suppress(OSError):  # claimed or dropped meanwhile
                if now_s - entry.stat(follow_symlinks=False).st_mtime > older_than_s and not _locked(entry.path):
                    names.append(entry.name)
        return names

    def sweep_temporary(self) -> int:
        """Remove the blobs whose writer is dead, before any command names one; how many."""
        swept = 0
        for entry in os.scandir(self._temporary):
            try:
                fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue  # claimed or dropped meanwhile
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
                swept += 1
            except OSError:
                continue  # its writer lives, or has just dropped it
            finally:
                os.close(fd)
        return swept

    def sweep_orphans(self, digests: frozenset[str], live_ids: frozenset[str]) -> int:
        """Remove modules without a row, and the stdin of what isn't a live task; how many.

        A crash between rename and commit, or between commit and unlink, leaves these. Call it before any commit.
        Outputs may be many, and are swept later: see `listed_outputs`.
        """
        modules = {digest.removeprefix("sha256:") for digest in digests}
        swept = 0
        for directory, wanted in ((self._modules, modules), (self._stdin, live_ids)):
            for name in os.listdir(directory):
                if name not in wanted:
                    (directory / name).unlink(missing_ok=True)
                    swept += 1
        return swept


def _locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _checked_id(task_id: str) -> str:
    if _TASK_ID.fullmatch(task_id) is None:
        raise BadName("task id", task_id)
    return task_id


def _sync_file(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        size = os.fstat(fd).st_size
        if size:  # an empty file that a crash takes away reads the same as one that is there
            os.fdatasync(fd)
        return size
    finally:
        os.close(fd)


def sync_directory(path: str | Path) -> None:
    """Bring the names in a directory to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
