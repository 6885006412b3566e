"""What wasmtime answered, turned into why a guest ended.

wasmtime has two families: a wasm_trap_t for what Wasm itself can do wrong, and a wasmtime_error_t for the rest, which
holds also the trap that our own host functions end a guest by.

**oom_guest.** The C API tells nobody that a `memory.grow` was refused: the limiter that it offers answers -1 to the
guest and keeps no count, and the callbacks that would see it (a memory creator) exclude the pool. What can be known is
how large the memory was when the guest trapped. So `oom_guest` is inferred: a trap of a kind that failed allocations
end in, while the memory stood so near to its limit that a growth by OOM_MARGIN of the limit would have been refused.
A single request far over the limit, refused while the memory was still small, stays a `trap`. Only the GC heap says
by itself that it is exhausted.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint8, c_void_p

from runner import settings
from runner.capi import ByteVec, library, take_error, take_pointer
from runner.protocol import MAX_DETAIL_BYTES
from runner.protocol.status import TRAP_CODES

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable

    from runner.linking import Invoker

# A sixteenth of the limit, and a page at least: allocators ask for as much as they need, not page by page.
OOM_MARGIN = 16
# How a program ends whose allocation failed: abort() is `unreachable`, a null or -1 that is used reaches nowhere.
_OOM_TRAPS = frozenset({"unreachable_code_reached", "memory_out_of_bounds", "indirect_call_to_null", "null_reference"})
_GC_EXHAUSTED = "GC heap out of memory"

MAX_FRAMES = 8
MAX_NAME_BYTES = 200


class Ending:
    """Why a guest ended: the fields of an Outcome that aren't usage."""

    __slots__ = ("detail", "exit_code", "reason", "trap_code")

    def __init__(
        self, reason: str, detail: str = "", *, trap_code: str | None = None, exit_code: int | None = None
    ) -> None:
        self.reason = reason
        self.detail = detail
        self.trap_code = trap_code
        self.exit_code = exit_code


def from_exit(code: int) -> Ending:
    return Ending("nonzero_exit" if code else "exit", exit_code=code)


def over_output(output_bytes: int) -> Ending:
    return Ending("output_limit", f"more than {output_bytes} bytes were written to one stream")


def ending_of(
    invoker: Invoker,
    error: int | None,
    otherwise: str,
    output_bytes: int,
    stopped: Callable[[], bool],
    memory: tuple[int, int],
) -> Ending:
    """What an instantiation or a call came to that didn't return: `error`, or the trap in the invoker.

    Args:
        otherwise: the reason of an error whose text doesn't tell a better one.
        output_bytes: the cap of each stream.
        stopped: whether an interrupt was a stop; else it was the deadline.
        memory: bytes that the guest's memory had, and its limit.
    """
    wasi = invoker.wasi
    if wasi.exit_code is not None:
        invoker.drop(error)
        return from_exit(wasi.exit_code)
    if wasi.streams.truncated or wasi.failure is not None:
        invoker.drop(error)
        return over_output(output_bytes)
    if error:
        return from_error(error, otherwise)
    return from_trap(take_pointer(invoker.trap), stopped, memory)


def from_trap(trap: int, stopped: Callable[[], bool], memory: tuple[int, int]) -> Ending:
    """A wasm_trap_t, which is deleted. `memory` is (bytes that the guest's memory had, its limit)."""
    lib = library()
    number = c_uint8()
    code = None
    if lib.wasmtime_trap_code(trap, byref(number)) and number.value < len(TRAP_CODES):
        code = TRAP_CODES[number.value]
    detail = _describe(trap, code)
    lib.wasm_trap_delete(trap)
    if code == "out_of_fuel":
        return Ending("fuel", detail)
    if code == "interrupt":
        return Ending("stopped" if stopped() else "deadline", detail)
    if code in _OOM_TRAPS and _exhausted(*memory):
        return Ending("oom_guest", f"its memory had {memory[0]} of {memory[1]} bytes; {detail}", trap_code=code)
    return Ending("trap", detail, trap_code=code)


def from_error(error: int, otherwise: str) -> Ending:
    """A wasmtime_error_t, which is deleted; `otherwise` is the reason where the text doesn't tell a better one."""
    message = take_error(error)
    return Ending("oom_guest" if _GC_EXHAUSTED in message else otherwise, message)


def _exhausted(size: int, limit: int) -> bool:
    return size > 0 and limit - size < max(settings.WASM_PAGE_BYTES, limit // OOM_MARGIN)


def _describe(trap: int, code: str | None) -> str:
    """A trap's text: its code and the innermost frames.

    Not wasmtime's own: that one holds every name in full, and demangled; from one module it was 4 MB.
    """
    lib = library()
    frames = ByteVec()
    lib.wasm_trap_trace(trap, byref(frames))
    lines = [f"wasm trap: {code}" if code else _message(trap)]
    if frames.size:
        for frame in (c_void_p * frames.size).from_address(frames.data)[:MAX_FRAMES]:
            name = lib.wasmtime_frame_func_name(frame)
            offset = lib.wasm_frame_func_offset(frame)
            lines.append(f"at {_name(name)} (function {lib.wasm_frame_func_index(frame)}, offset {offset:#x})")
    lib.wasm_frame_vec_delete(byref(frames))
    return "\n".join(lines)[:MAX_DETAIL_BYTES]


def _message(trap: int) -> str:
    lib = library()
    text = ByteVec()
    lib.wasm_trap_message(trap, byref(text))
    message = ctypes.string_at(text.data, min(text.size, MAX_DETAIL_BYTES)).rstrip(b"\0").decode("utf-8", "replace")
    lib.wasm_byte_vec_delete(byref(text))
    return message


def _name(vector: int | None) -> str:
    if not vector:
        return "unnamed"
    text = ByteVec.from_address(vector)
    return ctypes.string_at(text.data, min(text.size, MAX_NAME_BYTES)).decode("utf-8", "replace")
