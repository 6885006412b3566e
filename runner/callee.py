"""What a call runs in: a fresh instance each time, or one that is kept for several where the deployer says so.

A kept instance is given up after so many calls, once its memory is larger than it may be, and after any end that isn't
a return: a trap leaves anything behind, and so does proc_exit.

This is the hottest code of a worker, hence the functions without argument types (half the price of a call by ctypes):
each argument is a ctypes object that is made once, for ctypes would cut an integer to 32 bits.
"""

from __future__ import annotations

from ctypes import byref, c_bool, c_char_p, c_int64, c_size_t, c_uint64, c_void_p
from struct import Struct
from time import monotonic_ns

from runner import settings
from runner.asker import STDERR_FD
from runner.capi import EXTERN_ITEM, EXTERN_MEMORY, Extern, library, prompt
from runner.errors import EngineError, ProtocolError, RunnerError
from runner.invoke import ALL_BITS, BITS, kinds_text, may_return, quoted
from runner.protocol.control import ABI_EXPORT
from runner.traps import Ending, ending_of
from runner.wasi import packed
from runner.wasi_abi import MODULE

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable
    from typing import Any

    from runner.linking import Prepared
    from runner.protocol.control import Serve

    Answered = bytes | bytearray | Ending

_NOTHING: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


class Functions:
    """The functions of the C API that every call takes; made in the zygote."""

    __slots__ = (
        *("call", "export_get", "get_fuel", "instantiate", "memory_size", "set_epoch", "set_fuel", "store_context"),
        *("store_delete", "store_limiter", "store_new"),
    )

    def __init__(self) -> None:
        self.store_new = prompt("wasmtime_store_new", c_void_p)
        self.store_context = prompt("wasmtime_store_context", c_void_p)
        self.store_limiter = prompt("wasmtime_store_limiter")
        self.store_delete = prompt("wasmtime_store_delete")
        self.set_fuel = prompt("wasmtime_context_set_fuel", c_void_p)
        self.get_fuel = prompt("wasmtime_context_get_fuel", c_void_p)
        self.set_epoch = prompt("wasmtime_context_set_epoch_deadline")
        self.export_get = prompt("wasmtime_instance_export_get", c_bool)
        self.memory_size = prompt("wasmtime_memory_data_size", c_size_t)
        # These run the guest: without the GIL, or the ticker would never come.
        self.instantiate = library()["wasmtime_instance_pre_instantiate"]
        self.call = library()["wasmtime_func_call_unchecked"]
        self.instantiate.restype = self.call.restype = c_void_p


class Callee:
    """The function of one service: `call`, and `settle` once its answer is sent. After `call`: what it used, and what
    its instance's memory came to.

    `fuel_used`, `ready_ns` (CLOCK_MONOTONIC when the instance was ready to be called), `memory_bytes`.
    """

    BODY_COPIES = 1  # how often a request is in memory at once, variables apart

    __slots__ = (
        *("_args", "_calls", "_context", "_do", "_engine", "_entry", "_entry_at", "_entry_name", "_env", "_fuel"),
        *(
            "_has_wasi",
            "_initialize",
            "_instance",
            "_invoker",
            "_is_export",
            "_kept",
            "_limits",
            "_memory",
            "_module",
            "_params",
        ),
        *("_pre", "_results", "_returns", "_serve", "_slots", "_stopped", "_store", "_ticks", "_trap", "_values"),
        *("_wasi", "fuel_used", "memory_bytes", "ready_ns"),
    )

    def __init__(self, functions: Functions, module: Prepared, serve: Serve, stopped: Callable[[], bool]) -> None:
        """Check that the module has what the service calls.

        Args:
            stopped: tells of a call that was interrupted whether its asker has gone; else it was the deadline.

        Raises:
            EngineError: with step `link`.
        """
        self._is_export = is_export = serve.abi == ABI_EXPORT
        name = serve.export if is_export else b"_start"
        _check_entry(module, name, (serve.params, serve.results) if is_export else _NOTHING)
        self._do, self._module, self._serve, self._stopped = functions, module, serve, stopped
        self._invoker = invoker = module.invoker
        self._wasi = invoker.wasi
        self._initialize = is_export and name != b"_initialize" and module.module.function(b"_initialize") == _NOTHING
        self._params = Struct(f"<{len(serve.params)}Q")
        self._results = Struct(f"<{len(serve.results)}Q")
        self._returns = [(2 * index, BITS.get(kind, ALL_BITS)) for index, kind in enumerate(serve.results)]
        self._args = packed(serve.args)
        self._env = packed(serve.env)[0]
        slots = max(len(serve.params), len(serve.results), 1)
        self._values, self._slots = invoker.values(slots), c_size_t(slots)
        self._engine, self._pre = c_void_p(invoker.engine.handle), c_void_p(module.own_pre)
        self._store, self._context = c_void_p(), c_void_p()
        self._instance, self._trap = byref(invoker.instance), byref(invoker.trap)
        self._fuel, self._ticks = c_uint64(), c_uint64()
        limits = serve.memory_bytes, settings.MAX_TABLE_ELEMENTS, 1, settings.MAX_TABLES, settings.MAX_MEMORIES
        self._limits = [c_int64(limit) for limit in limits]
        self._entry = Extern()
        self._entry_at = byref(self._entry, EXTERN_ITEM)
        self._entry_name = c_char_p(name), c_size_t(len(name))
        self._memory = _memory_of(module)
        self._has_wasi = module.module.imports_from(MODULE)
        self._calls = 0
        self._kept = False
        self.fuel_used = self.ready_ns = self.memory_bytes = 0

    def check_body(self, size: int) -> None:
        """Raises: ProtocolError: an export's parameters have another length."""
        if self._is_export and size != self._params.size:
            raise ProtocolError(f"this export's parameters have {self._params.size} bytes, not {size}")

    def call(self, fuel: int, ticks: int, variables: bytes, body: bytes | memoryview) -> Answered:
        """One call within `fuel`, and `ticks` of the epoch: what it answers, or how else it ended. `settle` comes next.

        Args:
            variables: NAME=value, each ended by a NUL.
            body: stdin, or the raw bits of each parameter.

        Raises:
            RunnerError: the host failed, not the guest.
        """
        do, wasi, context = self._do, self._wasi, self._context
        kept = self._kept
        if not kept:
            self._open()
        self._fuel.value = fuel
        self._ticks.value = ticks
        do.set_fuel(context, self._fuel)
        do.set_epoch(context, self._ticks)
        answer = self._set_up(variables, body) or (None if kept else self._instantiate()) or self._enter(body)
        do.get_fuel(context, byref(self._fuel))
        self.fuel_used = fuel - self._fuel.value
        if isinstance(answer, Ending) and answer.reason == "exit":
            answer = self._exited()
        answer = self._judged(answer)
        if self._has_wasi:
            wasi.end()
        self._calls += 1
        self._kept = self._is_good(answer)
        if wasi.failure is not None:
            raise RunnerError(f"a host function failed: {wasi.failure!r}") from wasi.failure
        return answer

    def settle(self) -> None:
        """Let go of what the call had, which its asker need not wait for."""
        if not self._kept:
            self._do.store_delete(self._store)

    def try_instance(self, fuel: int, ticks: int) -> Ending | None:
        """Make an instance within `fuel`, and `ticks` of the epoch, and drop it: how that ended, None if it is well.

        Raises:
            RunnerError: the host failed, not the guest.
        """
        do, wasi = self._do, self._wasi
        self._open()
        self._fuel.value, self._ticks.value = fuel, ticks
        do.set_fuel(self._context, self._fuel)
        do.set_epoch(self._context, self._ticks)
        ending = self._set_up(b"", b"") or self._instantiate()
        do.get_fuel(self._context, byref(self._fuel))
        self.fuel_used = fuel - self._fuel.value
        if self._has_wasi:
            wasi.end()
        do.store_delete(self._store)
        if wasi.failure is not None:
            raise RunnerError(f"a host function failed: {wasi.failure!r}") from wasi.failure
        return None if ending is None or ending.reason == "exit" else ending

    def is_over(self) -> bool:
        """For the ticker: whether the call is to be interrupted for what it wrote. Here it is when it writes."""
        return False

    def _judged(self, answer: Answered) -> Answered:
        """The answer, or how the call ended for what is only known now."""
        return answer

    def _set_up(self, variables: bytes, body: bytes | memoryview) -> Ending | None:
        """Make what the guest asks its host for."""
        context, output_bytes = self._context.value or 0, self._serve.output_bytes
        self.ready_ns = monotonic_ns()
        if not self._has_wasi:
            return None
        self._wasi.begin_call(context, self._args, self._env + variables, body, STDERR_FD, output_bytes)
        return None

    def _open(self) -> None:
        do = self._do
        self._store.value = do.store_new(self._engine, None, None)
        self._context.value = do.store_context(self._store)
        do.store_limiter(self._store, *self._limits)
        self._calls = self.memory_bytes = 0

    def _instantiate(self) -> Ending | None:
        """Make the instance ready to be called, start function included; None if it is."""
        do, invoker, context = self._do, self._invoker, self._context
        error = do.instantiate(self._pre, context, self._instance, self._trap)
        if error or invoker.trap:
            self.ready_ns = monotonic_ns()
            return self._ending_of(error, "init_failed")
        if self._initialize:
            invoker.find(context.value or 0, b"_initialize")
            error = do.call(context, byref(invoker.extern, EXTERN_ITEM), self._values, self._slots, self._trap)
            if error or invoker.trap:
                self.ready_ns = monotonic_ns()
                self._measure()
                return self._ending_of(error, "trap")
        do.export_get(context, self._instance, *self._entry_name, byref(self._entry))
        return None

    def _enter(self, body: bytes | memoryview) -> Answered:
        do, values = self._do, self._values
        if self._is_export:
            index = 0
            for bits in self._params.unpack(body):
                values[index] = bits
                index += 2
        self.ready_ns = monotonic_ns()
        error = do.call(self._context, self._entry_at, values, self._slots, self._trap)
        self._measure()
        if error or self._invoker.trap:
            return self._ending_of(error, "trap")
        if self._is_export:
            return self._results.pack(*[values[at] & bits for at, bits in self._returns])
        return self._output()

    def _exited(self) -> Answered:
        """A program may exit with 0 instead of returning; an export that does has no results."""
        if self._is_export:
            return Ending("nonzero_exit", "the export exited instead of returning", exit_code=0)
        return self._output()

    def _output(self) -> bytes | bytearray:
        return self._wasi.streams.collected or b""

    def _ending_of(self, error: int | None, otherwise: str) -> Ending:
        serve = self._serve
        memory = self.memory_bytes, serve.memory_bytes
        return ending_of(self._invoker, error, otherwise, serve.output_bytes, self._stopped, memory)

    def _is_good(self, answer: Answered) -> bool:
        """Whether the instance is kept for the next call."""
        serve, wasi = self._serve, self._wasi
        return (
            self._calls < serve.reuse_calls
            and not isinstance(answer, Ending)
            and wasi.exit_code is None
            and wasi.failure is None
            and self.memory_bytes <= serve.reuse_memory_bytes
        )

    def _measure(self) -> None:
        memory = self._memory
        if memory is None:
            self.memory_bytes = self._invoker.memory_bytes(self._context.value or 0, self._module.memories)
        elif memory:
            extern, item, name, size = memory
            self._do.export_get(self._context, self._instance, name, size, extern)
            self.memory_bytes = self._do.memory_size(self._context, item)


def _memory_of(module: Prepared) -> tuple[Any, ...] | None:
    """What is looked at for the size of a module's only memory: () where it exports none, None where several."""
    if len(module.memories) > 1:
        return None
    if not module.memories:
        return ()
    extern, name = Extern(kind=EXTERN_MEMORY), module.memories[0][0]
    return byref(extern), byref(extern, EXTERN_ITEM), c_char_p(name), c_size_t(len(name))


def _check_entry(module: Prepared, name: bytes, expected: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    signature = module.module.function(name)
    if signature is None:
        raise EngineError("link", f"the module exports no function {quoted(name)}")
    if signature != expected:
        said = " -> ".join(kinds_text(kinds) for kinds in expected)
        is_ = " -> ".join(kinds_text(kinds) for kinds in signature)
        raise EngineError("link", f"{quoted(name)} is {is_}, and the service calls it as {said}")
    if not may_return(signature[1]):
        raise EngineError("link", f"{quoted(name)} returns {kinds_text(signature[1])}: only numbers can be")
