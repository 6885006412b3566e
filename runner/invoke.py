"""One job in a fresh instance: set the limits, instantiate, call, and say how it ended.

A guest's failure is a value: whatever it does becomes an Outcome. Only a failure of the host raises.
"""

from __future__ import annotations

from ctypes import byref
from time import monotonic_ns, process_time_ns

from runner import wasi_files
from runner.capi import EXTERN_FUNC, check, library, value_kinds
from runner.errors import EngineError, RunnerError
from runner.linking import FIRST_IMAGE_FD, Invoker, Prepared, Store
from runner.protocol import F32, F64, I32, VALUE_NAMES
from runner.protocol.control import ENTRY_EXPORT
from runner.protocol.status import Outcome
from runner.traps import Ending, ending_of, from_exit, over_output
from runner.wasi_abi import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable

    from runner.linking import Signature
    from runner.protocol.control import Job

    Values = tuple[tuple[int, int], ...]  # (value kind, raw 64 bits)

__all__ = ["ALARM_MARGIN_MS", "FIRST_IMAGE_FD", "TICK_MS", "Invoker", "Prepared", "run", "ticks_of"]

# The ticker pushes the epoch this often; a deadline is so many ticks.
TICK_MS = 5
# The alarm that ends what blocks in the host comes so much after its deadline.
ALARM_MARGIN_MS = 200

# More results than this and OUTCOME's frame would not hold them.
MAX_RESULTS = 1000
# Names that are remembered; a module has few entries that are called, but names come from outside.
MAX_SIGNATURES = 64
BITS = {I32: 0xFFFFFFFF, F32: 0xFFFFFFFF}
ALL_BITS = 0xFFFFFFFFFFFFFFFF


def ticks_of(wall_ms: int) -> int:
    """A deadline in ticks of the epoch, with one to spare: the epoch may move just as it is set."""
    return -(-wall_ms // TICK_MS) + 1


def run(
    prepared: Prepared, job: Job, stdin: bytes, stdout_fd: int, stderr_fd: int, stopped: Callable[[], bool]
) -> Outcome:
    """Run one job in a fresh instance, within its limits, start function included.

    The guest's output is written to the two descriptors as it comes. `stopped()` tells whether an interrupt came from
    a STOP; without one it was the deadline.

    Raises:
        RunnerError: the host failed, not the guest.
    """
    started_ns, cpu_ns = monotonic_ns(), process_time_ns()
    wasi = prepared.invoker.wasi
    outputs = (stdout_fd, stderr_fd)
    engine = prepared.invoker.engine
    store = Store(engine, fuel=job.fuel, ticks=ticks_of(job.wall_ms), memory_bytes=job.memory_bytes)
    one = _Run(prepared, job, store.context, stopped)
    try:
        wasi.begin(store.context, job.args, job.env, stdin, outputs, job.output_bytes)
        ending = one.instantiate(stdin)
        ready_ns = monotonic_ns()
        results: Values = ()
        if ending is None:
            ending, results = one.call_entry()
        done_ns = monotonic_ns()
        outcome = Outcome(
            job.job_id,
            ending.reason,
            trap_code=ending.trap_code,
            exit_code=ending.exit_code,
            fuel_used=job.fuel - one.fuel_left(),
            init_us=(ready_ns - started_ns) // 1000,
            run_us=(done_ns - ready_ns) // 1000,
            peak_memory_bytes=one.memory_bytes(),
            stdout_truncated=STDOUT in wasi.streams.truncated,
            stderr_truncated=STDERR in wasi.streams.truncated,
            results=results,
            detail=ending.detail,
        )
    finally:
        wasi.end()
        store.close()
    if wasi.failure is not None:
        raise RunnerError(f"a host function failed: {wasi.failure!r}") from wasi.failure
    if job.preopens:
        _cap_files(outcome, outputs, job)
    outcome.cpu_us = (process_time_ns() - cpu_ns) // 1000
    return outcome


def _cap_files(outcome: Outcome, outputs: tuple[int, int], job: Job) -> None:
    """Cut what the engine's own WASI wrote past the cap, which makes the end an `output_limit`."""
    cut = wasi_files.cut_outputs(outputs, job.output_bytes)
    outcome.stdout_truncated, outcome.stderr_truncated = cut
    if any(cut):
        ending = over_output(job.output_bytes)
        outcome.reason, outcome.detail = ending.reason, ending.detail
        outcome.trap_code = outcome.exit_code = None
        outcome.results = ()


class _Run:
    """The steps of one run; each gives the Ending that it came to, or None to go on."""

    __slots__ = ("alive", "context", "invoker", "job", "prepared", "stopped")

    def __init__(self, prepared: Prepared, job: Job, context: int, stopped: Callable[[], bool]) -> None:
        self.prepared = prepared
        self.invoker = prepared.invoker
        self.job = job
        self.context = context
        self.stopped = stopped
        self.alive = False  # without an instance wasmtime panics when asked for an export

    def instantiate(self, stdin: bytes) -> Ending | None:
        """Make the instance, start function included; a reactor's `_initialize` too, before an export is called."""
        job = self.job
        pre = self.prepared.own_pre
        if job.preopens:
            try:
                pre = self.prepared.with_files()
            except EngineError as exc:
                return Ending("link_failed", exc.message)
            refused = wasi_files.configure(self.context, job.args, job.env, job.preopens, stdin)
            if refused:
                return Ending("init_failed", refused)
        error = self.invoker.instantiate(pre, self.context)
        ending = self._ending_of(error, "init_failed")
        if ending is not None:
            return ending
        self.alive = True
        if job.entry != ENTRY_EXPORT or job.export == b"_initialize" or self._signature(b"_initialize") != ((), ()):
            return None
        return self._call(b"_initialize", (), ())[0]

    def call_entry(self) -> tuple[Ending, Values]:
        """Call the entry: how it ended, and what an export returned."""
        job = self.job
        is_export = job.entry == ENTRY_EXPORT
        name = job.export if is_export else b"_start"
        signature = self._signature(name)
        if signature is None:
            return Ending("link_failed", f"the module exports no function {quoted(name)}"), ()
        params, result_kinds = signature
        given = tuple([kind for kind, _bits in job.params]) if is_export else ()
        if given != params:
            return Ending("link_failed", f"{quoted(name)} takes {kinds_text(params)}, not {kinds_text(given)}"), ()
        if not may_return(result_kinds):
            return Ending("link_failed", f"{quoted(name)} returns {kinds_text(result_kinds)}: only numbers can be"), ()
        ending, results = self._call(name, job.params if is_export else (), result_kinds)
        if ending is not None:
            return ending, ()
        return (Ending("exit"), results) if is_export else (from_exit(0), ())

    def _call(self, name: bytes, params: Values, result_kinds: tuple[int, ...]) -> tuple[Ending | None, Values]:
        """Call an export whose signature is known to fit: the unchecked call reads and writes what it is told."""
        invoker = self.invoker
        invoker.find(self.context, name)
        slots = max(len(params), len(result_kinds), 1)
        values = invoker.values(slots)
        for index, (_kind, bits) in enumerate(params):
            values[2 * index] = bits
        error = library().wasmtime_func_call_unchecked(self.context, invoker.item, values, slots, byref(invoker.trap))
        ending = self._ending_of(error, "trap")
        if ending is not None:
            return ending, ()
        returned = [(kind, values[2 * index] & BITS.get(kind, ALL_BITS)) for index, kind in enumerate(result_kinds)]
        return None, tuple(returned)

    def _ending_of(self, error: int | None, otherwise: str) -> Ending | None:
        """What an instantiation or a call came to: None if it returned."""
        invoker, job = self.invoker, self.job
        if not error and not invoker.trap:
            return None
        memory = self.memory_bytes(), job.memory_bytes
        return ending_of(invoker, error, otherwise, job.output_bytes, self.stopped, memory)

    def _signature(self, name: bytes) -> Signature | None:
        """The value kinds of an exported function, None if there is none of that name; asked once a module."""
        known = self.prepared.signatures
        if name not in known:
            lib = library()
            signature = None
            if self.invoker.find(self.context, name) and self.invoker.extern.kind == EXTERN_FUNC:
                kind = lib.wasmtime_func_type(self.context, self.invoker.item)
                signature = value_kinds(lib.wasm_functype_params(kind)), value_kinds(lib.wasm_functype_results(kind))
                lib.wasm_functype_delete(kind)
            if len(known) >= MAX_SIGNATURES:
                known.clear()
            known[name] = signature
        return known[name]

    def fuel_left(self) -> int:
        fuel = self.invoker.fuel
        check(library().wasmtime_context_get_fuel(self.context, byref(fuel)), "fuel")
        return fuel.value

    def memory_bytes(self) -> int:
        """What the exported memories have now; nothing can be seen while the start function runs."""
        return self.invoker.memory_bytes(self.context, self.prepared.memories) if self.alive else 0


def may_return(kinds: tuple[int, ...]) -> bool:
    """Whether an export's results can be told: numbers, and no more of them than an OUTCOME holds."""
    return (not kinds or max(kinds) <= F64) and len(kinds) <= MAX_RESULTS


def quoted(name: bytes) -> str:
    return repr(name[:256].decode("utf-8", "replace"))


def kinds_text(kinds: tuple[int, ...]) -> str:
    names = [VALUE_NAMES[kind] if kind <= F64 else "a reference or vector" for kind in kinds[:16]]
    return f"({', '.join(names)}{', ...' if len(kinds) > 16 else ''})"
