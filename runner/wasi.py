"""WASI preview 1 for guests without files: streams in memory or straight to a descriptor, no threads, few system calls.

All 46 functions are there. Descriptors are 0 to 2 alone, and answers are wasmtime's own where a program can see them,
with two differences on purpose: a wild pointer gives EFAULT where wasmtime traps, and a read into no room gives 0
where wasmtime says EINTR.

Nothing a guest passes makes a callback raise: ctypes would print the exception and go on with a wrong answer. What is
no Fault is kept in `failure`, the guest is ended by a trap, and the host's side raises it.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_uint32
from time import monotonic_ns, time_ns

from runner import wasi_abi as abi
from runner.capi import CALLBACK, check, function_type, library
from runner.wasi_memory import Fault, GuestMemory
from runner.wasi_poll import poll
from runner.wasi_refusals import REFUSALS, refusal
from runner.wasi_streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from runner.wasi_abi import Function, Words


# wasmtime's own bound, and how much is drawn at once.
MAX_RANDOM_BYTES = 64 << 20
RANDOM_CHUNK_BYTES = 256 << 10


def packed(strings: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """Strings with their NULs in one block, and where in it each begins."""
    offsets = []
    position = 0
    for string in strings:
        offsets.append(position)
        position += len(string) + 1
    return b"".join([string + b"\0" for string in strings]), offsets


class Wasi:
    """The WASI of one process: linked once, then `begin` and `end` around each instance.

    After a run `exit_code` is what the guest passed to proc_exit, or None; `streams.truncated` holds the streams that
    were cut, which ends a guest too; `failure` is what a host function raised.
    """

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.streams = Streams(self.memory)
        self.failure: BaseException | None = None
        self.exit_code: int | None = None
        self._words: dict[int, Words] = {}
        self._trap_new = library().wasmtime_trap_new
        self._args = self._env = packed(())
        self._env_block: bytes | None = None
        self._started_ns = 0
        # Kept for as long as a linker may call them. All are made here, once: see linking.protect_callbacks.
        self.callbacks: dict[str, Any] = {
            name: CALLBACK(self._end_guest if name == "proc_exit" else self._guarded(self._function(name)))
            for name in abi.SIGNATURES
        }

    def define(self, linker: int, names: Iterable[str] = abi.SIGNATURES) -> None:
        """Define functions, all 46 unless told which, in a wasmtime_linker_t.

        Raises:
            EngineError: wasmtime refused one, with step `link`.
        """
        lib = library()
        for name in names:
            encoded = name.encode()
            kind = function_type(*abi.signature(name))
            error = lib.wasmtime_linker_define_func_unchecked(
                *(linker, abi.MODULE, len(abi.MODULE), encoded, len(encoded), kind, self.callbacks[name], None, None)
            )
            lib.wasm_functype_delete(kind)
            check(error, "link")

    def begin(
        self,
        context: int,
        args: Sequence[bytes],
        env: Sequence[bytes],
        stdin: bytes,
        outputs: tuple[int, int],
        output_bytes: int,
    ) -> None:
        """Set up for one instance in the store of `context`; `outputs` are the descriptors of stdout and stderr."""
        self.memory.forget()
        self.memory.context = context
        self.streams.begin(stdin, outputs, output_bytes)
        self.failure = self.exit_code = None
        self._args = packed(args)
        self._env = packed(env)
        self._env_block = None
        self._started_ns = monotonic_ns()

    def begin_call(
        self,
        context: int,
        args: tuple[bytes, list[int]],
        env_block: bytes,
        stdin: bytes | memoryview,
        stderr_fd: int,
        output_bytes: int,
    ) -> None:
        """Set up for one call of an instance in the store of `context`; its stdout is `streams.collected`.

        Args:
            args: as `packed` made them.
            env_block: NAME=value, each ended by a NUL. They are told apart when the guest asks.
        """
        self.memory.forget()
        self.memory.context = context
        self.streams.begin_call(stdin, stderr_fd, output_bytes)
        self.failure = self.exit_code = None
        self._args = args
        self._env_block = env_block
        self._started_ns = monotonic_ns()

    def end(self) -> None:
        """Forget the instance, before its store is deleted."""
        self.memory.forget()
        self.streams.end()

    # What wasmtime calls.

    def _guarded(self, function: Function) -> Callable[[int, int, int, int], int]:
        memory, known, truncated = self.memory, self._words, self.streams.truncated

        def callback(_env: int, caller: int, address: int, _count: int) -> int:
            try:
                words = known.get(address) or self._words_at(address)
                memory.caller = caller
                try:
                    words[0] = function(words)
                except Fault as fault:
                    words[0] = fault.errno
            except BaseException as exc:  # noqa: BLE001 - an exception must not leave a ctypes callback
                self.failure = exc
            return self._trap() if truncated or self.failure is not None else 0

        return callback

    def _end_guest(self, _env: int, _caller: int, address: int, _count: int) -> int:
        self.exit_code = ctypes.c_int32.from_address(address).value
        return self._trap()

    def _trap(self) -> int:
        trap: int = self._trap_new(b"ended", 5)
        return trap

    def _words_at(self, address: int) -> Words:
        """The words of a call at `address`. Kept, since guests call from few depths; the bound is for those that don't.

        Views cover the ten slots of the longest signature; a function reads only those that it has.
        """
        if len(self._words) >= 64:
            self._words.clear()
        words = self._words[address] = (c_uint32 * 40).from_address(address)
        return words

    def _function(self, name: str) -> Function:
        if name in REFUSALS:
            return refusal(name, self.memory, self.streams.descriptors)
        owner = self.streams if name.startswith("fd_") else self
        function: Function = getattr(owner, name)
        return function

    # Arguments and environment.

    def args_sizes_get(self, words: Words) -> int:
        return self._sizes(words, self._args)

    def args_get(self, words: Words) -> int:
        return self._strings(words, self._args)

    def environ_sizes_get(self, words: Words) -> int:
        return self._sizes(words, self._environment())

    def environ_get(self, words: Words) -> int:
        return self._strings(words, self._environment())

    def _environment(self) -> tuple[bytes, list[int]]:
        if self._env_block is not None:
            self._env = packed(self._env_block.split(b"\0")[:-1])
            self._env_block = None
        return self._env

    def _sizes(self, words: Words, packed: tuple[bytes, list[int]]) -> int:
        block, offsets = packed
        count_at, size_at = words[0], words[4]
        self.memory.put_u32(count_at, len(offsets))
        self.memory.put_u32(size_at, len(block))
        return abi.SUCCESS

    def _strings(self, words: Words, packed: tuple[bytes, list[int]]) -> int:
        block, offsets = packed
        pointers_at, block_at = words[0], words[4]
        self.memory.put(block_at, block)  # checked first: then no sum below is over 32 bits
        pointers = (c_uint32 * len(offsets))(*[block_at + offset for offset in offsets])
        self.memory.put(pointers_at, bytes(pointers))
        return abi.SUCCESS

    # Clocks, random bytes, the process.

    def clock_res_get(self, words: Words) -> int:
        if words[0] > abi.CLOCK_THREAD_CPU:
            return abi.EINVAL
        if words[0] > abi.CLOCK_MONOTONIC:
            return abi.EBADF
        self.memory.put_u64(words[4], 1)
        return abi.SUCCESS

    def clock_time_get(self, words: Words) -> int:
        clock = words[0]
        if clock == abi.CLOCK_MONOTONIC:
            # From the instance's start, as wasmtime: the machine's uptime is none of the guest's business.
            self.memory.put_u64(words[8], monotonic_ns() - self._started_ns)
        elif clock == abi.CLOCK_REALTIME:
            self.memory.put_u64(words[8], time_ns())
        else:
            return abi.EINVAL if clock > abi.CLOCK_THREAD_CPU else abi.EBADF
        return abi.SUCCESS

    def random_get(self, words: Words) -> int:
        address, length = words[0], words[4]
        room = self.memory.at(address, length)
        if length > MAX_RANDOM_BYTES:
            return abi.ENOMEM
        for position in range(0, length, RANDOM_CHUNK_BYTES):
            chunk = min(RANDOM_CHUNK_BYTES, length - position)
            room[position : position + chunk] = os.urandom(chunk)
        return abi.SUCCESS

    def sched_yield(self, _words: Words) -> int:
        return abi.SUCCESS

    def proc_raise(self, words: Words) -> int:
        return abi.EINVAL if words[0] >= abi.SIGNALS else abi.ENOTSUP

    def poll_oneoff(self, words: Words) -> int:
        return poll(self.memory, self.streams.descriptors, self._started_ns, words[0], words[4], words[8], words[12])
