"""Stand-ins for imports that the worker lacks: a function returns zero for each result and does nothing.

Typed from the module's own imports, so that linking succeeds. Only functions can be stood in for: a global, memory,
table or tag would need a value that means something to the guest.
"""

from __future__ import annotations

import ctypes

from runner import wasi_abi as abi
from runner.capi import CALLBACK, EXTERN_FUNC, NON_NULL_REF, check, library
from runner.errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from runner.engine import Import, LoadedModule

RAW_BYTES = 16  # of one parameter or result

_KIND_NAMES = ("function", "global", "table", "memory", "tag")


def _return_zeros(_env: int, _caller: int, values: int, count: int) -> int:
    ctypes.memset(values, 0, count * RAW_BYTES)
    return 0


# One for all types: the caller says how many slots there are. Made at import, since libffi maps memory for it.
ZEROS = CALLBACK(_return_zeros)


def define_stubs(linker: int, module: LoadedModule) -> None:
    """Define, in a wasmtime_linker_t of this module's own, every import that isn't one of the worker's.

    Raises:
        EngineError: with step `link`, for an import that can't be stood in for.
    """
    seen = set()

    def define(one: Import) -> None:
        known = one.module == abi.MODULE and one.name.decode("utf-8", "replace") in abi.SIGNATURES
        if known or (one.module, one.name) in seen:
            return
        seen.add((one.module, one.name))
        label = f"{_printable(one.module)}.{_printable(one.name)}"
        if one.kind != EXTERN_FUNC:
            kind = _KIND_NAMES[one.kind] if one.kind < len(_KIND_NAMES) else "thing"
            raise EngineError("link", f"import {label} is a {kind}: only functions can be stubbed")
        if NON_NULL_REF in one.results:
            raise EngineError("link", f"import {label} returns a reference that is never null: it can't be stubbed")
        error = library().wasmtime_linker_define_func_unchecked(
            linker, one.module, len(one.module), one.name, len(one.name), one.type_handle, ZEROS, None, None
        )
        check(error, "link")

    module.each_import(define)


def _printable(name: bytes) -> str:
    return name[:128].decode("utf-8", "replace")
