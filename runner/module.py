"""Static admission: what a Wasm module is and has, from its bytes alone, before anything compiles it.

One pass in the order of the file, without recursion and without wasmtime. Code bodies, data and custom sections are
stepped over by their sizes; whatever is read one by one has a cap, so that time and memory are bounded by the caps,
whatever the file. What is accepted here may still be refused by the compiler; what is refused here never gets there.
"""

from __future__ import annotations

from mmap import mmap

from runner.errors import ModuleRefused
from runner.interface import WASI_FUNCTIONS, check_entry, unknown_imports
from runner.module_caps import DEFAULT_CAPS, Caps
from runner.wasm_parser import Inspection, Parser
from runner.wasm_types import Extern, FuncType, GlobalType, MemoryType, TableType

__all__ = [
    "WASI_FUNCTIONS",
    "Caps",
    "Extern",
    "FuncType",
    "GlobalType",
    "Inspection",
    "MemoryType",
    "TableType",
    "check_entry",
    "inspect",
    "unknown_imports",
]

MAGIC = b"\0asm"
CORE_VERSION = b"\1\0\0\0"
COMPONENT_LAYER = b"\1\0"
ELF_MAGIC = b"\x7fELF"  # what wasmtime compiles to
# How far the text format is looked for behind white space.
TEXT_PREFIX_BYTES = 4096


def inspect(data: bytes | bytearray | memoryview | mmap, caps: Caps = DEFAULT_CAPS) -> Inspection:
    """Admit a module, or say why not.

    Args:
        data: the whole file. A memory map must be of a file that nobody truncates meanwhile.
        caps: what it may have at most.

    Raises:
        ModuleRefused: with code module_text, module_component, module_precompiled, module_malformed or module_limit,
            and a message of what was found or counted and what is allowed.
    """
    with memoryview(data) as view:
        _check_magic(bytes(view[:8]), bytes(view[:TEXT_PREFIX_BYTES]))
        return Parser(view, caps).run()


def _check_magic(head: bytes, prefix: bytes) -> None:
    if head[:4] == MAGIC:
        if head == MAGIC + CORE_VERSION:
            return
        if head[6:8] == COMPONENT_LAYER:
            raise ModuleRefused("module_component", "this is a component; only core modules are run")
        version = head[4:].hex(" ") or "none"
        raise ModuleRefused("module_malformed", f"the version after the magic is {version}, it must be 01 00 00 00")
    if head[:4] == ELF_MAGIC:
        raise ModuleRefused(
            "module_precompiled", "this is compiled code (ELF); send the Wasm module, it is compiled here"
        )
    if prefix.lstrip().startswith((b"(", b";;")):
        raise ModuleRefused("module_text", "this is the text format; send it in the binary format (wat2wasm)")
    found = head[:4].hex(" ") or "an empty file"
    raise ModuleRefused("module_malformed", f"a module starts with 00 61 73 6d, this with {found}")
