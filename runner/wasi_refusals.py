"""What guests without files can't do: the functions of files, directories and sockets, answered as wasmtime would.

Its order is kept: flags and enumerations are decoded first, so that a wrong one is EINVAL whatever the descriptor.
"""

from __future__ import annotations

from runner import wasi_abi as abi

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Final

    from runner.wasi_abi import Function, Words
    from runner.wasi_memory import GuestMemory

    Check = tuple[int, int, int]

# (parameter, bits that it may have, 0), or (parameter, 0, number of values that it may have)
_LOOKUP: Check = (1, abi.LOOKUPFLAG_BITS, 0)

REFUSALS: Final[dict[str, tuple[Check, ...]]] = {
    "fd_advise": ((3, 0, abi.ADVICES),),
    "fd_allocate": (),
    "fd_datasync": (),
    "fd_fdstat_set_flags": ((1, abi.FDFLAG_BITS, 0),),
    "fd_fdstat_set_rights": ((1, abi.RIGHT_BITS, 0), (2, abi.RIGHT_BITS, 0)),
    "fd_filestat_set_size": (),
    "fd_filestat_set_times": ((3, abi.FSTFLAG_BITS, 0),),
    "fd_prestat_get": (),
    "fd_readdir": (),
    "fd_sync": (),
    "path_create_directory": (),
    "path_filestat_get": (_LOOKUP,),
    "path_filestat_set_times": (_LOOKUP, (6, abi.FSTFLAG_BITS, 0)),
    "path_link": (_LOOKUP,),
    "path_open": (
        *(_LOOKUP, (4, abi.OFLAG_BITS, 0), (5, abi.RIGHT_BITS, 0), (6, abi.RIGHT_BITS, 0), (7, abi.FDFLAG_BITS, 0)),
    ),
    "path_readlink": (),
    "path_remove_directory": (),
    "path_rename": (),
    "path_symlink": (),
    "path_unlink_file": (),
    "sock_accept": ((1, abi.FDFLAG_BITS, 0),),
    "sock_recv": ((3, abi.RIFLAG_BITS, 0),),
    "sock_send": ((3, 0xFFFF, 0),),
    "sock_shutdown": ((1, abi.SDFLAG_BITS, 0),),
}

# A time given and "now" at once, for access and for modification: in which parameter the flags are.
_TIMES = {"fd_filestat_set_times": 3, "path_filestat_set_times": 6}
_ATIM_AND_NOW, _MTIM_AND_NOW = 0x3, 0xC


def refusal(name: str, memory: GuestMemory, descriptors: dict[int, int]) -> Function:
    """The function `name` of REFUSALS: stdio is neither a file nor a directory nor a socket."""
    checks = REFUSALS[name]
    times = _TIMES.get(name)
    is_socket = name.startswith("sock_")

    def refuse(words: Words) -> int:
        for parameter, bits, values in checks:
            value = words[4 * parameter]
            if bits == abi.RIGHT_BITS:  # the only flags of 64 bits
                value |= words[4 * parameter + 1] << 32
            if (bits and value & ~bits) or (values and value >= values):
                return abi.EINVAL
        if times is not None:
            flags = words[4 * times]
            if flags & _ATIM_AND_NOW == _ATIM_AND_NOW or flags & _MTIM_AND_NOW == _MTIM_AND_NOW:
                return abi.EINVAL
        if name == "path_open":  # alone looks at its path before the descriptor
            memory.at(words[8], words[12])
        return abi.ENOTSOCK if is_socket and words[0] in descriptors else abi.EBADF

    return refuse
