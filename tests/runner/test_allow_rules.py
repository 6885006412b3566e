"""Every allow rule is needed, and by what; and the kernel itself refuses each of their flipped arguments.

`test_seccomp.py` shows by an interpreter what the programs answer. Here they are installed: a zygote's filter lacks one
rule, and a real runner or compiler that does what the rule is for dies of it, where under the whole filter it doesn't.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import allow
from runner.protocol import (
    PROFILE_COMPILER,
    PROFILE_FILES,
    PROFILE_FILES_SERVER,
    PROFILE_NAMES,
    PROFILE_RUNNER,
    PROFILE_SERVER,
)
from runner.seccomp import Rule, assemble
from runner.syscall_numbers import number_of
from tests.runner.needed_calls import OPERATIONS, Operation, Stage, one_call
from tests.runner.test_seccomp import flipped, meets
from tests.runner.zygote_host import ROOT, RUNNER_UID, ZygoteHost
from worker.coordinator import fetch_seal

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]

# Rule -> an operation that needs it.
NEEDED = {
    PROFILE_RUNNER: {
        "munmap": "free a large block",
        "brk": "fill the heap",
        "mremap": "realloc a large block",
        "madvise": "grow a memory",
        "futex": "spin to the deadline",
        "rt_sigreturn": "trap",
        "restart_syscall": "be paused in its sleep",
        "getrandom": "random numbers",
        "clock_gettime": "say hello",
        "exit_group": "say hello",
        "rt_sigaction": "crash in the host",
        "recvmsg": "say hello",
        "mmap": "say hello",
        "mprotect": "say hello",
        "memfd_create": "a memory that is hidden",
        "recvfrom": "be told to stop",
        "setitimer": "say hello",
        "sigaltstack": "say hello",
        "close_range": "two jobs and the end of control",
        "pread64": "read stdin",
        "write": "say hello",
    },
    PROFILE_FILES: {
        "munmap": "free a large block",
        "brk": "fill the heap",
        "mremap": "realloc a large block",
        "madvise": "files",
        "futex": "files",
        "rt_sigreturn": "trap",
        "restart_syscall": "be paused in its sleep",
        "getrandom": "files",
        "clock_gettime": "files",
        "exit_group": "files",
        "rt_sigaction": "crash in the host",
        "recvmsg": "files",
        "mmap": "files",
        "mprotect": "files",
        "memfd_create": "a memory that is hidden",
        "recvfrom": "be paused in its sleep",
        "setitimer": "files",
        "sigaltstack": "files",
        "close_range": "two jobs and the end of control",
        "clone": "files",
        "clone3": "files",
        "rt_sigprocmask": "files",
        "set_robust_list": "a thread that ends",
        "rseq": "a thread that ends",
        "exit": "a thread that ends",
        "clock_getres": "clocks",
        "sched_getaffinity": "files",
        "gettid": "a thread that ends",
        "prctl": "files",
        "epoll_create1": "files",
        "epoll_ctl": "files",
        "epoll_wait": "waits",
        "eventfd2": "files",
        "fcntl": "files",
        "write": "files",
        "close": "files",
        "ioctl": "files",
        "dup3": "files",
        "openat2": "files",
        "openat": "files",
        "newfstatat": "files",
        "statx": "files",
        "getdents64": "listing",
        "pread64": "cat",
        "pwrite64": "offsets",
        "pwritev2": "files",
        "ftruncate": "offsets",
        "fadvise64": "every other call on a file",
        "fsync": "files",
        "fdatasync": "every other call on a file",
        "utimensat": "stamps",
        "mkdirat": "files",
        "unlinkat": "files",
        "renameat": "files",
        "linkat": "files",
        "symlinkat": "files",
        "readlinkat": "files",
    },
    PROFILE_COMPILER: {
        "munmap": "compile many functions",
        "brk": "compile many functions",
        "mremap": "compile many functions",
        "rt_sigreturn": "crash in the host",
        "exit_group": "compile a small one",
        "rt_sigaction": "crash in the host",
        "recvmsg": "compile a small one",
        "mmap": "compile a small one",
        "mprotect": "compile a small one",
        "pread64": "compile a small one",
        "write": "compile a small one",
    },
}
# Rule -> why it stands there though no operation needs it here and always, and the call itself, played.
JUSTIFIED = {
    PROFILE_RUNNER: {},
    PROFILE_FILES: {
        "sched_yield": ("a lock's waiter, and only if another holds it", 'raw("sched_yield")'),
        "epoll_pwait": ("the runtime's wait where there is no epoll_wait", 'raw("epoll_pwait", 4, 0, 0, 0, 0, 0)'),
        "fstat": ("libc's and Rust's way where statx is not to be had", 'raw("fstat", 4, 0)'),
    },
    PROFILE_COMPILER: {
        "madvise": ("malloc's, where it is tuned to give pages back", 'raw("madvise", 0, 0, 4)'),
        "futex": ("pthread_once wakes others unasked: the unwinder has one", 'raw("futex", 0, 1, 0)'),
        "restart_syscall": ("the kernel's own, where a wait was interrupted", 'raw("restart_syscall")'),
        "getrandom": ("the seed of Rust's hash tables, which not every module fills", 'raw("getrandom", 0, 0, 0)'),
        "clock_gettime": ("where the vDSO has no clock", 'raw("clock_gettime", 1, 0)'),
    },
}
# Profiles whose table is test_serve_rules.py's. Their flipped arguments are refused below as everybody's are.
ELSEWHERE = frozenset({PROFILE_SERVER, PROFILE_FILES_SERVER})
# Operations that no rule needs alone, and that have to work all the same.
ALSO: dict[int, tuple[str, ...]] = {
    PROFILE_RUNNER: ("grow a table", "sleep"),
    PROFILE_FILES: ("paths", "stdio", "random"),
}
CRASH = "crash in the host"
PROFILES = [
    pytest.param(profile, id=PROFILE_NAMES[profile], marks=[pytest.mark.root] if profile == PROFILE_FILES else [])
    for profile in OPERATIONS
]
RULES = [
    pytest.param(profile, rule, id=f"{PROFILE_NAMES[profile]}-{rule.name}", marks=case.marks)
    for case in PROFILES
    for profile in case.values
    for rule in allow.RULES[profile]
    if number_of(rule.name) is not None
]


@pytest.fixture
def stage(start_zygote: Start, artifact: Artifact, root_directory: Path) -> Callable[[str], Stage]:
    """`stage("PROFILE:NAME")`: a zygote whose filter lacks that rule, with a volume that its runners may write to."""
    volume = root_directory.parent / f"{root_directory.name}-volume"
    volume.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(volume, RUNNER_UID, RUNNER_UID)

    def start(lacking: str) -> Stage:
        host = start_zygote(f"volume=v={volume}", f"lacking={lacking}", module="lacking_zygote")
        return Stage(host, artifact, volume)

    return start


def operation_of(profile: int, name: str) -> Operation:
    if name in NEEDED[profile]:
        return OPERATIONS[profile][NEEDED[profile][name]]
    return one_call(profile, JUSTIFIED[profile][name][1])


@pytest.mark.parametrize("profile", [profile for profile in allow.RULES if profile not in ELSEWHERE])
def test_every_rule_of_every_profile_is_in_the_table(profile: int) -> None:
    """One that isn't: find the operation that needs it, or remove the rule."""
    in_table = [*NEEDED[profile], *JUSTIFIED[profile]]
    assert sorted(rule.name for rule in allow.RULES[profile]) == sorted(in_table)


def test_every_operation_is_needed_for_some_rule() -> None:
    for profile, operations in OPERATIONS.items():
        unused = set(operations) - set(NEEDED[profile].values())
        assert set(ALSO.get(profile, ())) == unused, PROFILE_NAMES[profile]


@pytest.mark.parametrize("profile", PROFILES)
def test_under_the_whole_filter_nothing_dies_of_it(profile: int, stage: Callable[[str], Stage]) -> None:
    whole = stage("")
    ends = {name: operation(whole) for name, operation in OPERATIONS[profile].items()}
    assert {name: -signal.SIGSEGV if name == CRASH else 0 for name in ends} == ends
    for name, (_why, source) in JUSTIFIED[profile].items():
        if number_of(name) is not None:
            assert 0 == one_call(profile, source)(whole), name


@pytest.mark.parametrize(("profile", "rule"), RULES)
def test_without_its_rule_what_needs_it_dies(profile: int, rule: Rule, stage: Callable[[str], Stage]) -> None:
    assert -signal.SIGSYS == operation_of(profile, rule.name)(stage(f"{profile}:{rule.name}"))


# -- flipped arguments, by the kernel ----------------------------------------------------------------------------------

FLIPPER = f"""
import json, os, sys; sys.path.append({ROOT!r})
from runner import seccomp, syscalls
from runner.syscalls import call
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
filter = seccomp.Filter(bytes.fromhex(sys.argv[1]))
ends = []
for number, arguments in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        filter.install()
        try:
            call(number, *arguments)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(ends))
"""


def flips_of(rules: tuple[Rule, ...]) -> list[tuple[str, tuple[int, ...], int]]:
    """(call, arguments that break one condition of one alternative in one bit, how a process ends that tries)."""
    found = []
    for rule in rules:
        if number_of(rule.name) is None:
            continue
        refused = [values for values in flipped(rule) if not meets(rule, values)]
        assert refused or not rule.alternatives, f"no argument of {rule.name} is refused"
        end = -signal.SIGSYS if rule.otherwise is None else rule.otherwise & 0xFFFF
        found += [(rule.name, values, end) for values in refused]
    return found


FILTERS = {PROFILE_NAMES[profile]: rules for profile, rules in allow.RULES.items()} | {"fetcher": fetch_seal.RULES}


@pytest.mark.parametrize("who", FILTERS)
def test_the_kernel_refuses_every_flipped_argument(who: str) -> None:
    flips = flips_of(FILTERS[who])
    assert flips
    asked = json.dumps([(number_of(name), values) for name, values, _ in flips])
    argv = [sys.executable, "-I", "-S", "-E", "-c", FLIPPER, assemble(FILTERS[who]).hex()]
    done = subprocess.run(argv, env={}, input=asked, capture_output=True, text=True, check=True)
    ends = json.loads(done.stdout)
    wrong = [(flip, end) for flip, end in zip(flips, ends, strict=True) if end != flip[2]]
    assert [] == wrong
