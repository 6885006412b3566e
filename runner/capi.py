"""A small binding of wasmtime's C API: the functions that a runner needs, void pointers throughout, one version.

`import wasmtime` costs 46 ms and its pages at every fork, lacks the pooling allocator and stdin from memory, and asks
for a function's type at each call; so the library is opened here directly. Structures and prototypes are those of
wasmtime 50's headers; a test compares them with the package's own.

`ctypes.CDLL`, not PyDLL: a call into Wasm releases the GIL, so that the ticker thread can push the epoch.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

from runner import settings
from runner.errors import EngineError, EngineVersionError
from runner.protocol import MAX_DETAIL_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Any

# wasmtime_extern_kind_t
EXTERN_FUNC, EXTERN_GLOBAL, EXTERN_TABLE, EXTERN_MEMORY = range(4)
# wasmtime_valtype_kind_t; the first four are protocol.I32 to F64.
V128, REF = 4, 5
NON_NULL_REF = 6  # our own: a reference that zero bits are no value of


class ByteVec(ctypes.Structure):
    """wasm_byte_vec_t, and every other vector of pointers."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


class Instance(ctypes.Structure):
    """wasmtime_instance_t."""

    _fields_ = (("store_id", c_uint64), ("private", c_size_t))


class Extern(ctypes.Structure):
    """wasmtime_extern_t; `item` is the function, memory or whatever `kind` says, passed on by address."""

    _fields_ = (("kind", c_uint8), ("item", c_uint64 * 3))


class HeapType(ctypes.Structure):
    """wasmtime_heaptype_t: a kind, and for concrete ones a pointer."""

    _fields_ = (("kind", c_uint8), ("concrete", c_void_p))


class RefType(ctypes.Structure):
    """wasmtime_reftype_t."""

    _fields_ = (("nullable", c_bool), ("heap", HeapType))


class ValType(ctypes.Structure):
    """wasmtime_valtype_t; `reference` means something where the kind is REF."""

    _fields_ = (("kind", c_uint8), ("reference", RefType))


EXTERN_ITEM = 8  # offset of Extern.item, what wasmtime_func_* and wasmtime_memory_* take the address of

# wasmtime_func_unchecked_callback_t: (env, caller, args_and_results, count) -> trap or 0
CALLBACK = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_void_p, c_size_t)

_CONFIG_TYPES: dict[type, Any] = {bool: c_bool, int: c_uint64}
_ENUM_SETTINGS = ("strategy", "cranelift_opt_level", "cranelift_regalloc_algorithm", "profiler")
_POINTER, _SIZE = c_void_p, c_size_t

# name: (result, *arguments)
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "wasm_config_new": (_POINTER,),
    "wasm_engine_new_with_config": (_POINTER, _POINTER),
    "wasm_engine_delete": (None, _POINTER),
    "wasmtime_engine_increment_epoch": (None, _POINTER),
    "wasmtime_pooling_allocation_config_new": (_POINTER,),
    "wasmtime_pooling_allocation_config_delete": (None, _POINTER),
    "wasmtime_pooling_allocation_strategy_set": (None, _POINTER, _POINTER),
    "wasmtime_pooling_allocation_config_max_memory_size_set": (None, _POINTER, _SIZE),
    "wasm_byte_vec_new": (None, _POINTER, _SIZE, c_char_p),
    "wasm_byte_vec_delete": (None, _POINTER),
    "wasmtime_error_message": (None, _POINTER, _POINTER),
    "wasmtime_error_exit_status": (c_bool, _POINTER, _POINTER),
    "wasmtime_error_delete": (None, _POINTER),
    "wasmtime_trap_new": (_POINTER, c_char_p, _SIZE),
    "wasmtime_trap_code": (c_bool, _POINTER, _POINTER),
    "wasm_trap_message": (None, _POINTER, _POINTER),
    "wasm_trap_trace": (None, _POINTER, _POINTER),
    "wasm_trap_delete": (None, _POINTER),
    "wasm_frame_vec_delete": (None, _POINTER),
    "wasm_frame_func_index": (c_uint32, _POINTER),
    "wasm_frame_func_offset": (_SIZE, _POINTER),
    "wasmtime_frame_func_name": (_POINTER, _POINTER),
    "wasmtime_module_new": (_POINTER, _POINTER, c_char_p, _SIZE, _POINTER),
    "wasmtime_module_serialize": (_POINTER, _POINTER, _POINTER),
    "wasmtime_module_deserialize": (_POINTER, _POINTER, _POINTER, _SIZE, _POINTER),
    "wasmtime_module_imports": (None, _POINTER, _POINTER),
    "wasmtime_module_exports": (None, _POINTER, _POINTER),
    "wasmtime_module_delete": (None, _POINTER),
    "wasm_importtype_vec_delete": (None, _POINTER),
    "wasm_importtype_module": (_POINTER, _POINTER),
    "wasm_importtype_name": (_POINTER, _POINTER),
    "wasm_importtype_type": (_POINTER, _POINTER),
    "wasm_exporttype_vec_delete": (None, _POINTER),
    "wasm_exporttype_name": (_POINTER, _POINTER),
    "wasm_exporttype_type": (_POINTER, _POINTER),
    "wasm_externtype_as_memorytype_const": (_POINTER, _POINTER),
    "wasmtime_memorytype_minimum": (c_uint64, _POINTER),
    "wasm_externtype_kind": (c_uint8, _POINTER),
    "wasm_externtype_as_functype_const": (_POINTER, _POINTER),
    "wasm_valtype_new": (_POINTER, c_uint8),
    "wasm_valtype_vec_new": (None, _POINTER, _SIZE, _POINTER),
    "wasmtime_valtype_new": (None, _POINTER, _POINTER),
    "wasmtime_valtype_delete": (None, _POINTER),
    "wasm_functype_new": (_POINTER, _POINTER, _POINTER),
    "wasm_functype_params": (_POINTER, _POINTER),
    "wasm_functype_results": (_POINTER, _POINTER),
    "wasm_functype_delete": (None, _POINTER),
    "wasmtime_store_new": (_POINTER, _POINTER, _POINTER, _POINTER),
    "wasmtime_store_context": (_POINTER, _POINTER),
    "wasmtime_store_limiter": (None, _POINTER, c_int64, c_int64, c_int64, c_int64, c_int64),
    "wasmtime_store_delete": (None, _POINTER),
    "wasmtime_context_set_fuel": (_POINTER, _POINTER, c_uint64),
    "wasmtime_context_get_fuel": (_POINTER, _POINTER, _POINTER),
    "wasmtime_context_set_epoch_deadline": (None, _POINTER, c_uint64),
    "wasmtime_context_set_wasi": (_POINTER, _POINTER, _POINTER),
    "wasmtime_caller_export_get": (c_bool, _POINTER, c_char_p, _SIZE, _POINTER),
    "wasmtime_memory_data": (_POINTER, _POINTER, _POINTER),
    "wasmtime_memory_data_size": (_SIZE, _POINTER, _POINTER),
    "wasmtime_linker_new": (_POINTER, _POINTER),
    "wasmtime_linker_clone": (_POINTER, _POINTER),
    "wasmtime_linker_delete": (None, _POINTER),
    "wasmtime_linker_allow_shadowing": (None, _POINTER, c_bool),
    "wasmtime_linker_define_wasi": (_POINTER, _POINTER),
    "wasmtime_linker_define_func_unchecked": (
        *(_POINTER, _POINTER, c_char_p, _SIZE, c_char_p, _SIZE, _POINTER),
        *(CALLBACK, _POINTER, _POINTER),
    ),
    "wasmtime_linker_instantiate_pre": (_POINTER, _POINTER, _POINTER, _POINTER),
    "wasmtime_instance_pre_instantiate": (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER),
    "wasmtime_instance_pre_delete": (None, _POINTER),
    "wasmtime_instance_export_get": (c_bool, _POINTER, _POINTER, c_char_p, _SIZE, _POINTER),
    "wasmtime_func_type": (_POINTER, _POINTER, _POINTER),
    "wasmtime_func_call_unchecked": (_POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _POINTER),
    "wasi_config_new": (_POINTER,),
    "wasi_config_delete": (None, _POINTER),
    "wasi_config_set_argv": (c_bool, _POINTER, _SIZE, _POINTER),
    "wasi_config_set_env": (c_bool, _POINTER, _SIZE, _POINTER, _POINTER),
    "wasi_config_set_stdin_bytes": (None, _POINTER, _POINTER),
    "wasi_config_inherit_stdout": (None, _POINTER),
    "wasi_config_inherit_stderr": (None, _POINTER),
    "wasi_config_preopen_dir": (c_bool, _POINTER, c_char_p, c_char_p, c_bool),
}

_library: list[ctypes.CDLL] = []
_prompt: list[ctypes.PyDLL] = []


def find_library() -> bytes:
    """The path of the installed wasmtime package's library, found without importing the package.

    Raises:
        EngineVersionError: wasmtime isn't installed, or not for this machine.
    """
    from importlib.util import find_spec  # the launcher and the coordinator ask, never the zygote

    spec = find_spec("wasmtime")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = os.path.join(folder, f"linux-{os.uname().machine}", "_libwasmtime.so")
        if os.path.exists(path):
            return os.fsencode(path)
    raise EngineVersionError(f"no library of wasmtime {settings.WASMTIME_VERSION} for Linux {os.uname().machine}")


def open_library(path: bytes) -> None:
    """Open wasmtime's shared library at `path`, once for the process, and type what the binding uses of it.

    Raises:
        EngineVersionError: not a library, not of WASMTIME_VERSION, or without a function that the binding calls.
    """
    if _library:
        return
    # The C API has no function that tells its version; the package's metadata lies beside it.
    site = os.path.dirname(os.path.dirname(os.path.dirname(path)))
    metadata = os.path.join(site, b"wasmtime-%s.dist-info" % settings.WASMTIME_VERSION.encode())
    if not os.path.isdir(metadata):
        raise EngineVersionError(
            f"the library has to be that of wasmtime {settings.WASMTIME_VERSION}: there is no {os.fsdecode(metadata)}"
        )
    try:
        library = ctypes.CDLL(os.fsdecode(path))
        _type_functions(library)
    except (OSError, AttributeError) as exc:
        raise EngineVersionError(f"wasmtime {settings.WASMTIME_VERSION} is needed: {exc}") from exc
    _library.append(library)
    _prompt.append(ctypes.PyDLL(os.fsdecode(path)))


def _type_functions(library: ctypes.CDLL) -> None:
    for name, (result, *arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    for name, value, _why in settings.PROPOSALS + settings.ENGINE:
        function = getattr(library, f"wasmtime_config_{name}_set")
        function.restype = None
        function.argtypes = (c_void_p, c_uint8 if name in _ENUM_SETTINGS else _CONFIG_TYPES[type(value)])
    for name, _value, _why in settings.POOL:
        function = getattr(library, f"wasmtime_pooling_allocation_config_{name}_set")
        function.restype = None
        function.argtypes = (c_void_p, c_size_t)


def library() -> ctypes.CDLL:
    """The library that `open_library` opened."""
    return _library[0]


def prompt(name: str, result: Any = None) -> Any:
    """A function that keeps the GIL, for calls that are over at once; it takes ctypes objects, None and bytes alone."""
    function = _prompt[0][name]
    function.restype = result
    return function


def take_error(error: int) -> str:
    """The text of a wasmtime_error_t, at most MAX_DETAIL_BYTES of it; the error is deleted."""
    lib = library()
    text = ByteVec()
    lib.wasmtime_error_message(error, byref(text))
    # A text holds names of the module's: 4 MB were seen. What is over the cap is never copied into Python.
    message = ctypes.string_at(text.data, min(text.size, MAX_DETAIL_BYTES)).decode("utf-8", "replace")
    lib.wasm_byte_vec_delete(byref(text))
    lib.wasmtime_error_delete(error)
    return message


def check(error: int | None, step: str) -> None:
    """Raise what wasmtime returned, if it did.

    Raises:
        EngineError: with `step`.
    """
    if error:
        raise EngineError(step, take_error(error))


def value_kinds(vector: int) -> tuple[int, ...]:
    """The kinds in a wasm_valtype_vec_t at address `vector`: protocol.I32 to F64, V128, REF, NON_NULL_REF.

    `wasm_valtype_kind` would abort the process at a v128 or a typed reference; `wasmtime_valtype_new` knows all.
    """
    lib = library()
    types = ByteVec.from_address(vector)
    if not types.size:
        return ()
    kinds = []
    one = ValType()
    for pointer in (c_void_p * types.size).from_address(types.data):
        lib.wasmtime_valtype_new(pointer, byref(one))
        kinds.append(NON_NULL_REF if one.kind == REF and not one.reference.nullable else one.kind)
        lib.wasmtime_valtype_delete(byref(one))
    return tuple(kinds)


def function_type(params: tuple[int, ...], results: tuple[int, ...]) -> int:
    """A new wasm_functype_t of number types (protocol.I32 to F64); the caller deletes it."""
    lib = library()
    vectors = []
    for kinds in (params, results):
        vector = ByteVec()
        types = (c_void_p * len(kinds))(*[lib.wasm_valtype_new(kind) for kind in kinds])
        lib.wasm_valtype_vec_new(byref(vector), len(kinds), types)
        vectors.append(vector)
    made: int = lib.wasm_functype_new(byref(vectors[0]), byref(vectors[1]))
    return made


def take_pointer(pointer: c_void_p) -> int:
    """The address in an out parameter, which is cleared for the next call."""
    value = pointer.value or 0
    pointer.value = None
    return value
