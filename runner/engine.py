"""The engine and the modules that it loads: one Engine a process, inherited by fork."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_void_p

from runner import settings
from runner.capi import EXTERN_FUNC, EXTERN_MEMORY, ByteVec, check, find_library, library, open_library, value_kinds
from runner.errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable, Iterable

__all__ = ["Engine", "Import", "LoadedModule", "find_library", "open_library"]


class Engine:
    """wasmtime's engine with the settings of `runner.settings`, one a process; inherited by fork.

    `max_memory_bytes` is the operator's ceiling for one linear memory; a job's own limit comes by its store.
    """

    __slots__ = ("_increment", "handle", "max_memory_bytes")

    def __init__(self, max_memory_bytes: int) -> None:
        """Make the engine.

        Raises:
            EngineError: `max_memory_bytes` isn't within the reservation, or wasmtime refused the settings.
        """
        # wasmtime would abort the process instead.
        if not settings.WASM_PAGE_BYTES <= max_memory_bytes <= settings.MEMORY_RESERVATION_BYTES:
            raise EngineError(
                "engine",
                f"max_memory_bytes is from {settings.WASM_PAGE_BYTES} to {settings.MEMORY_RESERVATION_BYTES},"
                f" this is {max_memory_bytes}",
            )
        lib = library()
        config = lib.wasm_config_new()
        for name, value, _why in settings.PROPOSALS + settings.ENGINE:
            getattr(lib, f"wasmtime_config_{name}_set")(config, value)
        pool = lib.wasmtime_pooling_allocation_config_new()
        for name, value, _why in settings.POOL:
            getattr(lib, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
        lib.wasmtime_pooling_allocation_config_max_memory_size_set(pool, max_memory_bytes)
        lib.wasmtime_pooling_allocation_strategy_set(config, pool)
        lib.wasmtime_pooling_allocation_config_delete(pool)
        self.handle: int = lib.wasm_engine_new_with_config(config)
        if not self.handle:
            raise EngineError("engine", "wasmtime refused the settings")
        self.max_memory_bytes = max_memory_bytes
        self._increment = lib.wasmtime_engine_increment_epoch

    def increment_epoch(self) -> None:
        """One tick: stores whose deadline it reaches are interrupted at their next check. From any thread."""
        self._increment(self.handle)

    def load(self, artifact: bytes | memoryview) -> LoadedModule:
        """The module that `artifact` was made from. Only for bytes whose maker and way here are trusted.

        Raises:
            EngineError: cut short, or of another version, machine or settings.
        """
        data = bytes(artifact)
        return self._load(ctypes.cast(c_char_p(data), c_void_p), len(data))

    def load_mapped(self, address: int, size: int) -> LoadedModule:
        """As `load`, from `size` bytes at `address`: spares Python's copy of a large artifact."""
        return self._load(c_void_p(address), size)

    def _load(self, start: c_void_p, size: int) -> LoadedModule:
        module = c_void_p()
        check(library().wasmtime_module_deserialize(self.handle, start, size, byref(module)), "load")
        return LoadedModule(module.value or 0)

    def close(self) -> None:
        """Delete the engine; nothing that was made with it may be left. Only tests need it: a runner just ends."""
        library().wasm_engine_delete(self.handle)


class Import:
    """One import of a module: names as bytes, `kind` an EXTERN_ constant, and for a function its value kinds.

    `type_handle` is the wasm_functype_t, owned by the list that it came in.
    """

    __slots__ = ("kind", "module", "name", "params", "results", "type_handle")

    def __init__(self, module: bytes, name: bytes, kind: int, type_handle: int) -> None:
        self.module = module
        self.name = name
        self.kind = kind
        self.type_handle = type_handle
        lib = library()
        is_function = kind == EXTERN_FUNC
        self.params = value_kinds(lib.wasm_functype_params(type_handle)) if is_function else ()
        self.results = value_kinds(lib.wasm_functype_results(type_handle)) if is_function else ()


class LoadedModule:
    """A module ready to be linked. `handle` is the wasmtime_module_t."""

    __slots__ = ("handle",)

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def each_import(self, visit: Callable[[Import], None]) -> None:
        """Call `visit(Import)` for every import, in order; the Import's type is valid during the call alone."""
        lib = library()
        imports = ByteVec()
        lib.wasmtime_module_imports(self.handle, byref(imports))
        try:
            for one in _pointers(imports):
                extern = lib.wasm_importtype_type(one)
                kind = lib.wasm_externtype_kind(extern)
                module = _text(lib.wasm_importtype_module(one))
                name = _text(lib.wasm_importtype_name(one))
                visit(Import(module, name, kind, lib.wasm_externtype_as_functype_const(extern) or 0))
        finally:
            lib.wasm_importtype_vec_delete(byref(imports))

    def imports_from(self, module: bytes) -> bool:
        """Whether it imports anything from a module of that name."""
        names = set()
        self.each_import(lambda one: names.add(one.module))
        return module in names

    def memories(self) -> list[tuple[bytes, int]]:
        """The memories that it exports: (name, pages that an instance begins with)."""
        lib = library()
        exports = ByteVec()
        lib.wasmtime_module_exports(self.handle, byref(exports))
        found = []
        try:
            for one in _pointers(exports):
                extern = lib.wasm_exporttype_type(one)
                if lib.wasm_externtype_kind(extern) == EXTERN_MEMORY:
                    memory = lib.wasm_externtype_as_memorytype_const(extern)
                    found.append((_text(lib.wasm_exporttype_name(one)), lib.wasmtime_memorytype_minimum(memory)))
        finally:
            lib.wasm_exporttype_vec_delete(byref(exports))
        return found

    def function(self, name: bytes) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The value kinds of the parameters and results of an exported function; None if there is none so named."""
        lib = library()
        exports = ByteVec()
        lib.wasmtime_module_exports(self.handle, byref(exports))
        try:
            for one in _pointers(exports):
                if _text(lib.wasm_exporttype_name(one)) != name:
                    continue
                kind = lib.wasm_externtype_as_functype_const(lib.wasm_exporttype_type(one))
                if not kind:
                    return None
                return value_kinds(lib.wasm_functype_params(kind)), value_kinds(lib.wasm_functype_results(kind))
        finally:
            lib.wasm_exporttype_vec_delete(byref(exports))
        return None

    def close(self) -> None:
        library().wasmtime_module_delete(self.handle)


def _pointers(vector: ByteVec) -> Iterable[int]:
    return (c_void_p * vector.size).from_address(vector.data) if vector.size else ()


def _text(name: int) -> bytes:
    text = ByteVec.from_address(name)
    return ctypes.string_at(text.data, text.size) if text.size else b""
