"""A module as the table knows it: its name, size, and the interface that static admission found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extern:
    """One import or export. `kind`: func, table, memory, global or tag; `params`/`results` hold type names for a func.

    `module` is the import's module name, "" for an export.
    """

    name: str
    kind: str
    module: str = ""
    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """`digest` is "sha256:<hex>", sizes are bytes, times microseconds since the epoch."""

    digest: str
    size_bytes: int
    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]
    created_at_us: int
