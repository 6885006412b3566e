"""Wasm bytes to an artifact, by the same engine settings that load it. Only ever in a compiler process of its own."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_void_p

from runner.capi import ByteVec, check, library
from runner.errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from runner.engine import Engine

PREAMBLE = b"\0asm\x01\0\0\0"


def compile_module(engine: Engine, wasm: bytes) -> bytes:
    """The artifact of a core module.

    Hostile bytes may take any time and memory here: the process has to be limited, sealed and killable.

    Raises:
        EngineError: with step `compile`: not a core module, invalid, or with more memory or tables than the pool has.
    """
    if not wasm.startswith(PREAMBLE):
        raise EngineError("compile", f"a core module begins with {PREAMBLE!r}, this with {wasm[:8]!r}")
    lib = library()
    module = c_void_p()
    check(lib.wasmtime_module_new(engine.handle, wasm, len(wasm), byref(module)), "compile")
    artifact = ByteVec()
    try:
        check(lib.wasmtime_module_serialize(module, byref(artifact)), "compile")
    finally:
        lib.wasmtime_module_delete(module)
    data = ctypes.string_at(artifact.data, artifact.size)
    lib.wasm_byte_vec_delete(byref(artifact))
    return data
