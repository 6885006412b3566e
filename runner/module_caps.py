"""What a module may have at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from runner.errors import ModuleRefused
from runner.settings import MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES


@dataclass(frozen=True, slots=True)
class Caps:
    """What a module may have at most. The first four are the operator's options, the others are fixed.

    The fixed ones are far above what real programs have (CPython: 11,448 functions, 24,171 data segments;
    yosys, 69 MB: 46,473 functions, 298,321 locals) and at or below what wasmtime itself allows.
    """

    max_functions: int = 100_000
    max_data_segments: int = 50_000
    max_imports: int = 1_000
    max_exports: int = 1_000
    max_types: int = 50_000
    max_tables: int = MAX_TABLES
    max_table_elements: int = MAX_TABLE_ELEMENTS
    max_memories: int = MAX_MEMORIES
    max_globals: int = 50_000
    max_tags: int = 1_000
    max_element_segments: int = 50_000
    max_custom_sections: int = 1_000
    max_name_bytes: int = 1_024
    # Locals cost the compiler 50 ns each, and six bytes of code declare 50,000 of them.
    max_locals: int = 10_000_000
    max_local_groups: int = 500_000
    # Sections that are read byte by byte: types, and the constant expressions of tables and globals.
    max_read_bytes: int = 2 * 1024 * 1024
    # Imports and exports together, so that a module's row fits one message (256 KiB) to the coordinator.
    max_interface_bytes: int = 192 * 1024


DEFAULT_CAPS = Caps()


def over(what: str, counted: int, unit: str, allowed: int) -> NoReturn:
    """Refuse: `what` (with its verb) counted so many, so many are allowed."""
    raise ModuleRefused("module_limit", f"{what} {counted:,} {unit}, at most {allowed:,} are allowed")
