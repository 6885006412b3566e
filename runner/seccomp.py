"""Seccomp: allow-lists as data, an assembler that makes a BPF program of one, and its installation.

A program is 8-byte instructions (linux/filter.h: u16 code, u8 jt, u8 jf, u32 k) over struct seccomp_data:
u32 nr at 0, u32 arch at 4, u64 instruction pointer at 8, u64 args[6] from 16, little-endian.

A condition looks at all 64 bits of an argument that its mask has, so that no rule needs to know how many the kernel
reads: of a descriptor or of flags that are an int it reads 32, of a pointer or of mmap's flags all. Where it reads
fewer, callers leave zeros above: compilers move an int by an instruction that clears the upper half.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import addressof, c_ushort, c_void_p

from runner.syscall_numbers import AARCH64, MACHINE, X86_64, number_of
from runner.syscalls import call, number

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Sequence
    from typing import Final

    # (argument's index, mask, value): (argument & mask) == value, 64 bits each
    Condition = tuple[int, int, int]

ALL_BITS: Final = 0xFFFFFFFFFFFFFFFF

# linux/seccomp.h, linux/audit.h
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
AUDIT_ARCH: Final = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
X32_BIT = 0x40000000
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1

# linux/bpf_common.h
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_GREATER_OR_EQUAL = 0x15, 0x35
_INSTRUCTION = struct.Struct("<HBBI")
_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16
_WORD = 0xFFFFFFFF


class Rule:
    """Allow one system call, and why: always, or where all conditions of one alternative hold.

    `action` other than RET_ALLOW answers the call without doing it (RET_ERRNO | errno). `otherwise` is what the call
    gets whose arguments fit no alternative; None is the program's default.
    """

    __slots__ = ("action", "alternatives", "name", "otherwise", "why")

    def __init__(
        self,
        name: str,
        why: str,
        *alternatives: tuple[Condition, ...],
        action: int = RET_ALLOW,
        otherwise: int | None = None,
    ) -> None:
        self.name = name
        self.why = why
        self.alternatives = alternatives
        self.action = action
        self.otherwise = otherwise


def equals(argument: int, value: int) -> tuple[Condition, ...]:
    return ((argument, ALL_BITS, value),)


def lacks(argument: int, bits: int) -> tuple[Condition, ...]:
    return ((argument, bits, 0),)


def assemble(rules: Sequence[Rule], machine: str = MACHINE, default: int = RET_KILL_PROCESS) -> bytes:
    """The program that allows what `rules` allow on `machine` and answers everything else with `default`.

    A foreign architecture (a 32-bit entry) and, on x86-64, every x32 number kill whatever `default` is.
    """
    program = [
        _instruction(_LOAD, _ARCH_OFFSET),
        _instruction(_JUMP_EQUAL, AUDIT_ARCH[machine], if_true=1),
        _instruction(_RETURN, RET_KILL_PROCESS),
        _instruction(_LOAD, _NR_OFFSET),
    ]
    if machine == X86_64:
        program.append(_instruction(_JUMP_GREATER_OR_EQUAL, X32_BIT, if_false=1))
        program.append(_instruction(_RETURN, RET_KILL_PROCESS))
    # Rules without conditions first: the kernel finds most of them in its bitmap anyway, and the rest come after.
    for rule in sorted(rules, key=lambda rule: bool(rule.alternatives)):
        nr = number_of(rule.name, machine)
        if nr is None:
            continue  # the machine has no such call, hence nobody can make it
        body = _body(rule, default)
        program.append(_instruction(_JUMP_EQUAL, nr, if_false=len(body)))
        program += body
    program.append(_instruction(_RETURN, default))
    return b"".join(program)


def _body(rule: Rule, default: int) -> list[bytes]:
    """What comes after a call's number has matched; it always returns."""
    if not rule.alternatives:
        return [_instruction(_RETURN, rule.action)]
    body = []
    for conditions in rule.alternatives:
        words = [word for condition in conditions for word in _words(condition)]
        left = 3 * len(words) + 1  # instructions of this alternative, with its return
        for offset, mask, value in words:
            left -= 3
            body.append(_instruction(_LOAD, offset))
            body.append(_instruction(_AND, mask))
            body.append(_instruction(_JUMP_EQUAL, value, if_false=left))
        body.append(_instruction(_RETURN, rule.action))
    body.append(_instruction(_RETURN, default if rule.otherwise is None else rule.otherwise))
    return body


def _words(condition: Condition) -> list[tuple[int, int, int]]:
    """(offset, mask, value) of the halves of an argument that a condition looks at: a program compares 32 bits."""
    argument, mask, value = condition
    offset = _ARGS_OFFSET + 8 * argument
    halves = ((offset, mask & _WORD, value & _WORD), (offset + 4, mask >> 32, value >> 32))
    return [half for half in halves if half[1]]


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, k)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", c_ushort), ("filter", c_void_p))


class Filter:
    """A program in the form that the kernel takes, made ready before the fork."""

    __slots__ = ("_address", "_buffer", "_program")

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // _INSTRUCTION.size, addressof(self._buffer))
        self._address = addressof(self._program)

    def install(self) -> None:
        """Filter every thread of this process, for good. Needs no_new_privs or CAP_SYS_ADMIN.

        Raises:
            OSError: the kernel's errno; ESRCH where a thread could not be brought under it.
        """
        thread = call(_SECCOMP, _SET_MODE_FILTER, _FLAG_TSYNC, self._address)
        if thread:
            raise ProcessLookupError(_ESRCH, f"thread {thread} has another filter")


_SECCOMP = number("seccomp")
_ESRCH = 3
