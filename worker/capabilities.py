"""Linux capabilities of the calling process: capabilities(7) by raw capget, capset and prctl.

As root the launcher keeps what LAUNCHER says. The coordinator is exec'd as `--user` with ambient ZYGOTE capabilities,
so that they survive the exec, and calls `settle_coordinator` first: CAP_KILL alone stays effective, the rest is merely
permitted, and is raised again only in the child that execs the zygote (`worker.spawn`, `capabilities=ZYGOTE`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from worker.errors import CapabilityError
from worker.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_SET_KEEPCAPS,
    prctl,
)


class Capability(IntEnum):
    """linux/capability.h; only those that the worker has a use for."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_CHROOT = 18
    SYS_ADMIN = 21
    SYS_RESOURCE = 24


# For a worker that is installed where only root can read, such as root's home: handed on only then (`worker.reach`).
READ_CODE = frozenset({Capability.DAC_READ_SEARCH})
# A fetcher takes a uid of its own, and drops these then.
CHANGE_USER = frozenset({Capability.SETGID, Capability.SETUID})
# Runners take other uids and gids, a root directory, namespaces and mounts of their own; SYS_RESOURCE for an
# oom_score_adj below the inherited one and limits above it; KILL, or PDEATHSIG reaches no other uid (DESIGN 3).
ZYGOTE = READ_CODE | frozenset(
    {
        Capability.KILL,
        Capability.SETGID,
        Capability.SETUID,
        Capability.SETPCAP,
        Capability.SYS_CHROOT,
        Capability.SYS_ADMIN,
        Capability.SYS_RESOURCE,
    }
)
# Beyond what it hands on: the data directory is made and given to `--user`, and files of other users (configuration,
# tokens) are read again on SIGHUP.
LAUNCHER = ZYGOTE | {Capability.CHOWN, Capability.DAC_OVERRIDE, Capability.FOWNER}
COORDINATOR_EFFECTIVE = READ_CODE | {Capability.KILL}

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two 32-bit words a set


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Sets:
    """The three sets of a process, as bit masks: bit n is capability n."""

    effective: int
    permitted: int
    inheritable: int


def mask(capabilities: Iterable[int]) -> int:
    """A set of capabilities as a bit mask."""
    return sum(1 << number for number in set(capabilities))


def read() -> Sets:
    """This process's sets."""
    words = (_Words * 2)()
    if _libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), words):
        raise _refused("capget")
    low, high = words
    return Sets(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def write(sets: Sets) -> None:
    """Make these this process's sets. Permitted can only shrink, effective and inheritable lie within it.

    Raises:
        CapabilityError: the kernel refused.
    """
    words = (_Words * 2)()
    for index, word in enumerate(words):
        word.effective = sets.effective >> 32 * index & 0xFFFFFFFF
        word.permitted = sets.permitted >> 32 * index & 0xFFFFFFFF
        word.inheritable = sets.inheritable >> 32 * index & 0xFFFFFFFF
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), words):
        raise _refused("capset")


def hold(capabilities: Iterable[int]) -> None:
    """Permitted, effective and inheritable become exactly those of `capabilities` that are permitted now."""
    kept = mask(capabilities) & read().permitted
    write(Sets(kept, kept, kept))


def keep_over_uid_change() -> None:
    """The permitted set outlives the next change from uid 0 to another; the effective one doesn't. Cleared by exec."""
    prctl(PR_SET_KEEPCAPS, 1)


def pass_on(capabilities: Iterable[int]) -> None:
    """Make the next exec keep exactly those of `capabilities` that are permitted now, whatever the uid."""
    hold(capabilities)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    inheritable = read().inheritable
    for number in sorted(set(capabilities)):
        if inheritable >> number & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def bound_to(capabilities: Iterable[int]) -> None:
    """Take everything else out of the bounding set, so that no exec brings it back. Without CAP_SETPCAP: nothing."""
    if not read().effective >> Capability.SETPCAP & 1:
        return
    kept = mask(capabilities)
    for number in range(64):
        if kept >> number & 1:
            continue
        try:
            if prctl(PR_CAPBSET_READ, number):
                prctl(PR_CAPBSET_DROP, number)
        except OSError:  # EINVAL: past the last capability that this kernel knows
            return


def settle_launcher() -> None:
    """As root: keep what the launcher needs and nothing else. As an ordinary user: nothing to do."""
    if os.geteuid() == 0:
        bound_to(LAUNCHER)
        hold(LAUNCHER)


def settle_coordinator() -> None:
    """Right after the coordinator's exec: CAP_KILL (and READ_CODE) alone effective, the zygote's permitted.

    An ordinary user's coordinator has none and stays so.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    permitted = read().permitted & mask(ZYGOTE)
    write(Sets(permitted & mask(COORDINATOR_EFFECTIVE), permitted, 0))


def drop_all() -> None:
    """Nothing is left, in any set, for good."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    write(Sets(0, 0, 0))


def permitted_for_fetcher() -> frozenset[int]:
    """What the coordinator hands a fetcher: the right to change its user, and to load our code."""
    permitted = read().permitted
    return frozenset(number for number in READ_CODE | CHANGE_USER if permitted >> number & 1)


def permitted_for_zygote() -> frozenset[int]:
    """What of ZYGOTE the coordinator may hand on: all of it under root's launcher, nothing as an ordinary user."""
    permitted = read().permitted
    return frozenset(number for number in ZYGOTE if permitted >> number & 1)


def _refused(call: str) -> CapabilityError:
    return CapabilityError(f"{call} failed: {os.strerror(ctypes.get_errno())}")
