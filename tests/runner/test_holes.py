"""What the zygote's children allocate lies together. In processes of their own: a heap that is filled stays so."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.runner.zygote_host import ROOT

# Holes of `size` bytes all over a megabyte, and where a hundred new pieces of that size lie then.
PROGRAM = """
import ctypes, json, sys
sys.path.append({root!r})
from runner.holes import fill_holes
libc = ctypes.PyDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)
def allocate():
    if {by_malloc}:
        return libc.malloc({size})
    made.append(bytes({size} - 33))
    return id(made[-1])
made = []
places = [allocate() for _ in range((1 << 20) // {size})]
for number in range(0, len(places), 4):
    if {by_malloc}:
        libc.free(places[number])
    else:
        made[number] = None
if {filled}:
    fill_holes()
print(json.dumps([allocate() for _ in range(100)]))
"""


def pages(size: int, *, by_malloc: bool, filled: bool) -> int:
    """How many pages the hundred touch."""
    program = PROGRAM.format(root=ROOT, size=size, by_malloc=by_malloc, filled=filled)
    command = [sys.executable, "-I", "-S", "-E", "-c", program]
    places = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return len({place >> 12 for place in places})


@pytest.mark.parametrize(
    ("size", "by_malloc"),
    [(192, False), (320, False), (24, True), (40, True), (200, True), (1200, True), (2000, True)],
    ids=str,
)
def test_what_is_allocated_after_it_lies_on_as_few_pages_as_can_be(size: int, by_malloc: bool) -> None:
    needed = 100 * (size + 8) // 4096 + 1  # malloc keeps a word of its own before each piece
    spare = 5 if size < 100 else 8  # a pool is let go of with a few blocks taken; few pages hold a hundred small ones

    assert pages(size, by_malloc=by_malloc, filled=False) > needed + spare
    assert pages(size, by_malloc=by_malloc, filled=True) <= needed + spare


def test_filling_twice_ends_as_well() -> None:
    program = f"import sys; sys.path.append({ROOT!r}); from runner.holes import fill_holes; fill_holes(); fill_holes()"

    subprocess.run([sys.executable, "-I", "-S", "-E", "-c", program], check=True, timeout=30)


@pytest.mark.parametrize("allocator", ["malloc", "pymalloc_debug"])
def test_another_allocator_of_pythons_is_left_alone_in_the_end(allocator: str) -> None:
    program = f"import sys; sys.path.append({ROOT!r}); from runner import holes; holes.fill_holes(); "
    program += "print(sum(map(len, holes._kept)))"

    command = [sys.executable, "-S", "-c", program]
    ran = subprocess.run(command, check=True, timeout=30, env={"PYTHONMALLOC": allocator}, stdout=subprocess.PIPE)
    assert int(ran.stdout) < 200_000
