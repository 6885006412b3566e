"""Runs guests in this process: an engine of its own for each test, closed with all that was made by it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from runner import capi, invoke
from runner import wasi_abi as abi
from runner.compile import compile_module
from runner.engine import Engine, LoadedModule, find_library, open_library
from runner.protocol.control import ENTRY_EXPORT, Job
from runner.protocol.status import Outcome

MIB = 1 << 20
CEILING_BYTES = 128 * MIB

_artifacts: dict[bytes, bytes] = {}


def wat(text: str) -> bytes:
    """Wasm bytes of the text format."""
    open_library(find_library())
    convert = capi.library().wasmtime_wat2wasm
    convert.restype = ctypes.c_void_p
    convert.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    encoded = text.encode()
    made = capi.ByteVec()
    capi.check(convert(encoded, len(encoded), ctypes.byref(made)), "wat")
    wasm = ctypes.string_at(made.data, made.size)
    capi.library().wasm_byte_vec_delete(ctypes.byref(made))
    return wasm


class Result:
    """One run: its Outcome, and what it wrote."""

    def __init__(self, outcome: Outcome, stdout: bytes, stderr: bytes) -> None:
        self.outcome = outcome
        self.reason = outcome.reason
        self.stdout = stdout
        self.stderr = stderr


class Host:
    """`with Host() as host: host.run(wasm, args=...)`."""

    def __init__(self, max_memory_bytes: int = CEILING_BYTES) -> None:
        open_library(find_library())
        self.engine = Engine(max_memory_bytes)
        self.invoker = invoke.Invoker(self.engine)
        self._made: list[LoadedModule | invoke.Prepared] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_exc: object) -> None:
        for made in reversed(self._made):
            made.close()
        self.invoker.close()
        self.engine.close()

    def artifact(self, wasm: bytes | str) -> bytes:
        """Compiled once for all tests, for every engine here has the same settings."""
        wasm = wat(wasm) if isinstance(wasm, str) else wasm
        if wasm not in _artifacts:
            _artifacts[wasm] = compile_module(self.engine, wasm)
        return _artifacts[wasm]

    def prepare(self, wasm: bytes | str, *, stub: bool = False) -> invoke.Prepared:
        module = self.engine.load(self.artifact(wasm))
        self._made.append(module)
        prepared = self.invoker.prepare(module, stub)
        self._made.append(prepared)
        return prepared

    def run(
        self,
        wasm: bytes | str | invoke.Prepared,
        *,
        stdin: bytes = b"",
        stub: bool = False,
        stopped: Callable[[], bool] = lambda: False,
        **job: Any,
    ) -> Result:
        prepared = wasm if isinstance(wasm, invoke.Prepared) else self.prepare(wasm, stub=stub)
        outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
        try:
            outcome = invoke.run(prepared, new_job(**job), stdin, *outputs, stopped)
            written = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in outputs]
        finally:
            for fd in outputs:
                os.close(fd)
        return Result(outcome, *written)

    def call(self, wasm: bytes | str | invoke.Prepared, export: str, *params: tuple[int, int], **job: Any) -> Result:
        """Call an export; `params` are (value kind, raw bits)."""
        return self.run(wasm, entry=ENTRY_EXPORT, export=export.encode(), params=params, **job)


def new_job(**given: Any) -> Job:
    fields: dict[str, Any] = {
        "fuel": 10**9,
        "memory_bytes": 64 * MIB,
        "wall_ms": 10_000,
        "output_bytes": MIB,
        "args": (b"guest",),
    }
    return Job(1, **(fields | given))


PAGE = 65536
WORD = 0xFFFFFFFF


def data_segment(address: int, data: bytes) -> str:
    return f'(data (i32.const {address}) "{"".join(f"{chr(92)}{byte:02x}" for byte in data)}")'


def probe(host: Host, prepared: invoke.Prepared, name: str, *args: int, **job: Any) -> int:
    """Call one WASI function from within a guest: its errno."""
    letters = abi.SIGNATURES[name]
    params = [
        (0, arg & WORD) if letter == "i" else (1, arg & (1 << 64) - 1)
        for letter, arg in zip(letters, args, strict=True)
    ]
    result = host.call(prepared, name, *params, args=(b"a",), env=(b"K=V",), **job)
    assert "exit" == result.reason, result.outcome.detail
    return result.outcome.results[0][1]


def command(body: str, more: str = "") -> str:
    """A module whose `_start` has `body`, with `more` before it."""
    return f'(module {more} (func (export "_start") {body}))'
