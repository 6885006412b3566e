"""The data directory, as far as the launcher prepares it: made, given to `--user`, private, and locked.

<data_dir>/                0700
├─ run/                    sockets and the lock
│  ├─ lock                 flock(2), held by launcher, coordinator and gunicorn together: free when all are dead
│  └─ commands.sock
└─ blobs/ artifacts/ …     the coordinator's
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
import time
from contextlib import suppress
from pathlib import Path

from worker.errors import ConfigError, DataDirectoryError, DataDirectoryLocked
from worker.spawn import Identity

# A killed worker is dead at once, its children some milliseconds later: a new one waits up to so long for the lock.
LOCK_PATIENCE_S = 3.0
ACCESS_LIST = "system.posix_acl_access"


def identity_of(user: str) -> Identity | None:
    """Whom `--user` names; None for an ordinary user's worker, which runs as who started it.

    Raises:
        ConfigError: nobody has that name, or it is root.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError) as exc:
        raise ConfigError("--user", user, "the name or number of a user of this machine") from exc
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise ConfigError("--user", user, "another user than root, since it is what parses HTTP")
    return Identity(entry.pw_uid, entry.pw_gid)


def prepare(path: Path, identity: Identity | None) -> None:
    """Make `path` and `path`/run if they aren't there, private to `identity` (None: to us).

    Raises:
        DataDirectoryError: says what is in the way and what to do.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _take(path, identity)
        (path / "run").mkdir(exist_ok=True, mode=0o700)
        _take(path / "run", identity)
        closed = _closed_to(path, identity) if identity else None
    except OSError as exc:
        raise DataDirectoryError(
            f"the data directory {path} can't be made or entered: {exc}; {_what_to_do(exc)}"
        ) from exc
    if identity and closed:
        raise DataDirectoryError(
            f"uid {identity.uid} of --user can't enter {closed}, and so not the data directory {path} below it: "
            "let others enter it (chmod o+x), or choose another --data-dir"
        )


def _closed_to(path: Path, identity: Identity) -> Path | None:
    """The first directory above `path` that `identity` may not pass by its mode; who has an access list may."""
    for directory in reversed(path.resolve().parents):
        found = directory.stat()
        owned, shared = found.st_uid == identity.uid, found.st_gid == identity.gid
        passes = stat.S_IXUSR if owned else stat.S_IXGRP if shared else stat.S_IXOTH
        if not found.st_mode & passes and not _has_access_list(directory):
            return directory
    return None


def _has_access_list(directory: Path) -> bool:
    try:
        return ACCESS_LIST in os.listxattr(directory)
    except OSError:  # a file system that knows none
        return False


def _what_to_do(error: OSError) -> str:
    if error.errno == errno.EROFS:
        return "mount its file system for writing, or choose another --data-dir"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on its file system, or choose another --data-dir"
    return "let the worker write there, or choose another --data-dir"


def _take(path: Path, identity: Identity | None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        owner = identity.uid if identity else os.geteuid()
        if found.st_uid != owner:
            # Root may have made it for us; anything else could be somebody's home.
            if found.st_uid != 0 or identity is None or os.listdir(fd):
                raise DataDirectoryError(
                    f"{path} belongs to uid {found.st_uid} and must belong to uid {owner}: "
                    f"chown it with all that is in it, or choose another --user or --data-dir"
                )
            os.fchown(fd, identity.uid, identity.gid)
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def lock(path: Path, patience_s: float = LOCK_PATIENCE_S) -> int:
    """Lock `path` for one worker, and write our pid into the lock.

    Returns:
        The lock's fd. The lock lasts until every copy of it is closed, in children too.

    Raises:
        DataDirectoryLocked: another worker holds it.
        DataDirectoryError: it can't be made, as on a read-only file system.
    """
    try:
        fd = os.open(path / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise DataDirectoryError(f"the data directory {path} can't be written: {exc}; {_what_to_do(exc)}") from exc
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as exc:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise DataDirectoryLocked(
                f"another worker (pid {holder}) uses the data directory {path}: stop it, or choose another --data-dir"
            ) from exc
    with suppress(OSError):  # the pid is for people; a full disk must not keep a worker from starting
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        os.ftruncate(fd, len(b"%d\n" % os.getpid()))
    return fd
