"""What comes before a job: the linker of a process, a module linked by it, a store with its limits."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_uint64, c_void_p

from runner import settings, wasi_files
from runner.capi import EXTERN_ITEM, EXTERN_MEMORY, Extern, Instance, check, library, take_pointer
from runner.errors import EngineError
from runner.stubs import ZEROS, define_stubs
from runner.wasi import Wasi

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from runner.engine import Engine, LoadedModule

    Signature = tuple[tuple[int, ...], tuple[int, ...]]


PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROT_READ_EXEC = 1 | 4

# Control, status and the three that a job brings are below (runner.protocol.control).
FIRST_IMAGE_FD = 8


class Invoker:
    """What all jobs of a process share: the linker with our WASI, and the out parameters of the C API.

    It may be made in the zygote: it makes no Store and no WasiConfig, draws no random bytes and starts no thread; and
    what libffi maps for its callbacks is then there before the seal forbids to map it.
    """

    def __init__(self, engine: Engine, stub_imports: bool = False) -> None:
        """Link our WASI.

        Raises:
            EngineError: with step `link`.
        """
        lib = library()
        self.engine = engine
        self.stub_imports = stub_imports
        self.wasi = Wasi()
        self.linker: int = lib.wasmtime_linker_new(engine.handle)
        self.wasi.define(self.linker)
        self.instance = Instance()
        self.trap = c_void_p()
        self.extern = Extern()
        self.item = ctypes.addressof(self.extern) + EXTERN_ITEM
        self.fuel = c_uint64()
        self._values = (c_uint64 * 32)()

    def prepare(self, module: LoadedModule, stub_imports: bool | None = None) -> Prepared:
        """Link a module; call it before the seal's last stage, which forbids to make the memory image.

        Raises:
            EngineError: with step `link`: an import that the worker lacks, or of another type.
        """
        stub = self.stub_imports if stub_imports is None else stub_imports
        prepared = Prepared(self, module, stub)
        prepared.own_pre = prepared.link(self.linker)
        prepared.make_image()
        return prepared

    def instantiate(self, pre: int, context: int) -> int | None:
        """Make an instance into `instance`, or give an error here or a trap in `trap`."""
        error: int | None = library().wasmtime_instance_pre_instantiate(
            pre, context, byref(self.instance), byref(self.trap)
        )
        return error

    def find(self, context: int, name: bytes) -> bool:
        """Look an export of the instance up by name, into `extern`; the instance has to be alive."""
        found: bool = library().wasmtime_instance_export_get(
            context, byref(self.instance), name, len(name), byref(self.extern)
        )
        return found

    def memory_bytes(self, context: int, memories: list[tuple[bytes, int]]) -> int:
        """What the instance's exported `memories` have now, which is their peak: a memory never shrinks.

        One that isn't exported can't be seen through the C API and counts as nothing.
        """
        size_of = library().wasmtime_memory_data_size
        sizes: dict[tuple[int, ...], int] = {}  # by identity: one memory may have two names
        for name, _pages in memories:
            if self.find(context, name) and self.extern.kind == EXTERN_MEMORY:
                sizes[tuple(self.extern.item)] = size_of(context, self.item)
        return sum(sizes.values())

    def protect_callbacks(self) -> None:
        """Take the write permission from the pages of code that ctypes has made for our callbacks.

        It maps them writable *and* executable, which no page of a sealed process should be. For the zygote, once: a
        process that makes another ctypes callback after this dies.

        Raises:
            EngineError: with step `protect`.
        """
        callbacks = (ZEROS, *self.wasi.callbacks.values())
        for callback in callbacks:  # never to be freed, for that would write to its page
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
        pages = {_page_of(callback) for callback in callbacks}
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        mprotect.argtypes = (c_void_p, ctypes.c_size_t, ctypes.c_int)
        for page in pages:
            if mprotect(page, PAGE_BYTES, _PROT_READ_EXEC):
                raise EngineError("protect", os.strerror(ctypes.get_errno()))

    def values(self, slots: int) -> ctypes.Array[c_uint64]:
        """Room for `slots` parameters or results, 16 bytes each; what is in it is left from the last call."""
        if 2 * slots > len(self._values):
            self._values = (c_uint64 * (2 * slots))()
        return self._values

    def drop(self, error: int | None) -> None:
        """Delete an error, and the trap in `trap`, unread."""
        lib = library()
        trap = take_pointer(self.trap)
        if error:
            lib.wasmtime_error_delete(error)
        if trap:
            lib.wasm_trap_delete(trap)

    def close(self) -> None:
        library().wasmtime_linker_delete(self.linker)


class Prepared:
    """A module that is linked: instances of it are made from here."""

    __slots__ = ("files_pre", "invoker", "memories", "module", "own_pre", "signatures", "stub_imports")

    def __init__(self, invoker: Invoker, module: LoadedModule, stub_imports: bool) -> None:
        self.invoker = invoker
        self.module = module
        self.stub_imports = stub_imports
        self.memories = module.memories()
        self.own_pre = self.files_pre = 0
        # What `invoke` has found out about exports: None is no function of that name.
        self.signatures: dict[bytes, Signature | None] = {}

    def link(self, linker: int) -> int:
        """A wasmtime_instance_pre_t by `linker`.

        Raises:
            EngineError: with step `link`.
        """
        lib = library()
        own = lib.wasmtime_linker_clone(linker) if self.stub_imports else 0
        pre = c_void_p()
        try:
            if own:
                define_stubs(own, self.module)
            check(lib.wasmtime_linker_instantiate_pre(own or linker, self.module.handle, byref(pre)), "link")
        finally:
            if own:
                lib.wasmtime_linker_delete(own)
        return pre.value or 0

    def with_files(self) -> int:
        """The module linked by the engine's own WASI, for jobs with mounts.

        Raises:
            EngineError: with step `link`.
        """
        if not self.files_pre:
            linker = wasi_files.new_linker(self.invoker.engine, self.invoker.wasi)
            try:
                self.files_pre = self.link(linker)
            finally:
                library().wasmtime_linker_delete(linker)
        return self.files_pre

    def make_image(self) -> None:
        """Have wasmtime make the module's copy-on-write image (a memfd) now, while the seal still lets it.

        wasmtime makes it at the first instantiation, and the C API can't ask for it alone. So instantiate in a store
        that refuses every memory: the image is made just before the limiter is asked, and none of the guest's code
        runs. That holds where a memory begins with a page at least; other modules are left alone.
        """
        if not any(pages for _name, pages in self.memories):
            return
        invoker = self.invoker
        # The image keeps its descriptor for as long as the module lives, so it must not get the number of one that
        # every job brings anew: a dup2 onto it would put the job's file into the guest's memory.
        holders = _hold_low_descriptors()
        store = Store(invoker.engine, fuel=0, ticks=0, memory_bytes=0)
        invoker.drop(invoker.instantiate(self.own_pre, store.context))
        store.close()
        for fd in holders:
            os.close(fd)

    def close(self) -> None:
        lib = library()
        for pre in (self.own_pre, self.files_pre):
            if pre:
                lib.wasmtime_instance_pre_delete(pre)
        self.own_pre = self.files_pre = 0


def _page_of(callback: object) -> int:
    address = ctypes.cast(callback, c_void_p).value or 0  # type: ignore[arg-type]
    return address & -PAGE_BYTES


def _hold_low_descriptors() -> list[int]:
    """Take every free descriptor below FIRST_IMAGE_FD; the caller closes them."""
    holders = []
    while (fd := os.memfd_create("holder")) < FIRST_IMAGE_FD:
        holders.append(fd)
    os.close(fd)
    return holders


class Store:
    """A wasmtime_store_t with its limits: everything that one instance owns."""

    __slots__ = ("context", "handle")

    def __init__(self, engine: Engine, *, fuel: int, ticks: int, memory_bytes: int) -> None:
        """`ticks` of the epoch until it is interrupted; `memory_bytes` for each of its memories, and its GC heap."""
        lib = library()
        self.handle: int = lib.wasmtime_store_new(engine.handle, None, None)
        self.context: int = lib.wasmtime_store_context(self.handle)
        lib.wasmtime_store_limiter(
            self.handle, memory_bytes, settings.MAX_TABLE_ELEMENTS, 1, settings.MAX_TABLES, settings.MAX_MEMORIES
        )
        check(lib.wasmtime_context_set_fuel(self.context, fuel), "fuel")
        lib.wasmtime_context_set_epoch_deadline(self.context, ticks)

    def close(self) -> None:
        library().wasmtime_store_delete(self.handle)
