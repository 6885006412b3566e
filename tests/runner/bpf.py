"""An interpreter of the BPF that seccomp takes, as far as the assembler writes it: what would the kernel answer?"""

from __future__ import annotations

import struct

_LOAD, _AND, _RETURN, _JUMP_EQUAL, _JUMP_GREATER_OR_EQUAL = 0x20, 0x54, 0x06, 0x15, 0x35


def answer(program: bytes, nr: int, arch: int, args: tuple[int, ...] = ()) -> int:
    """The action for one call.

    Raises:
        AssertionError: the program reads or jumps where the kernel's checker would refuse it.
    """
    padded = (*args, *[0] * (6 - len(args)))
    data = struct.pack("<IIQ6Q", nr, arch, 0, *[value & 2**64 - 1 for value in padded])
    instructions = list(struct.iter_unpack("<HBBI", program))
    assert 0 < len(instructions) <= 4096
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, k = instructions[position]
        position += 1
        if code == _LOAD:
            assert k % 4 == 0
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == _AND:
            accumulator &= k
        elif code == _JUMP_EQUAL:
            position += if_true if accumulator == k else if_false
        elif code == _JUMP_GREATER_OR_EQUAL:
            position += if_true if accumulator >= k else if_false
        else:
            assert code == _RETURN
            return k
