"""What the zygote sets once, so that every process it forks is born with it; and what is possible here at all.

Each layer is done where it can be. What can't be done here (another kernel, an ordinary user) is left out of
`Inheritance.layers`; `runner.probe` says why, and how to get it.
"""

from __future__ import annotations

import os

from runner import allow, landlock, seccomp
from runner.errors import SealError
from runner.fork import Forker
from runner.protocol import PROFILE_NAMES
from runner.syscalls import (
    CAP_SETGID,
    CAP_SETUID,
    CAP_SYS_ADMIN,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MS_SLAVE_RECURSIVE,
    PR_MDWE_REFUSE_EXEC_GAIN,
    PR_SET_MDWE,
    PR_SET_NO_NEW_PRIVS,
    RLIM_INFINITY,
    RLIMIT_CORE,
    RLIMIT_MEMLOCK,
    RLIMIT_STACK,
    effective_capabilities,
    hard_limit,
    mount,
    prctl,
    set_limit,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable
    from typing import Final

STACK_BYTES = 8 << 20
# Runners are the first that the kernel ends when memory runs out: far above any service, below nothing.
OOM_SCORE = 900
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_SEPARATE: Final = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS
_MS_RDONLY = 1
_ENOTEMPTY = 39
_HELD = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC  # as MS_ flags they are the same bits


class Inheritance:
    """What a child finds: layers that are possible or done, descriptors, filters, figures.

    `root` is the directory to chroot to, `parent_pid` the coordinator's pid, `data_bytes` the private memory that every
    child starts with; `file_bytes` the longest file by profile; `forbidden_uids` those that no guest ever gets.
    """

    def __init__(self, root: bytes, parent_pid: int, forbidden_uids: frozenset[int]) -> None:
        self.root = root
        self.parent_pid = parent_pid
        self.forbidden_uids = forbidden_uids
        self.layers: frozenset[str] = frozenset()
        self.ruleset_fd = -1
        self.landlock_abi = 0
        self.data_bytes = 0
        self.file_bytes = {profile: RLIM_INFINITY for profile in PROFILE_NAMES}
        self.filters: dict[int, seccomp.Filter] = {}

    def has(self, layer: str) -> bool:
        return layer in self.layers


def inherit(inheritance: Inheritance, forker: Forker, cgroup: bytes = b"") -> None:
    """Do all that children inherit, and find out which layers they can have.

    Raises:
        SealError: the root directory isn't an empty directory.
    """
    done = {"rlimits"}
    limit_resources()
    if raise_oom_score():
        done.add("oom_score")
    if cgroup and join_cgroup(cgroup):
        done.add("cgroup")
    if may_change_user():
        os.setgroups([])
        done.add("uid")
    if not os.path.isdir(inheritance.root) or os.listdir(inheritance.root):
        raise SealError("root directory", _ENOTEMPTY)
    separate = separation()
    if separate is not None and not forker.throwaway(lambda: separate(inheritance.root)):
        separate(inheritance.root)
        done.add("namespaces")
    if give_up_privileges():
        done.add("no_new_privs")
    done |= find_possible(inheritance, forker)
    inheritance.layers = frozenset(done)
    inheritance.filters = {profile: seccomp.Filter(seccomp.assemble(allow.RULES[profile])) for profile in PROFILE_NAMES}


def limit_resources() -> None:
    """No core dumps, which hold guests' memory; no locked memory; a stack that deep recursion can't grow for ever."""
    set_limit(RLIMIT_CORE, 0)
    set_limit(RLIMIT_MEMLOCK, 0)
    set_limit(RLIMIT_STACK, min(STACK_BYTES, hard_limit(RLIMIT_STACK)))


def raise_oom_score() -> bool:
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % OOM_SCORE)
    except OSError:
        return False
    return True


def give_up_privileges() -> bool:
    """no_new_privs, for good."""
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError:
        return False
    return True


def join_cgroup(directory: bytes) -> bool:
    """Become a member of a cgroup, as all children will be. A file of that name is never made."""
    try:
        fd = os.open(directory + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(fd, b"0") == 1
    except OSError:
        return False
    finally:
        os.close(fd)


def may_change_user() -> bool:
    capable = effective_capabilities()
    return bool(capable >> CAP_SETUID & capable >> CAP_SETGID & 1)


def separation() -> Callable[[bytes], None] | None:
    """How this process gets name spaces of its own, given the root directory; None where it can't.

    One that may take other users' uids has no use for a user name space in which there is only one.
    """
    if effective_capabilities() >> CAP_SYS_ADMIN & 1:
        return _separate_as_root
    return None if may_change_user() else _separate_as_user


def _separate_as_root(root: bytes) -> None:
    """Network, IPC, host name and mounts of our own, and an empty read-only file system over the root directory."""
    unshare(_SEPARATE)
    _arrange_mounts(root)


def _separate_as_user(root: bytes) -> None:
    """The same in a user name space of our own, with this user mapped to itself: outside nothing changes."""
    uid, gid = os.getuid(), os.getgid()
    unshare(_SEPARATE | CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:
            file.write(text.encode())
    _arrange_mounts(root)


def _arrange_mounts(root: bytes) -> None:
    # Mounts that the operator makes later still reach volumes; nothing goes the other way.
    mount(b"", b"/", b"", MS_SLAVE_RECURSIVE)
    mount(b"galago", root, b"tmpfs", _HELD | _MS_RDONLY, b"size=4k,nr_inodes=2,mode=0555")


def find_possible(inheritance: Inheritance, forker: Forker) -> set[str]:
    """Layers that each child applies itself, and that this kernel lets it: tried in a child, for they last."""
    found = {"pdeathsig", "nondumpable"}
    if not forker.throwaway(lambda: os.chroot(inheritance.root)):
        found.add("chroot")
    if not forker.throwaway(lambda: _ignore(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN))):
        found.add("mdwe")
    if not forker.throwaway(_try_filter):
        found.add("seccomp")
    try:
        inheritance.landlock_abi = landlock.abi()
        inheritance.ruleset_fd = landlock.new_ruleset(inheritance.landlock_abi)
    except OSError:
        return found
    if not forker.throwaway(lambda: landlock.restrict_self(inheritance.ruleset_fd)):
        found.add("landlock")
    return found


def _try_filter() -> None:
    everything = [seccomp.Rule("exit_group", "end the trial")]
    seccomp.Filter(seccomp.assemble(everything, default=seccomp.RET_ALLOW)).install()


def private_bytes() -> int:
    """What RLIMIT_DATA counts of this process now: data and stack pages, from /proc/self/statm."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[5]) * PAGE_BYTES


def _ignore(_: int) -> None:
    """Make a call's result no result."""
