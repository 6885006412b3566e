"""What each profile may ask of the kernel: one line a system call, with its reason. Whatever isn't here kills.

Descriptors are those of the spawn protocol: 3 control, 4 status, then what a job brings: 5 stdout, 6 stderr, 7 stdin
for a runner; 5 the module, 6 the artifact for a compiler; 5 the listener, 6 stderr, 7 a call's connection for a server.
"""

from __future__ import annotations

from runner.asker import CALL_FD, LISTENER_FD, SOCK_CLOEXEC, STDERR_FD
from runner.messages import MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK
from runner.protocol import (
    CONTROL_FD,
    PROFILE_COMPILER,
    PROFILE_FILES,
    PROFILE_FILES_SERVER,
    PROFILE_RUNNER,
    PROFILE_SERVER,
    STATUS_FD,
)
from runner.seccomp import ALL_BITS, RET_ERRNO, Rule, equals, lacks
from runner.syscalls import FAULT_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Final

FIRST_JOB_FD, SECOND_JOB_FD, LAST_JOB_FD = 5, 6, 7

PROT_EXEC = 4
MAP_TYPE, MAP_PRIVATE = 0xF, 2
MADV_DONTNEED, MADV_FREE = 4, 8
_FUTEX_PRIVATE, _FUTEX_CLOCK_REALTIME = 128, 256
_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET = 0, 1, 9, 10
ITIMER_REAL = 0
_RUSAGE_SELF = 0
_TCGETS = 0x5401
_ENOTTY, _ENOSYS = 25, 38
_PR_SET_NAME = 15
# linux/fcntl.h: F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
FCNTL_COMMANDS = (1, 2, 3, 4, 1030)
# What glibc's pthread_create asks of clone: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, both tids.
_THREAD_FLAGS = 0x003D0F00


def futexes() -> list[tuple[tuple[int, int, int], ...]]:
    """Alternatives: wait and wake, both with a bit set too."""
    mask = ALL_BITS & ~(_FUTEX_PRIVATE | _FUTEX_CLOCK_REALTIME)
    return [((1, mask, operation),) for operation in (_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET)]


# What Python, wasmtime and libc need to compute, and nothing else.
_COMPUTE: Final = (
    Rule("munmap", "free memory"),
    Rule("brk", "malloc's heap"),
    Rule("mremap", "realloc of large blocks"),
    Rule("madvise", "give pages back", equals(2, MADV_DONTNEED), equals(2, MADV_FREE)),
    Rule("futex", "locks, and a lock's timed wait; nothing that changes priorities or moves waiters", *futexes()),
    Rule("rt_sigreturn", "end of a signal handler"),
    Rule("restart_syscall", "the kernel's own, after SIGSTOP and SIGCONT in a timed wait"),
    Rule("getrandom", "hash seeds, and random_get of WASI"),
    Rule("clock_gettime", "CPU time; other clocks where there is no vDSO"),
    Rule("exit_group", "the end"),
    Rule(
        "rt_sigaction",
        "wasmtime's handler puts the default back, so that a crash of the host's code is told by its own signal; "
        "the ticker looks whether it did",
        *[equals(0, signal) for signal in FAULT_SIGNALS],
    ),
)

_NEXT_MESSAGE: Final = Rule("recvmsg", "the next message on control", equals(0, CONTROL_FD))

_NO_NEW_CODE: Final = (
    Rule(
        "mmap",
        "memory, and private copies of the module's image; never executable, never shared",
        ((2, PROT_EXEC, 0), (3, MAP_TYPE, MAP_PRIVATE)),
    ),
    Rule("mprotect", "growing memories", lacks(2, PROT_EXEC)),
    Rule(
        "memfd_create",
        "the image of a memory that isn't exported, made at the first instance: the engine copies the data then",
        action=RET_ERRNO | _ENOSYS,
    ),
)

_JOB_CONTROL: Final = (
    _NEXT_MESSAGE,
    Rule(
        "recvfrom",
        "the ticker looks for STOP without waiting",
        ((0, ALL_BITS, CONTROL_FD), (3, ALL_BITS, MSG_PEEK | MSG_DONTWAIT)),
        ((0, ALL_BITS, CONTROL_FD), (3, ALL_BITS, MSG_DONTWAIT)),
    ),
    Rule("setitimer", "the alarm of a job; other timers would send other signals", equals(0, ITIMER_REAL)),
    Rule("sigaltstack", "wasmtime gives a thread that runs Wasm a stack for its handler"),
    Rule(
        "close_range",
        "let go of a job's descriptors, and of no other",
        ((0, ALL_BITS, FIRST_JOB_FD), (1, ALL_BITS, LAST_JOB_FD)),
    ),
)

RUNNER: Final = (
    *_COMPUTE,
    *_NO_NEW_CODE,
    *_JOB_CONTROL,
    Rule("pread64", "stdin", equals(0, LAST_JOB_FD)),
    Rule("write", "status, stdout, stderr", *[equals(0, fd) for fd in (STATUS_FD, FIRST_JOB_FD, SECOND_JOB_FD)]),
)

_FILES: Final = (
    # wasmtime's own WASI serves files from threads that come and go.
    Rule("clone", "a thread; never a process", equals(0, _THREAD_FLAGS)),
    Rule("clone3", "libc then asks by clone, whose flags can be seen", action=RET_ERRNO | _ENOSYS),
    Rule("rt_sigprocmask", "start and end of a thread"),
    Rule("set_robust_list", "start of a thread"),
    Rule("rseq", "start of a thread"),
    Rule("exit", "end of a thread"),
    Rule("clock_getres", "clock_res_get"),
    Rule("sched_getaffinity", "how many threads to start"),
    Rule("sched_yield", "locks under contention"),
    Rule("gettid", "names of threads in messages"),
    Rule("prctl", "name a thread", equals(0, _PR_SET_NAME)),
    Rule("epoll_create1", "the runtime's own wait"),
    Rule("epoll_ctl", "the runtime's own wait"),
    Rule("epoll_wait", "the runtime's own wait"),
    Rule("epoll_pwait", "the same on aarch64, which has no epoll_wait"),
    Rule("eventfd2", "wake the runtime's wait"),
    Rule("fcntl", "descriptors' flags; never who gets signals", *[equals(1, command) for command in FCNTL_COMMANDS]),
    Rule("write", "status, the job's output, files, and the runtime's event"),
    Rule("close", "files"),
    Rule(
        "ioctl",
        "is this a terminal? No: answered without asking, for no other request is known here",
        equals(1, _TCGETS),
        action=RET_ERRNO | _ENOTTY,
    ),
    Rule("openat2", "open below a preopened directory"),
    Rule("openat", "the same, where openat2 is not to be had"),
    Rule("fstat", "a file's state, where neither libc nor kernel has a newer call for it"),
    Rule("newfstatat", "a file's state"),
    Rule("statx", "a file's state"),
    Rule("getdents64", "list a directory"),
    Rule("pread64", "stdin, and read at a place"),
    Rule("pwrite64", "write at a place"),
    Rule("pwritev2", "write at a place, and append"),
    Rule("ftruncate", "cut files, and output over its limit"),
    Rule("fadvise64", "advice about a file"),
    Rule("fsync", "sync"),
    Rule("fdatasync", "sync"),
    Rule("utimensat", "set times"),
    Rule("mkdirat", "make a directory"),
    Rule("unlinkat", "remove"),
    Rule("renameat", "rename"),
    Rule("linkat", "link"),
    Rule("symlinkat", "symbolic link"),
    Rule("readlinkat", "read a symbolic link, and resolve one where openat2 is not to be had"),
)

FILES: Final = (
    *_COMPUTE,
    *_NO_NEW_CODE,
    *_JOB_CONTROL,
    *_FILES,
    Rule(
        "dup3",
        "put the job's stdout and stderr where the engine's WASI writes to",
        ((0, ALL_BITS, FIRST_JOB_FD), (1, ALL_BITS, 1)),
        ((0, ALL_BITS, SECOND_JOB_FD), (1, ALL_BITS, 2)),
    ),
)

# What a server does with its listener, and with the one connection that it has at a time. Control is not read any more.
_CALLS: Final = (
    Rule("accept4", "the next call", ((0, ALL_BITS, LISTENER_FD), (3, ALL_BITS, SOCK_CLOEXEC))),
    Rule(
        "recvfrom",
        "a call's bytes, and whether its asker still is there; never waiting, for an asker may be stopped",
        ((0, ALL_BITS, CALL_FD), (3, ALL_BITS, MSG_DONTWAIT)),
        ((0, ALL_BITS, CALL_FD), (3, ALL_BITS, MSG_PEEK | MSG_DONTWAIT)),
    ),
    Rule("ppoll", "wait for a slow asker, for a bounded time"),
    Rule(
        "sendto",
        "the answer; a call without an address, a signal or a wait",
        ((0, ALL_BITS, CALL_FD), (3, ALL_BITS, MSG_DONTWAIT | MSG_NOSIGNAL), (4, ALL_BITS, 0)),
    ),
    Rule("setitimer", "the alarm of a call; other timers would send other signals", equals(0, ITIMER_REAL)),
    Rule("sigaltstack", "wasmtime gives a thread that runs Wasm a stack for its handler"),
    Rule(
        "getrusage",
        "how much time and memory the process has used, to give way to a fresh one",
        equals(0, _RUSAGE_SELF),
    ),
)

SERVER: Final = (
    *_COMPUTE,
    *_NO_NEW_CODE,
    *_CALLS,
    Rule("close", "a call's connection", equals(0, CALL_FD)),
    Rule("write", "status, stderr", *[equals(0, fd) for fd in (STATUS_FD, STDERR_FD)]),
)

FILES_SERVER: Final = (
    *_COMPUTE,
    *_NO_NEW_CODE,
    *_CALLS,
    *_FILES,
    Rule("dup3", "keep a call's connection at its number, and the number taken between calls", equals(1, CALL_FD)),
)

COMPILER: Final = (
    *_COMPUTE,
    _NEXT_MESSAGE,
    Rule("mmap", "memory; never shared", ((3, MAP_TYPE, MAP_PRIVATE),)),
    Rule("mprotect", "the engine publishes what it compiled before it is serialised"),
    Rule("pread64", "the module's bytes", equals(0, FIRST_JOB_FD)),
    Rule("write", "status, and the artifact", *[equals(0, fd) for fd in (STATUS_FD, SECOND_JOB_FD)]),
)

RULES: Final = {
    PROFILE_RUNNER: RUNNER,
    PROFILE_FILES: FILES,
    PROFILE_COMPILER: COMPILER,
    PROFILE_SERVER: SERVER,
    PROFILE_FILES_SERVER: FILES_SERVER,
}
