"""Linux system calls that Python has no name for, by ctypes alone.

Every call raises OSError with the kernel's errno. Constants are those of the header named beside them.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import addressof, c_int, c_long, c_uint32, c_uint64, c_void_p, create_string_buffer, get_errno, sizeof

from runner.syscall_numbers import MACHINE, number_of

_libc = ctypes.CDLL(None, use_errno=True)
# Six arguments always: what a call doesn't take, the kernel doesn't read. Pointers go as integers.
_call = _libc.syscall
_call.restype = c_long
_call.argtypes = (c_long,) * 7

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_DUMPABLE = 3
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_GET_TID_ADDRESS = 40
PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN = 1

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# asm/signal.h: what a fault of the machine ends a process by
SIGILL, SIGBUS, SIGFPE, SIGSEGV = FAULT_SIGNALS = 4, 7, 8, 11

# asm-generic/resource.h
RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE = range(5)
RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK = 6, 7, 8
RLIM_INFINITY = 2**64 - 1

# linux/fcntl.h
F_SETFL = 4
F_GET_SEALS = 1034
F_SEAL_SHRINK, F_SEAL_WRITE = 2, 8


def call(
    number: int, first: int = 0, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0, sixth: int = 0
) -> int:
    """One raw system call.

    Raises:
        OSError: the kernel's errno.
    """
    result: int = _call(number, first, second, third, fourth, fifth, sixth)
    if result == -1:
        raise OSError(get_errno(), os.strerror(get_errno()))
    return result


def number(name: str) -> int:
    """This machine's number of a call that every machine here has."""
    found = number_of(name)
    assert found is not None, f"{MACHINE} has no {name}"
    return found


_PRCTL = number("prctl")
_PRLIMIT = number("prlimit64")
_CLOSE_RANGE = number("close_range")
_CAPGET, _CAPSET = number("capget"), number("capset")


def prctl(option: int, argument: int = 0) -> int:
    return call(_PRCTL, option, argument)


def close_range(first: int, last: int = 0x7FFFFFFF) -> None:
    """Close every descriptor from `first` to `last`, which need not be open."""
    call(_CLOSE_RANGE, first, last)


class _Limit(ctypes.Structure):
    _fields_ = (("soft", c_uint64), ("hard", c_uint64))


_limit = _Limit()
_LIMIT_ADDRESS = addressof(_limit)


def set_limit(resource: int, soft: int, hard: int | None = None) -> None:
    """Set an rlimit of this process: soft and hard, equal where `hard` is None."""
    _limit.soft = soft
    _limit.hard = soft if hard is None else hard
    call(_PRLIMIT, 0, resource, _LIMIT_ADDRESS)


def hard_limit(resource: int) -> int:
    """What an rlimit of this process may be raised to."""
    call(_PRLIMIT, 0, resource, 0, _LIMIT_ADDRESS)
    hard: int = _limit.hard
    return hard


class _CapabilityHead(ctypes.Structure):
    _fields_ = (("version", c_uint32), ("pid", c_int))


_cap_head = _CapabilityHead(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3: two 32-bit words a set
_cap_words = (c_uint32 * 6)()  # effective, permitted, inheritable; then the upper halves of the three
_NO_CAPABILITIES = (c_uint32 * 6)()
_CAP_HEAD_ADDRESS = addressof(_cap_head)
_NO_CAPABILITIES_ADDRESS = addressof(_NO_CAPABILITIES)

# linux/capability.h
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN = (
    *(1, 2, 5, 6, 7, 18, 21),
)


def effective_capabilities() -> int:
    """Bit n is capability n."""
    call(_CAPGET, _CAP_HEAD_ADDRESS, addressof(_cap_words))
    mask: int = _cap_words[0] | _cap_words[3] << 32
    return mask


def set_effective_capabilities(mask: int) -> None:
    """Make `mask` effective, which has to lie within the permitted set; that and the inheritable one stay."""
    call(_CAPGET, _CAP_HEAD_ADDRESS, addressof(_cap_words))
    _cap_words[0], _cap_words[3] = mask & 0xFFFFFFFF, mask >> 32
    call(_CAPSET, _CAP_HEAD_ADDRESS, addressof(_cap_words))


def drop_capabilities() -> None:
    """Empty all sets for good; the ambient one goes with them."""
    call(_CAPSET, _CAP_HEAD_ADDRESS, _NO_CAPABILITIES_ADDRESS)


def unshare(flags: int) -> None:
    call(number("unshare"), flags)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64))


# linux/openat2.h
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08


def open_beneath(directory_fd: int, path: bytes, flags: int) -> int:
    """Open `path` below a directory: no symlink anywhere on the way, no `..` out of it, no /proc link.

    Raises:
        OSError: ELOOP for a symlink, EXDEV for a way out, ENOSYS before Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    name = create_string_buffer(path)
    return call(number("openat2"), directory_fd, addressof(name), addressof(how), sizeof(how))


# linux/mount.h, linux/fcntl.h
MS_SLAVE_RECURSIVE = 1 << 19 | 1 << 14
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, AT_EMPTY_PATH = 1, 4, 0x1000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD = -100


class _MountAttributes(ctypes.Structure):
    _fields_ = (("set", c_uint64), ("clear", c_uint64), ("propagation", c_uint64), ("userns_fd", c_uint64))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    strings = [create_string_buffer(text) for text in (source, target, kind, data)]
    source_at, target_at, kind_at, data_at = [addressof(text) for text in strings]
    call(number("mount"), source_at, target_at, kind_at, flags, data_at)


def clone_mount(directory_fd: int) -> int:
    """A detached mount of the directory: a descriptor that nobody's name space has yet (Linux 5.2)."""
    empty = create_string_buffer(b"")
    flags = OPEN_TREE_CLONE | AT_EMPTY_PATH | os.O_CLOEXEC
    return call(number("open_tree"), directory_fd, addressof(empty), flags)


def set_mount_attributes(mount_fd: int, attributes: int) -> None:
    """Add MOUNT_ATTR_ bits to a mount (Linux 5.12)."""
    change = _MountAttributes(attributes, 0, 0, 0)
    empty = create_string_buffer(b"")
    call(number("mount_setattr"), mount_fd, addressof(empty), AT_EMPTY_PATH, addressof(change), sizeof(change))


def attach_mount(mount_fd: int, target: bytes) -> None:
    """Put a detached mount at the path `target`."""
    empty, path = create_string_buffer(b""), create_string_buffer(target)
    flags = MOVE_MOUNT_F_EMPTY_PATH
    call(number("move_mount"), mount_fd, addressof(empty), AT_FDCWD, addressof(path), flags)


def seals_of(fd: int) -> int:
    """F_SEAL_ bits of a memfd.

    Raises:
        OSError: EINVAL where it is no memfd.
    """
    return call(number("fcntl"), fd, F_GET_SEALS)


def append_always(fd: int) -> None:
    """Have every write to a file go to its end."""
    call(number("fcntl"), fd, F_SETFL, os.O_APPEND)


# asm-generic/mman-common.h
PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 1, 2, 1, 2, 0x20


def map_read_only(fd: int, size: int) -> int:
    """The address of a private read-only mapping of a file that can't shrink."""
    return call(number("mmap"), 0, size, PROT_READ, MAP_PRIVATE, fd, 0)


def map_memory(size: int) -> int:
    """The address of new zeroed memory, whose pages come when they are touched."""
    return call(number("mmap"), 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)


def map_shared(fd: int, size: int, offset: int) -> int:
    """The address of a part of a file, to read and to write together with others; `offset` in whole pages."""
    return call(number("mmap"), 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset)


def unmap(address: int, size: int) -> None:
    call(number("munmap"), address, size)


# (address, size, WRITABLE) -> a memoryview of memory that nobody else holds for it. An array type of ctypes for each
# size would be made and thrown away each time.
view_memory = ctypes.pythonapi.PyMemoryView_FromMemory
view_memory.restype = ctypes.py_object
view_memory.argtypes = (c_void_p, ctypes.c_ssize_t, c_int)
WRITABLE = 0x200  # PyBUF_WRITE


# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
LARGE_BYTES = 1 << 20


def one_malloc_arena() -> None:
    """Let threads share malloc's first arena: a new thread else maps and faults in one of its own."""
    _mallopt(_M_ARENA_MAX, 1)


def give_large_blocks_back() -> None:
    """Have what is freed of LARGE_BYTES and more go back to the kernel: malloc else learns from the first to keep up to
    64 MiB."""
    _mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(_libc, "mallopt", None)  # glibc's alone
    if mallopt is not None:
        mallopt.argtypes = (c_int, c_int)
        mallopt(parameter, value)


def tid_address() -> int:
    """Where libc keeps this thread's id, which a raw clone has to set in the child.

    Raises:
        OSError: EINVAL where the kernel lacks CONFIG_CHECKPOINT_RESTORE.
    """
    found = c_void_p()
    prctl(PR_GET_TID_ADDRESS, addressof(found))
    return found.value or 0
