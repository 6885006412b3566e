"""A runner's own mount name space with parts of the operator's volumes in it, and nothing else.

A path within a volume is opened by openat2 without following any link, then cloned as a detached mount, restricted
while nobody can reach it yet, and only then attached: there is no path that a guest of before could have swapped.
The n-th mount is at /m<n> in the root that the process then takes.
"""

from __future__ import annotations

import errno
import os
import stat

from runner import landlock
from runner.errors import SealError
from runner.syscalls import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CLONE_NEWNS,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    attach_mount,
    call,
    clone_mount,
    effective_capabilities,
    mount,
    number,
    open_beneath,
    set_effective_capabilities,
    set_mount_attributes,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Sequence

MOUNT_POINT = b"/m%d"
# Room for the mount points and no more; the root is made read-only once they are there.
_ROOT_OPTIONS = b"size=64k,nr_inodes=64,mode=0755"
_HELD = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_READ_ALL = 1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH
_PATH_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Volume:
    """A directory of the operator's. `owner` is (uid, gid) where the operator named them."""

    __slots__ = ("kept", "name", "owner", "path")

    def __init__(self, name: bytes, path: bytes, owner: tuple[int, int] | None, kept: tuple[int, int] | None) -> None:
        """`kept` is the identity for this volume if its directory belongs to root or to the worker's own user."""
        self.name = name
        self.path = path
        self.owner = owner
        self.kept = kept

    def writer(self, forbidden_uids: frozenset[int]) -> tuple[int, int]:
        """Who writes to this volume: the owner, but never root or the worker's user.

        Raises:
            SealError: it belongs to one of these and nothing was kept for it (EPERM), or it isn't there.
        """
        if self.owner is not None:
            return self.owner
        try:
            status = os.stat(self.path)
        except OSError as exc:
            raise refused(self.name, b".", exc.errno) from exc
        if status.st_uid not in forbidden_uids and status.st_gid != 0:
            return status.st_uid, status.st_gid
        if self.kept is None:
            raise refused(self.name, b".", errno.EPERM)
        return self.kept


class Bound:
    """One mount of a SPAWN: the volume, the path within it, and whether it is read-only."""

    __slots__ = ("path", "read_only", "volume")

    def __init__(self, volume: Volume, path: bytes, read_only: bool) -> None:
        self.volume = volume
        self.path = path
        self.read_only = read_only


def refused(volume: bytes, path: bytes, number: int | None) -> SealError:
    """The error of a mount that can't be had, named by volume and path."""
    where = b"%s:%s" % (volume, path)
    return SealError(f"mount {where.decode('utf-8', 'replace')!r}", number or errno.EIO)


def identity(bounds: Sequence[Bound], own: tuple[int, int], forbidden_uids: frozenset[int]) -> tuple[int, int]:
    """Who the runner has to be: the writer of its writable volumes, else whoever it is anyway.

    Raises:
        SealError: two volumes of different writers (EXDEV).
    """
    writers = {bound.volume.writer(forbidden_uids): bound for bound in bounds if not bound.read_only}
    if len(writers) > 1:
        last = list(writers.values())[-1]
        raise refused(last.volume.name, last.path, errno.EXDEV)
    return next(iter(writers), own)


def build_root(root: bytes, bounds: Sequence[Bound], who: tuple[int, int]) -> None:
    """In a mount name space of its own, put a fresh root over the directory `root`, with all mounts in it.

    Needs CAP_SYS_ADMIN in this process's user name space. The way to a mount is gone with the rights of `who`, so
    that a mount opens nothing that the runner could not have reached itself.

    Raises:
        SealError: a mount that can't be had, named; ELOOP for a symlink on the way, ENOSYS before Linux 5.12.
    """
    unshare(CLONE_NEWNS)
    mount(b"galago", root, b"tmpfs", _HELD, _ROOT_OPTIONS)
    for index, bound in enumerate(bounds):
        target = root + MOUNT_POINT % index
        os.mkdir(target, 0o755)
        try:
            _bind(bound, target, who)
        except OSError as exc:
            raise refused(bound.volume.name, bound.path, exc.errno) from exc
    root_fd = os.open(root, _PATH_ONLY)
    set_mount_attributes(root_fd, _HELD | MOUNT_ATTR_RDONLY)
    os.close(root_fd)


def _bind(bound: Bound, target: bytes, who: tuple[int, int]) -> None:
    volume_fd = os.open(bound.volume.path, _PATH_ONLY)
    source_fd = _open_as(who, volume_fd, bound.path)
    mount_fd = clone_mount(source_fd)
    set_mount_attributes(mount_fd, _HELD | (MOUNT_ATTR_RDONLY if bound.read_only else 0))
    attach_mount(mount_fd, target)
    for fd in (mount_fd, source_fd, volume_fd):
        os.close(fd)


def _open_as(who: tuple[int, int], volume_fd: int, path: bytes) -> int:
    """Open a directory below a volume with another identity's rights. O_PATH: it is neither read nor written."""
    uid, gid, capabilities = os.getuid(), os.getgid(), effective_capabilities()
    _set_file_identity(who[0], who[1])
    # Only a change from root takes these away by itself, and the zygote of a worker in root's home is another with one.
    set_effective_capabilities(effective_capabilities() & ~_READ_ALL)
    try:
        fd = open_beneath(volume_fd, path or b".", os.O_PATH | os.O_DIRECTORY)
    finally:
        _set_file_identity(uid, gid)
        set_effective_capabilities(capabilities)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "a mount is a directory")
    return fd


def _set_file_identity(uid: int, gid: int) -> None:
    """setfsgid and setfsuid: they never fail, they return what was before; the group first, while it may."""
    call(number("setfsgid"), gid)
    call(number("setfsuid"), uid)


def allow_mounts(ruleset_fd: int, version: int, bounds: Sequence[Bound]) -> None:
    """After chroot: hold a Landlock ruleset open for the mounts, each with what its mode needs."""
    for index, bound in enumerate(bounds):
        fd = os.open(MOUNT_POINT % index, _PATH_ONLY)
        access = landlock.READ_ONLY if bound.read_only else landlock.READ_WRITE
        landlock.allow_beneath(ruleset_fd, version, fd, access)
        os.close(fd)
