"""The engine's settings as data, one reason a line, every proposal named; nothing is left to wasmtime's defaults.

One set serves compiler and runners: an artifact loads only into an engine with the settings that it was compiled
with. `fingerprint()` is what an artifact must be filed under.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Final

WASMTIME_VERSION: Final = "50.0.1"

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
WASM_PAGE_BYTES = 64 * KIB

# The reservation lets every address that 32 bits and a 32-bit offset can form fault instead of being checked for.
MEMORY_RESERVATION_BYTES = 4 * GIB

# What one instance may have. The store's limiter is told the same, so that both layers give one answer.
MAX_MEMORIES = 4
MAX_TABLES = 8
MAX_TABLE_ELEMENTS = 200_000

# Proposals: (setter's name without wasmtime_config_ and _set, on, why).
PROPOSALS: Final[tuple[tuple[str, bool, str], ...]] = (
    ("wasm_multi_value", True, "standard since 2.0; every compiler may use it"),
    ("wasm_bulk_memory", True, "standard since 2.0; memcpy in one instruction"),
    ("wasm_reference_types", True, "standard since 2.0; several tables"),
    ("wasm_simd", True, "standard since 2.0; 128-bit vectors"),
    ("wasm_relaxed_simd", True, "standard since 3.0; results may differ between machines, as the standard allows"),
    ("wasm_relaxed_simd_deterministic", False, "the slower, equal-everywhere form of it is not promised to anyone"),
    ("wasm_tail_call", True, "standard since 3.0; needed by compilers of functional languages"),
    ("wasm_function_references", True, "standard since 3.0; GC stands on it"),
    ("wasm_gc", True, "standard since 3.0; its heap is under the memory limit too"),
    ("gc_support", True, "the collector that GC, externref and exceptions need"),
    ("wasm_exceptions", True, "standard since 3.0; C++ and Kotlin throw by it (the legacy form is refused)"),
    ("wasm_multi_memory", True, "standard since 3.0; MAX_MEMORIES of them, each under the memory limit"),
    ("wasm_memory64", True, "standard since 3.0; bounds are checked in code, the memory limit holds"),
    ("wasm_threads", False, "atomics wait in the host, where neither fuel nor epoch reaches"),
    ("shared_memory", False, "goes with threads; the pool has none"),
    ("wasm_stack_switching", False, "unfinished proposal"),
    ("wasm_wide_arithmetic", False, "unfinished proposal"),
    ("wasm_custom_page_sizes", False, "unfinished proposal"),
    ("wasm_compact_imports", False, "unfinished proposal; admission reads imports in the standard's form"),
    ("wasm_branch_hinting", False, "a custom section that a hostile module could steer the compiler by"),
    ("wasm_component_model", False, "core modules only; a component is refused at admission"),
    ("wasm_component_model_async", False, "goes with components"),
    ("wasm_component_model_more_async_builtins", False, "goes with components"),
    ("wasm_component_model_async_stackful", False, "goes with components"),
    ("concurrency_support", False, "for async hosts; a runner runs one thing at a time"),
)

# What else the compiled code or the compiler depends on, the numbers in wasmtime's own enumerations.
ENGINE: Final[tuple[tuple[str, int | bool, str], ...]] = (
    ("strategy", 1, "Cranelift; Winch has neither all proposals nor the speed"),
    ("cranelift_opt_level", 1, "for speed, as the wasmtime CLI"),
    ("cranelift_regalloc_algorithm", 0, "backtracking, as the wasmtime CLI: better code, slower compile"),
    ("cranelift_debug_verifier", False, "a compiler's own check, for its developers"),
    ("cranelift_nan_canonicalization", False, "NaN payloads pass unchanged"),
    ("consume_fuel", True, "first line of the limits: stops loops, deterministically"),
    ("epoch_interruption", True, "second line: stops time spent in Wasm"),
    ("signals_based_traps", True, "traps cost nothing until they happen; without, an instance takes 15 times as long"),
    ("parallel_compilation", False, "a forked child of a process that compiled in parallel hangs at its first compile"),
    ("debug_info", False, "no debugger is ever attached to a runner"),
    ("native_unwind_info", False, "backtraces don't need it; it is registered at each load"),
    ("profiler", 0, "none: it would write files"),
    ("max_wasm_stack", 512 * KIB, "wasmtime's own figure; the main thread has 8 MiB"),
    ("async_stack_size", 2 * MIB, "unused, but an engine aborts where it is below max_wasm_stack"),
    ("memory_reservation", MEMORY_RESERVATION_BYTES, "32-bit bounds checks vanish; address space only"),
    ("memory_guard_size", 32 * MIB, "wasmtime's own figure: offsets below it need no check either"),
    ("memory_reservation_for_growth", 0, "a pooled memory never moves"),
    ("memory_may_move", False, "a pooled memory never moves, so that the base stays in a register"),
    ("memory_init_cow", True, "a fresh instance maps its data instead of copying it: 6 us against 3.8 ms for CPython"),
)

# The pool: one instance at a time, made ready again in microseconds.
POOL: Final[tuple[tuple[str, int, str], ...]] = (
    ("total_core_instances", 1, "a runner runs one instance at a time"),
    ("total_memories", MAX_MEMORIES + 1, "of one instance, and its GC heap"),
    ("total_tables", MAX_TABLES, "of one instance"),
    ("total_gc_heaps", 1, "one a store"),
    ("total_stacks", 0, "no async calls"),
    ("total_component_instances", 0, "no components"),
    ("max_memories_per_module", MAX_MEMORIES, "one is common, four are enough for a linked tool"),
    ("max_tables_per_module", MAX_TABLES, "one is common"),
    ("table_elements", MAX_TABLE_ELEMENTS, "gcc's cc1 has 30,000 functions in its table; 1.6 MB of address space each"),
    ("max_core_instance_size", 16 * MIB, "32 bytes for each of 100,000 functions that escape, and globals; on demand"),
    ("max_unused_warm_slots", MAX_MEMORIES + 1, "keep a slot's mapping for the next instance of the same module"),
    ("decommit_batch_size", 1, "a finished guest's pages are given back before the next one starts"),
    ("linear_memory_keep_resident", 64 * KIB, "cleared by memset instead of being given back: fewer page faults"),
    ("table_keep_resident", 64 * KIB, "the same for tables"),
    ("async_stack_keep_resident", 0, "no async calls"),
)


def fingerprint() -> str:
    """Everything that decides whether an artifact loads here: version, machine, processor features, settings.

    Returns:
        64 hex digits, equal for two processes exactly if one may load what the other compiled.
    """
    import hashlib  # only the coordinator asks; the zygote must not pay for the import

    parts = [WASMTIME_VERSION, os.uname().machine, _processor_features()]
    parts += [f"{name}={value}" for name, value, _why in PROPOSALS + ENGINE + POOL]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _processor_features() -> str:
    """The processor's feature flags as Linux names them: native code may use each that it was compiled on."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            for line in cpuinfo:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return " ".join(sorted(flags.split()))
    except OSError:
        pass
    return ""
