"""A guest's memory as the host sees it: every address and length in it is hostile.

Reads and writes are checked against the memory's present size, in Python's unbounded integers, so that nothing wraps.
What is out of bounds raises Fault, which the caller turns into EFAULT.
"""

from __future__ import annotations

from ctypes import byref, c_bool, c_size_t, c_void_p
from struct import Struct

from runner.capi import EXTERN_ITEM, EXTERN_MEMORY, Extern, prompt
from runner.syscalls import WRITABLE, view_memory
from runner.wasi_abi import EFAULT, ENOMEM

_NO_MEMORY = memoryview(bytearray())  # empty, and writable: no bytes at all may be written anywhere

_U32 = Struct("<I")
_U64 = Struct("<Q")
_PAIR = Struct("<II")


# As many buffers as Linux takes in one writev; more are a short write, which every caller has to expect. An array of
# more than MAX_LISTED_BUFFERS is ENOMEM, where wasmtime says so (128 MiB of iovecs).
MAX_BUFFERS = 1024
MAX_LISTED_BUFFERS = 16 << 20


class Fault(Exception):
    """The guest named memory that it doesn't have, or more than anybody needs: `errno` is what it is told."""

    def __init__(self, errno: int = EFAULT) -> None:
        super().__init__(errno)
        self.errno = errno


class GuestMemory:
    """The memory that the running instance exports as `memory`; one instance at a time.

    The view is kept until an access lies outside of it: a memory only ever grows, and never moves (runner.settings).
    """

    __slots__ = (
        *("_context", "_data", "_data_size", "_export_get", "_extern", "_extern_at", "_item", "_name", "_view"),
        *("caller", "context", "size"),
    )

    def __init__(self) -> None:
        self._data = prompt("wasmtime_memory_data", c_void_p)
        self._data_size = prompt("wasmtime_memory_data_size", c_size_t)
        self._export_get = prompt("wasmtime_caller_export_get", c_bool)
        self._extern = Extern()
        self._extern_at, self._item = byref(self._extern), byref(self._extern, EXTERN_ITEM)
        self._name = b"memory", c_size_t(len(b"memory"))
        self._context = c_void_p()
        self.forget()

    def forget(self) -> None:
        """Before a store is made and after it is deleted: nothing of the last memory may be touched again."""
        self._view = _NO_MEMORY
        self._extern.kind = 0
        self.size = 0
        self.caller = 0
        self.context = 0

    def at(self, address: int, length: int) -> memoryview:
        """`length` bytes of the guest's memory from `address`, to read and to write.

        Raises:
            Fault: some of them lie outside.
        """
        end = address + length
        if end > self.size:
            if not length:
                return self._view[:0]  # nothing is touched, wherever that is
            self._refresh()
            if end > self.size:
                raise Fault
        return self._view[address:end]

    def u32(self, address: int) -> int:
        value: int = _U32.unpack(self.at(address, 4))[0]
        return value

    def need(self, address: int, length: int) -> None:
        """Raises: Fault: some of `length` bytes from `address` lie outside."""
        if address + length > self.size:
            self.at(address, length)

    def put_u32(self, address: int, value: int) -> None:
        self.need(address, 4)
        _U32.pack_into(self._view, address, value)

    def put_u64(self, address: int, value: int) -> None:
        self.need(address, 8)
        _U64.pack_into(self._view, address, value)

    def put(self, address: int, data: bytes | memoryview) -> None:
        self.at(address, len(data))[:] = data

    def buffers(self, address: int, count: int) -> list[tuple[int, int]]:
        """The non-empty of `count` iovecs at `address` (MAX_BUFFERS at most) as (address, length), all in bounds.

        Raises:
            Fault: the array or one of the buffers lies outside, or there are more than MAX_LISTED_BUFFERS.
        """
        if count == 1:  # nearly always
            self.need(address, _PAIR.size)
            pair = _PAIR.unpack_from(self._view, address)
            self.need(*pair)
            return [pair] if pair[1] else []
        if count > MAX_LISTED_BUFFERS:
            raise Fault(ENOMEM)
        array = self.at(address, min(count, MAX_BUFFERS) * _PAIR.size)
        pairs = [pair for pair in _PAIR.iter_unpack(array) if pair[1]]
        for start, length in pairs:
            self.need(start, length)
        return pairs

    def _refresh(self) -> None:
        """Look at the memory again: for the first time, or because it may have grown."""
        if self._extern.kind != EXTERN_MEMORY:
            found = self.caller and self._export_get(c_void_p(self.caller), *self._name, self._extern_at)
            if not found or self._extern.kind != EXTERN_MEMORY:
                self._extern.kind = 0
                return
        self._context.value = self.context
        size = self._data_size(self._context, self._item)
        if size != self.size:
            base = self._data(self._context, self._item)
            self._view = view_memory(base, size, WRITABLE)
            self.size = size
