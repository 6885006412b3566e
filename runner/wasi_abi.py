"""WASI preview 1 as its witx says it: errno, signatures, which values its flags and enumerations may have.

Sizes in bytes, little-endian: iovec 8, fdstat 24, filestat 64, subscription 48, event 32.
"""

from __future__ import annotations

from runner.protocol import I32, I64

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    import ctypes
    from collections.abc import Callable
    from typing import Final

    # The words of a call: parameter n is word 4n, its upper half word 4n + 1; the answer goes to word 0.
    Words = ctypes.Array[ctypes.c_uint32]
    Function = Callable[[Words], int]

MODULE: Final = b"wasi_snapshot_preview1"

SUCCESS = 0
EAGAIN = 6
EBADF = 8
EFAULT = 21
EFBIG = 22
EINVAL = 28
EIO = 29
ENOMEM = 48
ENOSPC = 51
ENOTDIR = 54
ENOTSOCK = 57
ENOTSUP = 58
EPIPE = 64
ESPIPE = 70

# What a write to a stream can answer, by the host's errno (the names are Linux's).
FROM_HOST: Final = {11: EAGAIN, 27: EFBIG, 28: ENOSPC, 32: EPIPE}

STDIN, STDOUT, STDERR = range(3)
FILETYPE_UNKNOWN = 0  # what wasmtime calls a stream that is no terminal
RIGHT_FD_READ = 1 << 1
RIGHT_FD_WRITE = 1 << 6

CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPU, CLOCK_THREAD_CPU = range(4)

EVENT_CLOCK, EVENT_FD_READ, EVENT_FD_WRITE = range(3)
SUBSCRIPTION_BYTES = 48
EVENT_BYTES = 32

ADVICES = 6  # advice is an enumeration of so many
SIGNALS = 31
WHENCES = 3
FDFLAG_BITS = 0x1F
FSTFLAG_BITS = 0xF
LOOKUPFLAG_BITS = 0x1
OFLAG_BITS = 0xF
RIGHT_BITS = (1 << 30) - 1
RIFLAG_BITS = 0x3
SDFLAG_BITS = 0x3
SUBCLOCKFLAG_ABSTIME = 0x1

# Parameters of all 46 functions, "i" for i32 and "l" for i64; each returns an errno, except proc_exit.
SIGNATURES: Final[dict[str, str]] = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "ili",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_advise": "illi",
    "fd_allocate": "ill",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "ill",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "il",
    "fd_filestat_set_times": "illi",
    "fd_pread": "iiili",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiili",
    "fd_read": "iiii",
    "fd_readdir": "iiili",
    "fd_renumber": "ii",
    "fd_seek": "ilii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiilli",
    "path_link": "iiiiiii",
    "path_open": "iiiiillii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}


def signature(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The value kinds of a function's parameters and results."""
    params = tuple(I32 if letter == "i" else I64 for letter in SIGNATURES[name])
    return params, () if name == "proc_exit" else (I32,)
