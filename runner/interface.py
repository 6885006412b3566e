"""What a module asks of the worker and what it offers: whether its imports are here, and whether it can be entered.

Both questions are asked of a fresh `Inspection` and of a module's row alike, so they only ask for what both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runner.protocol import VALUE_NAMES
from runner.wasi_abi import MODULE, SIGNATURES, signature

WASI_MODULE = MODULE.decode()


def _signature_names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    params, results = signature(name)
    return tuple([VALUE_NAMES[kind] for kind in params]), tuple([VALUE_NAMES[kind] for kind in results])


# Every function of wasi_snapshot_preview1, all of which the worker has: name -> (parameter types, result types).
WASI_FUNCTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    name: _signature_names(name) for name in SIGNATURES
}


class ExternLike(Protocol):
    """An import or export, whoever keeps it: `runner.module.Extern`, or the row of a table."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def module(self) -> str: ...

    @property
    def params(self) -> tuple[str, ...]: ...

    @property
    def results(self) -> tuple[str, ...]: ...


class Interface(Protocol):
    @property
    def imports(self) -> Sequence[ExternLike]: ...

    @property
    def exports(self) -> Sequence[ExternLike]: ...


def unknown_imports(module: Interface) -> list[ExternLike]:
    """The imports that the worker hasn't got: under another name, of another kind, or with another signature."""
    return [
        wanted
        for wanted in module.imports
        if wanted.kind != "func"
        or wanted.module != WASI_MODULE
        or WASI_FUNCTIONS.get(wanted.name) != (wanted.params, wanted.results)
    ]


def check_entry(module: Interface, export: str | None) -> list[str]:
    """Why a job can't enter the module there, one sentence a reason; nothing where it can.

    Args:
        export: the name of the export to call; None for a WASI command, which is entered at `_start`.
    """
    wanted = "_start" if export is None else export
    found = next((offered for offered in module.exports if offered.name == wanted), None)
    if found is None:
        hint = "; name an export in `entry`" if export is None else ""
        return [f"the module has no export {wanted!r}{hint}"]
    if found.kind != "func":
        return [f"the export {wanted!r} is a {found.kind}, not a function"]
    if export is None and (found.params or found.results):
        return ["`_start` must have neither parameters nor results"]
    return [
        f"{what} {index} of {wanted!r} is {name}; only i32, i64, f32 and f64 can be passed"
        for what, names in (("parameter", found.params), ("result", found.results))
        for index, name in enumerate(names)
        if name not in VALUE_NAMES
    ]
