"""Landlock: a process forbids itself files, TCP, and signals and abstract sockets beyond its own domain.

What the kernel knows grows with its ABI (landlock(7)): 1 files, 2 links and renames between directories, 3 truncation,
4 TCP, 5 device ioctl, 6 scopes. A ruleset handles all that the running kernel knows; what it handles and no rule
allows is denied. It doesn't stop stat, chdir, UDP or descriptors that are open: those are seccomp's.
"""

from __future__ import annotations

import ctypes
from ctypes import addressof, c_int32, c_uint64, sizeof

from runner.syscalls import call, number

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Final

# linux/landlock.h
_CREATE_VERSION, _RULE_PATH_BENEATH = 1, 1
_ACCESS_BITS_BY_ABI: Final = (0, 13, 14, 15, 15, 16)  # index is the ABI, from 5 on 16
NET_BIND = 0b01  # of TCP; without NET_CONNECT beside it connections are free
_NET_ALL, _SCOPE_ALL = 0b11, 0b11

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE = 1 << 7, 1 << 8, 1 << 12, 1 << 13, 1 << 14

READ_ONLY: Final = READ_FILE | READ_DIR
# Neither devices, sockets, FIFOs nor execution: a guest has no use for them.
READ_WRITE: Final = (
    READ_ONLY | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
)

_CREATE, _ADD = number("landlock_create_ruleset"), number("landlock_add_rule")
_RESTRICT = number("landlock_restrict_self")


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr; shorter for older kernels."""

    _fields_ = (("files", c_uint64), ("net", c_uint64), ("scoped", c_uint64))


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = (("allowed", c_uint64), ("parent_fd", c_int32))


def abi() -> int:
    """The kernel's Landlock ABI, from 1.

    Raises:
        OSError: ENOSYS where the kernel is without Landlock, EOPNOTSUPP where it is turned off.
    """
    return call(_CREATE, 0, 0, _CREATE_VERSION)


def handled_files(version: int) -> int:
    """All file accesses that an ABI knows."""
    return (1 << _ACCESS_BITS_BY_ABI[min(version, len(_ACCESS_BITS_BY_ABI) - 1)]) - 1


def new_ruleset(version: int, net: int = _NET_ALL) -> int:
    """A ruleset that denies all that ABI `version` can, of TCP what `net` says: its descriptor (close-on-exec)."""
    attributes = _Ruleset(handled_files(version), net if version >= 4 else 0, _SCOPE_ALL if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    return call(_CREATE, addressof(attributes), size, 0)


def allow_beneath(ruleset_fd: int, version: int, directory_fd: int, access: int) -> None:
    """Allow `access` to everything below a directory, as far as ABI `version` knows it."""
    rule = _PathBeneath(access & handled_files(version), directory_fd)
    assert sizeof(rule) == 12
    call(_ADD, ruleset_fd, _RULE_PATH_BENEATH, addressof(rule), 0)


def restrict_self(ruleset_fd: int) -> None:
    """Hold this thread, and what it starts, to a ruleset, for good. Needs no_new_privs or CAP_SYS_ADMIN."""
    call(_RESTRICT, ruleset_fd, 0)
