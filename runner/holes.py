"""The holes in the zygote's heap, filled once, so that what a child allocates lies together, on pages of its own.

Start-up leaves free pieces all over the heap. A child that is given one of those pays for a copy of the whole page
around it: one in twenty of all its page faults, and of its memory.
"""

from __future__ import annotations

from ctypes import PyDLL, c_size_t, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Any

# CPython gives blocks of up to 512 bytes, in classes of 16 bytes' steps, out of pools of 16 KiB.
_POOL_BITS, _STEP_BYTES, _LAST_CLASS_BYTES = 14, 16, 512
_FLOAT_BYTES, _EMPTY_BYTES = 32, 33  # a float's class; a bytes object without any
# malloc's pieces, of 8 bytes past a multiple of the step. No hole is as large as the first; what is smaller than the
# last isn't asked for.
_PROBE_BYTES, _LARGE_BYTES, _SMALLEST_BYTES = 120 << 10, (1 << 10) + 8, 24
# Another allocator than these two is left alone after so many pools, or pieces of one size.
_MOST_POOLS, _MOST_PIECES = 64, 10_000

_kept: list[list[Any]] = []


def fill_holes() -> None:
    """Take what is free between all objects, for good. For a process that hardly allocates any more itself."""
    for size in range(_FLOAT_BYTES, _LAST_CLASS_BYTES + 1, _STEP_BYTES):
        _kept.append(_fill_class(size))
    _fill_malloc()


def _fill_class(size: int) -> list[Any]:
    """Take blocks until they fill a pool (nearly: others need blocks too): it was empty, so that none before it has a
    hole. What lies in it and behind it is let go again."""
    capacity = (1 << _POOL_BITS) // size
    most = capacity * 9 // 10
    blocks: list[Any] = []
    taken = {0: 0}  # by pool
    while max(taken.values()) < most and len(taken) < _MOST_POOLS:
        more = _blocks(size, capacity)
        for block in more:
            pool = id(block) >> _POOL_BITS
            taken[pool] = taken.get(pool, 0) + 1
        blocks += more
    taken[id(blocks[-1]) >> _POOL_BITS] = most
    return [block for block in blocks if taken[id(block) >> _POOL_BITS] < most]


def _blocks(size: int, count: int) -> list[Any]:
    if size == _FLOAT_BYTES:
        return [number + 0.5 for number in range(count)]
    return [bytes(size - _EMPTY_BYTES) for _ in range(count)]


def _fill_malloc() -> None:
    """Take pieces, from large to small, each size until one comes from behind all that there is."""
    libc = PyDLL(None)
    malloc, free = libc.malloc, libc.free
    malloc.restype, malloc.argtypes, free.restype, free.argtypes = c_void_p, (c_size_t,), None, (c_void_p,)
    end = malloc(_PROBE_BYTES)
    free(end)
    halves = [_PROBE_BYTES >> shift for shift in range(1, 7)]
    for size in (*halves, *range(_LARGE_BYTES, _SMALLEST_BYTES - 1, -_STEP_BYTES)):
        for _ in range(_MOST_PIECES):
            piece = malloc(size)
            if piece >= end:
                free(piece)
                break
