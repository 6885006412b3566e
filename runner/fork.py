"""The one place of the runner package that forks: raw clone, which libc's fork can't do with these flags.

`sibling` makes a child of the *caller's parent* (CLONE_PARENT) and a pidfd of it (CLONE_PIDFD) in one call, so that
runners outlive the zygote and no pid is ever passed on bare. `throwaway` makes a child of the caller's own, to try
something that can't be undone.

A raw clone runs none of libc's and Python's own steps after a fork. What they would do: take back locks that other
threads hold (there are none: one thread is asserted), run registered hooks (none: `runner` imports nothing that
registers any), tell libc the child's thread id (CLONE_CHILD_SETTID does), and register the list of robust mutexes again
(nothing here has any). PyOS_AfterFork_Child alone costs a tenth of a millisecond, most of it page faults.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import addressof, c_int, c_long

from runner.syscall_numbers import AARCH64, MACHINE
from runner.syscalls import number, tid_address

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable
    from typing import NoReturn

# linux/sched.h
CLONE_PIDFD, CLONE_PARENT = 0x00001000, 0x00008000
CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x00200000, 0x01000000
SIGCHLD = 17

# PyDLL, not CDLL: the GIL stays ours, so that the child's only thread has it too.
_clone = ctypes.PyDLL(None, use_errno=True).syscall
_clone.restype = c_long
_clone.argtypes = (c_long,) * 6
_CLONE = number("clone")


class Forker:
    """Forks of this process; made once, by the thread that will fork.

    Raises:
        OSError: the kernel doesn't tell where libc keeps the thread's id (no CONFIG_CHECKPOINT_RESTORE).
    """

    def __init__(self) -> None:
        self._tid_address = tid_address()
        self._pidfd = c_int()
        self._pidfd_address = addressof(self._pidfd)

    def sibling(self) -> tuple[int, int]:
        """Fork a child of this process's parent: (0, -1) in it; (pid, pidfd) here.

        Raises:
            OSError: the kernel refused.
        """
        pid = self._fork(CLONE_PARENT | CLONE_PIDFD | SIGCHLD)
        return (pid, self._pidfd.value) if pid else (0, -1)

    def start(self, action: Callable[[], None]) -> int:
        """Do `action` in a child of this process, which has to be waited for: its pid. It ends as in `throwaway`."""
        pid = self._fork(SIGCHLD)
        if pid == 0:
            _end_with(action)
        return pid

    def throwaway(self, action: Callable[[], None]) -> int:
        """Do `action` in a child that ends after it: 0, or the errno of the OSError that it raised, 255 for any other.

        A child that was killed counts as 128 + the signal's number.
        """
        _, status = os.waitpid(self.start(action), 0)
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _fork(self, flags: int) -> int:
        assert_one_thread()
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
        tid = self._tid_address
        # The order of the last two arguments, child's tid and thread-local storage, differs.
        last = (0, tid) if MACHINE == AARCH64 else (tid, 0)
        pid: int = _clone(_CLONE, flags, 0, self._pidfd_address, *last)
        if pid < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno))
        return pid


def assert_one_thread() -> None:
    """A lock that another thread holds at the fork is held in the child for ever.

    Raises:
        RuntimeError: this process has more than one thread.
    """
    # The link count of a directory is 2 and one for each in it: cheaper than listing it.
    threads = os.stat("/proc/self/task").st_nlink - 2
    if threads != 1:
        raise RuntimeError(f"only a process with one thread may fork, this has {threads}")


def _end_with(action: Callable[[], None]) -> NoReturn:
    code = 255
    try:
        action()
        code = 0
    except OSError as exc:
        code = exc.errno or 255
    finally:
        os._exit(code)
