"""Signals from outside that the engine swallows, so that a process dies of them all the same.

wasmtime handles the signals that traps come by. For one that is no trap it puts the default back and returns: the
faulting instruction then faults again, and ends the process by its true signal. But one that somebody sent (`kill
-SEGV`) has no such instruction: the process would go on, its next trap would be its death, and until then nobody would
know. So the ticker looks whether a handler is gone, and does then what really faults, for the filter lets nobody send
a signal.
"""

from __future__ import annotations

import ctypes
from ctypes import addressof, c_uint64

from runner import capi
from runner.syscall_numbers import MACHINE, X86_64
from runner.syscalls import FAULT_SIGNALS, SIGFPE, SIGILL, call, number

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable
    from typing import Final

_SIGSET_BYTES = 8
# x86-64's ud2. wasmtime's own code is full of it, and this much of it is searched.
_UNDEFINED, _SEARCHED_BYTES = b"\x0f\x0b", 1 << 20
_RT_SIGACTION = number("rt_sigaction")


def _divide() -> None:
    ctypes.CDLL(None).div(1, 0)


def _do_undefined() -> None:
    address = ctypes.cast(capi.library().wasmtime_engine_increment_epoch, ctypes.c_void_p).value or 0
    offset = ctypes.string_at(address, _SEARCHED_BYTES).find(_UNDEFINED)
    if offset >= 0:
        ctypes.CFUNCTYPE(None)(address + offset)()


# What faults by which signal; the machines differ, and what doesn't fault by its own ends in a SIGSEGV.
_FAULTS: Final[dict[int, Callable[[], None]]] = {SIGFPE: _divide, SIGILL: _do_undefined} if MACHINE == X86_64 else {}


class Watch:
    """Made when the engine has installed its handlers; watches those that it has."""

    __slots__ = ("_action", "_address", "_next", "_watched")

    def __init__(self) -> None:
        self._action = (c_uint64 * 4)()  # the kernel's struct sigaction; its first word is the handler, 0 the default
        self._address = addressof(self._action)
        self._watched = [number for number in FAULT_SIGNALS if not self._is_default(number)]
        self._next = 0

    def look(self) -> None:
        """Look at one of the handlers, in turn. Does not return where it is gone."""
        if not self._watched:
            return
        self._next = (self._next + 1) % len(self._watched)
        signal_number = self._watched[self._next]
        if self._is_default(signal_number):
            if signal_number in _FAULTS:
                _FAULTS[signal_number]()
            ctypes.string_at(0)

    def _is_default(self, signal_number: int) -> bool:
        call(_RT_SIGACTION, signal_number, 0, self._address, _SIGSET_BYTES)
        return not self._action[0]
