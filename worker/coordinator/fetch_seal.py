"""The fetcher's seal: what a process may do that speaks with strangers' servers.

Two stages, as a runner's. `hold_files` comes before the URL is looked at: from then on only the files that names and
TLS need, and the directories of `file:` URLs, can be opened. `close` comes when all is open that is needed and before
the first byte from outside is read: another uid, no capability, no new code, an allow-list of system calls.

What it keeps is a network: it connects, and neither binds nor listens. Unix sockets are answered as by a kernel
without, so that no service of the host, and none of the worker's own, can be reached; libc's resolver then does
without nscd and what only services know, and asks the servers of /etc/resolv.conf.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterable

from runner import landlock
from runner.allow import (
    FCNTL_COMMANDS,
    ITIMER_REAL,
    MADV_DONTNEED,
    MADV_FREE,
    MAP_PRIVATE,
    MAP_TYPE,
    PROT_EXEC,
    futexes,
)
from runner.seal import Step
from runner.seccomp import ALL_BITS, RET_ERRNO, Filter, Rule, assemble, equals, lacks
from runner.syscalls import PR_MDWE_REFUSE_EXEC_GAIN, PR_SET_MDWE, PR_SET_PDEATHSIG, prctl
from worker import capabilities
from worker.coordinator.fetch_wire import FetchRequest
from worker.errors import CapabilityError, FetchError
from worker.prctl import set_undumpable

_SIGKILL, _SIGALRM = 9, 14
_PROT_READ, _MAP_SHARED = 1, 1
_FIONBIO, _FIONREAD = 0x5421, 0x541B
_SOCK_TYPE = 0xFF
# linux/fcntl.h: how a file is opened for reading alone.
_O_ACCMODE, _O_CREAT, _O_TRUNC = 0o3, 0o100, 0o1000


def _sockets() -> list[tuple[tuple[int, int, int], ...]]:
    families, kinds = (socket.AF_INET, socket.AF_INET6), (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    return [((0, ALL_BITS, family), (1, _SOCK_TYPE, kind)) for family in families for kind in kinds]


# One line a system call, with its reason; whatever isn't here kills.
RULES = (
    Rule("munmap", "free memory"),
    Rule("brk", "malloc's heap"),
    Rule("mremap", "realloc of large blocks"),
    Rule("madvise", "give pages back", equals(2, MADV_DONTNEED), equals(2, MADV_FREE)),
    Rule(
        "mmap",
        "memory, and the module to look at; never executable: a name service that is a library of its own isn't had",
        ((2, PROT_EXEC, 0), (3, MAP_TYPE, MAP_PRIVATE)),
        ((2, ALL_BITS, _PROT_READ), (3, MAP_TYPE, _MAP_SHARED)),
        otherwise=RET_ERRNO | errno.EACCES,
    ),
    Rule("mprotect", "malloc's heap", lacks(2, PROT_EXEC)),
    Rule("futex", "locks, and what is done once", *futexes()),
    Rule("restart_syscall", "the kernel's own, after SIGSTOP and SIGCONT in a timed wait"),
    Rule("getrandom", "TLS's keys, and numbers of DNS queries"),
    Rule("clock_gettime", "time limits, where there is no vDSO"),
    Rule("gettimeofday", "OpenSSL's clock, likewise"),
    Rule("time", "the same"),
    Rule("exit_group", "the end"),
    Rule("rt_sigaction", "the handler of the time limit, and its end", equals(0, _SIGALRM)),
    Rule("rt_sigreturn", "end of that handler"),
    Rule("setitimer", "the time limit", equals(0, ITIMER_REAL)),
    Rule("getpid", "OpenSSL looks whether it was forked"),
    Rule("getuid", "libc's resolver and OpenSSL ask whether the environment can be trusted"),
    Rule("geteuid", "the same"),
    Rule("getgid", "the same"),
    Rule("getegid", "the same"),
    Rule("uname", "the resolver's own domain"),
    Rule(
        "socket",
        "TCP to servers, UDP to name servers; no other family: neither the host's services nor the kernel's",
        *_sockets(),
        otherwise=RET_ERRNO | errno.EAFNOSUPPORT,
    ),
    Rule("connect", "to what was resolved and checked"),
    Rule("getsockname", "TLS looks at its socket; the resolver at the address that it would come from"),
    Rule("getpeername", "TLS looks whether it is connected"),
    Rule("getsockopt", "whether a connection came to be"),
    Rule("setsockopt", "the resolver wants errors told, the connection no delay"),
    Rule("ioctl", "sockets without waiting, and the length of an answer", equals(1, _FIONBIO), equals(1, _FIONREAD)),
    Rule("poll", "wait for the network"),
    Rule("ppoll", "the same on aarch64"),
    Rule("sendto", "HTTP requests, and DNS queries"),
    Rule("sendmmsg", "DNS queries for both families at once"),
    Rule("recvfrom", "HTTP answers, and DNS answers"),
    Rule("writev", "DNS queries by TCP"),
    Rule("read", "TLS, configuration of the resolver, the file of a file: URL"),
    Rule("write", "TLS, the module, the answer"),
    Rule("pread64", "libc, of files"),
    Rule("fsync", "the module's bytes are on disk before it is told"),
    Rule("close", "files and connections"),
    Rule("lseek", "buffered files"),
    Rule("fstat", "length of files, the module's too"),
    Rule("newfstatat", "whether the resolver's configuration changed; certificates by name"),
    Rule("stat", "the same, by an older libc"),
    Rule("lstat", "the same, by an older libc"),
    Rule("openat", "the files that Landlock allows; to read", lacks(2, _O_ACCMODE | _O_CREAT | _O_TRUNC)),
    Rule("getdents64", "directories of certificates"),
    Rule(
        "fcntl",
        "descriptors' flags, and the copy that a mapping holds; never who gets signals",
        *[equals(1, command) for command in FCNTL_COMMANDS],
    ),
)

# What libc's resolver reads; and where certificates lie, as distributions link them.
_RESOLVER_FILES = tuple(f"/etc/{name}" for name in ("resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf"))
_CERTIFICATES = (
    "/etc/ssl/certs",
    "/etc/pki/tls",
    "/etc/pki/ca-trust/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
)


def readable(request: FetchRequest) -> tuple[str, ...]:
    """What a fetch may open: for a `file:` URL the allowed directories, else what names and TLS need."""
    if request.url[:5].lower() == "file:":
        return request.file_dirs
    paths = ssl.get_default_verify_paths()
    found = (paths.cafile, paths.capath, paths.openssl_cafile, paths.openssl_capath, request.ca_file)
    return (*_RESOLVER_FILES, *_CERTIFICATES, *[path for path in found if path])


def hold_files(paths: Iterable[str]) -> bool:
    """From now on only these can be opened, to read; nothing is bound, nor signalled. Needs no_new_privs.

    Returns:
        False where the kernel has no Landlock.
    """
    try:
        version = landlock.abi()
    except OSError:
        return False
    ruleset = landlock.new_ruleset(version, landlock.NET_BIND)
    try:
        for path in paths:
            _allow(ruleset, version, path)
        landlock.restrict_self(ruleset)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, version: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what isn't there needs no rule
    try:
        access = landlock.READ_ONLY if os.path.isdir(f"/proc/self/fd/{fd}") else landlock.READ_FILE
        landlock.allow_beneath(ruleset, version, fd, access)
    finally:
        os.close(fd)


def close(request: FetchRequest) -> None:
    """The rest of the seal.

    Raises:
        FetchError: a step failed that this machine should give; it is named.
    """
    program = Filter(assemble(RULES))
    for step in _steps(request, program):
        try:
            step.apply()
        except (OSError, CapabilityError) as exc:
            optional = step.name == "mdwe" or (step.name == "seccomp" and request.allow_unsealed)
            if not optional:
                why = exc.strerror if isinstance(exc, OSError) else exc
                raise FetchError("internal", f"the fetcher's seal failed at {step.name}: {why}") from exc


def _steps(request: FetchRequest, program: Filter) -> Iterable[Step]:
    parent = os.getppid()  # before the uid: until then its death would have been told
    if request.uid:
        yield Step("uid", "first: all that is of the worker's user is open", lambda: _change_user(request.uid))
    yield Step("capabilities", "after the uid, which takes two; its change takes none away", capabilities.drop_all)
    yield Step("pdeathsig", "after the uid, whose change clears it", lambda: _die_with(parent))
    yield Step("nondumpable", "after the uid, whose change sets it anew", set_undumpable)
    yield Step("mdwe", "no memory becomes executable", lambda: prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN))
    yield Step(
        "seccomp", "last, for it forbids all of the above; needs no_new_privs, set at the start", program.install
    )


def _change_user(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _die_with(parent: int) -> None:
    prctl(PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the coordinator is gone")
