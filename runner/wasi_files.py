"""The engine's own WASI preview 1, for jobs with mounts: its preopened directories do what ours has none of.

stdin is bytes in memory: an inherited one that a guest leaves unread shows in the next guest's. stdout and stderr are
the process's descriptors 1 and 2, where the caller put the job's files. Files are served by threads of wasmtime's
runtime, which start at the first call and may end and start again, so the seal of this profile has to allow threads.

Only `proc_exit` is ours, so that every exit code is an exit code here too (wasmtime refuses 126 and above). The cap on
output can't be kept while it is written: `outputs_over` is for the ticker to ask, `cut_outputs` for the end.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char_p
from stat import S_ISREG

from runner.capi import ByteVec, check, library

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Sequence

    from runner.engine import Engine
    from runner.wasi import Wasi

    Preopen = tuple[bytes, bytes, bool]


def new_linker(engine: Engine, wasi: Wasi) -> int:
    """A wasmtime_linker_t with the engine's WASI, and `proc_exit` of `wasi`.

    Raises:
        EngineError: with step `link`.
    """
    lib = library()
    linker: int = lib.wasmtime_linker_new(engine.handle)
    check(lib.wasmtime_linker_define_wasi(linker), "link")
    lib.wasmtime_linker_allow_shadowing(linker, True)
    wasi.define(linker, ("proc_exit",))
    lib.wasmtime_linker_allow_shadowing(linker, False)
    return linker


def configure(
    context: int, args: Sequence[bytes], env: Sequence[bytes], preopens: Sequence[Preopen], stdin: bytes
) -> str:
    """Give the store of `context` its WASI state.

    Args:
        preopens: path here, path for the guest, whether it is read-only.

    Returns:
        What could not be had, "" if nothing: a mount that isn't there, or arguments that aren't UTF-8.
    """
    lib = library()
    config = lib.wasi_config_new()
    refused = _fill(config, args, env, preopens, stdin)
    if refused:
        lib.wasi_config_delete(config)
        return refused
    check(lib.wasmtime_context_set_wasi(context, config), "wasi")
    return ""


def _fill(config: int, args: Sequence[bytes], env: Sequence[bytes], preopens: Sequence[Preopen], stdin: bytes) -> str:
    lib = library()
    if not lib.wasi_config_set_argv(config, len(args), _strings(args)):
        return "an argument is not UTF-8"
    pairs = [entry.partition(b"=") for entry in env]
    names, values = _strings([pair[0] for pair in pairs]), _strings([pair[2] for pair in pairs])
    if not lib.wasi_config_set_env(config, len(pairs), names, values):
        return "a variable is not UTF-8"
    vector = ByteVec()
    lib.wasm_byte_vec_new(byref(vector), len(stdin), stdin)
    lib.wasi_config_set_stdin_bytes(config, byref(vector))
    lib.wasi_config_inherit_stdout(config)
    lib.wasi_config_inherit_stderr(config)
    for path, guest, read_only in preopens:
        if not lib.wasi_config_preopen_dir(config, path, guest, not read_only):
            return f"the mount {guest.decode('utf-8', 'replace')!r} can't be opened"
    return ""


def _strings(strings: Sequence[bytes]) -> ctypes.Array[c_char_p]:
    return (c_char_p * len(strings))(*strings)


def outputs_over(outputs: tuple[int, int], output_bytes: int) -> bool:
    """Whether one of the descriptors is a file that has grown past `output_bytes`."""
    return any(_excess(fd, output_bytes) for fd in outputs)


def cut_outputs(outputs: tuple[int, int], output_bytes: int) -> tuple[bool, bool]:
    """Cut the files to `output_bytes`: which of the two were longer."""
    cut = []
    for fd in outputs:
        over = _excess(fd, output_bytes)
        if over:
            os.ftruncate(fd, output_bytes)
        cut.append(over)
    return cut[0], cut[1]


def _excess(fd: int, output_bytes: int) -> bool:
    status = os.fstat(fd)
    return S_ISREG(status.st_mode) and status.st_size > output_bytes
