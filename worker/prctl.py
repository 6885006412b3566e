"""The few prctl(2) calls that Python has no name for. Each acts on the calling process and raises OSError."""

from __future__ import annotations

import ctypes
import os

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.restype = ctypes.c_int
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """The bare call; three of its five arguments are enough for all that is done here."""
    result: int = _libc.prctl(option, argument, second, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def set_parent_death_signal(signal_number: int) -> None:
    """Be sent this signal when the thread that forked us ends. A change of uid clears it: call it after that."""
    prctl(PR_SET_PDEATHSIG, signal_number)


def set_no_new_privileges() -> None:
    """No exec from here on gains a privilege (set-uid bits, file capabilities). For good, and inherited."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_undumpable() -> None:
    """No core dump, and no ptrace or /proc/<pid>/mem by another process of the same uid."""
    prctl(PR_SET_DUMPABLE, 0)
