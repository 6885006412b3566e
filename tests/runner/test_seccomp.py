"""The filter: what each rule allows, that its flipped argument is refused, and that the kernel sees it as we do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import allow, seccomp
from runner.protocol import PROFILE_NAMES, PROFILE_SERVER
from runner.seccomp import AUDIT_ARCH, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS, Rule, assemble, equals
from runner.syscall_numbers import AARCH64, MACHINE, NUMBERS, X86_64, number_of
from tests.runner.bpf import answer
from tests.runner.zygote_host import AS_NOBODY, ROOT
from worker.coordinator import fetch_seal

MACHINES = (X86_64, AARCH64)
I386_ARCH, ARM_ARCH = 0x40000003, 0x40000028
RULES = [
    pytest.param(profile, rule, machine, id=f"{PROFILE_NAMES[profile]}-{rule.name}-{machine}")
    for profile, rules in allow.RULES.items()
    for rule in rules
    for machine in MACHINES
    if number_of(rule.name, machine) is not None
]
CONDITIONAL = [case for case in RULES if case.values[1].alternatives]


def arguments(conditions: tuple[tuple[int, int, int], ...]) -> list[int]:
    """Arguments that meet all conditions."""
    values = [0] * 6
    for argument, _, value in conditions:
        values[argument] |= value
    return values


def flipped(rule: Rule) -> list[tuple[int, ...]]:
    """For each alternative and each of its conditions, arguments that break this condition alone in one bit."""
    found = []
    for conditions in rule.alternatives:
        for argument, mask, _ in conditions:
            for bit in (bit for bit in range(64) if mask >> bit & 1):
                values = arguments(conditions)
                values[argument] ^= 1 << bit
                found.append(tuple(values))
    return found


def meets(rule: Rule, values: tuple[int, ...]) -> bool:
    return any(all(values[arg] & mask == value for arg, mask, value in conditions) for conditions in rule.alternatives)


def ask(profile: int, machine: str, nr: int, values: tuple[int, ...] = ()) -> int:
    return answer(assemble(allow.RULES[profile], machine), nr, AUDIT_ARCH[machine], values)


@pytest.mark.parametrize(("profile", "rule", "machine"), RULES)
def test_each_rule_allows_what_it_says(profile: int, rule: Rule, machine: str) -> None:
    nr = number_of(rule.name, machine)
    assert nr is not None
    for conditions in rule.alternatives or ((),):
        assert rule.action == ask(profile, machine, nr, tuple(arguments(conditions)))


@pytest.mark.parametrize(("profile", "rule", "machine"), CONDITIONAL)
def test_the_flipped_argument_is_refused(profile: int, rule: Rule, machine: str) -> None:
    nr = number_of(rule.name, machine)
    assert nr is not None
    for values in flipped(rule):
        expected = rule.action if meets(rule, values) else RET_KILL_PROCESS
        assert expected == ask(profile, machine, nr, values), values


@pytest.mark.parametrize(("profile", "rule", "machine"), RULES)
def test_without_its_rule_a_call_kills(profile: int, rule: Rule, machine: str) -> None:
    program = assemble([other for other in allow.RULES[profile] if other is not rule], machine)
    nr = number_of(rule.name, machine)
    assert nr is not None
    for conditions in rule.alternatives or ((),):
        assert RET_KILL_PROCESS == answer(program, nr, AUDIT_ARCH[machine], tuple(arguments(conditions)))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("profile", allow.RULES)
def test_everything_else_kills(profile: int, machine: str) -> None:
    allowed = {number_of(rule.name, machine) for rule in allow.RULES[profile]}
    program = assemble(allow.RULES[profile], machine)
    for nr in set(range(600)) - allowed:
        assert RET_KILL_PROCESS == answer(program, nr, AUDIT_ARCH[machine])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("profile", allow.RULES)
@given(nr=st.integers(0, 2**32 - 1), arch=st.sampled_from((0, I386_ARCH, ARM_ARCH, *AUDIT_ARCH.values())))
def test_a_foreign_entry_kills(profile: int, machine: str, nr: int, arch: int) -> None:
    program = assemble(allow.RULES[profile], machine)
    if arch != AUDIT_ARCH[machine] or nr >= 0x40000000:
        assert RET_KILL_PROCESS == answer(program, nr, arch)


@pytest.mark.parametrize("profile", allow.RULES)
def test_x32_numbers_kill_even_where_the_default_allows(profile: int) -> None:
    program = assemble(allow.RULES[profile], X86_64, default=RET_ALLOW)
    for rule in allow.RULES[profile]:
        nr = number_of(rule.name, X86_64)
        assert nr is not None
        assert RET_KILL_PROCESS == answer(program, nr | 0x40000000, AUDIT_ARCH[X86_64])


@pytest.mark.parametrize("profile", allow.RULES)
def test_every_rule_stands_once_and_says_why(profile: int) -> None:
    names = [rule.name for rule in allow.RULES[profile]]
    assert len(names) == len(set(names))
    assert all(rule.name in NUMBERS and len(rule.why) > 3 for rule in allow.RULES[profile])


def test_what_has_no_mounts_has_no_call_that_takes_a_path() -> None:
    takes_a_path = {name for name in NUMBERS if name.endswith(("at", "at2")) or name in ("open", "chroot", "execve")}
    takes_a_path |= {"statx", "mount", "umount2", "open_tree", "move_mount", "mount_setattr"}
    for rules in (allow.RUNNER, allow.COMPILER, allow.SERVER):
        assert set() == takes_a_path & {rule.name for rule in rules}


@pytest.mark.parametrize("argument", [0, 3, 4], ids=["the descriptor", "the flags", "the address"])
def test_an_argument_is_looked_at_in_whole(argument: int) -> None:
    """What stands in the upper half of a word alone is refused too."""
    (send,) = [rule for rule in allow.SERVER if rule.name == "sendto"]
    values = arguments(send.alternatives[0])
    values[argument] |= 1 << 32
    nr = number_of("sendto")
    assert nr is not None
    assert RET_KILL_PROCESS == ask(PROFILE_SERVER, MACHINE, nr, tuple(values))


@pytest.mark.parametrize("rules", [*allow.RULES.values(), fetch_seal.RULES])
def test_no_condition_compares_a_lower_half_alone(rules: tuple[Rule, ...]) -> None:
    """A condition is about some bits, or about a value, and then about all of it but for bits that do not matter."""
    masks = {mask for rule in rules for conditions in rule.alternatives for _, mask, _ in conditions}
    assert {mask for mask in masks if mask >> 31 and mask >> 32 != 0xFFFFFFFF} == set()


@pytest.mark.parametrize("rules", [allow.RUNNER, allow.FILES, allow.SERVER, allow.FILES_SERVER])
def test_nothing_that_runs_guests_can_make_code(rules: tuple[Rule, ...]) -> None:
    by_name = {rule.name: rule for rule in rules}
    for name in ("mmap", "mprotect"):
        assert all((2, 4, 0) in conditions for conditions in by_name[name].alternatives)
    assert "pkey_mprotect" not in by_name


def test_an_answer_without_the_call_is_given() -> None:
    program = assemble([Rule("getpid", "never", action=RET_ERRNO | 38)])
    nr = number_of("getpid")
    assert nr is not None
    assert RET_ERRNO | 38 == answer(program, nr, AUDIT_ARCH[MACHINE])


def test_what_fits_no_alternative_gets_the_rules_own_answer() -> None:
    program = assemble([Rule("dup", "only of 3", equals(0, 3), otherwise=RET_ERRNO | 9)])
    nr, other = number_of("dup"), number_of("getpid")
    assert nr is not None
    assert other is not None
    answers = [answer(program, number, AUDIT_ARCH[MACHINE], (fd,)) for number, fd in ((nr, 3), (nr, 4), (other, 3))]
    assert [RET_ALLOW, RET_ERRNO | 9, RET_KILL_PROCESS] == answers


# -- by the kernel -----------------------------------------------------------------------------------------------------


HEAD = f"""import ctypes, os, sys; sys.path.append({ROOT!r})
from runner import allow, seccomp, syscalls
from runner.syscalls import call, number
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
def install(rules): seccomp.Filter(seccomp.assemble(rules)).install()
"""


def played(code: str, wrapper: tuple[str, ...] = ()) -> int:
    """The exit code of an interpreter that runs `code`."""
    argv = [*wrapper, sys.executable, "-I", "-S", "-E", "-c", HEAD + code]
    return subprocess.run(argv, env={}, stderr=subprocess.DEVNULL, check=False).returncode


WRAPPERS = [
    pytest.param((), id="as_is"),
    pytest.param(
        AS_NOBODY,
        id="ordinary_user",
        marks=pytest.mark.skipif(os.geteuid() != 0, reason="this is an ordinary user already"),
    ),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("profile", sorted(allow.RULES))
def test_the_kernel_takes_the_program(profile: int, wrapper: tuple[str, ...]) -> None:
    assert 0 == played(f"install(allow.RULES[{profile}]); os._exit(0)", wrapper)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_kernel_kills_what_is_not_allowed(wrapper: tuple[str, ...]) -> None:
    assert -signal.SIGSYS == played('install(allow.RUNNER); call(number("getppid")); os._exit(0)', wrapper)


# Calls whose flipped argument the kernel itself has to refuse; the allowed form comes first and must not kill.
FLIPS = {
    "write": ('os.write(4, b"x")', 'call(number("write"), 3, 0, 0)'),
    "pread64": ('call(number("pread64"), 7, 0, 0, 0)', 'call(number("pread64"), 6, 0, 0, 0)'),
    "close_range": ('call(number("close_range"), 5, 7)', 'call(number("close_range"), 4, 7)'),
    "setitimer": ('call(number("setitimer"), 0, 0, 0)', 'call(number("setitimer"), 2, 0, 0)'),
    "mmap executable": ('call(number("mmap"), 0, 4096, 3, 0x22, -1)', 'call(number("mmap"), 0, 4096, 5, 0x22, -1)'),
    "mmap shared": ('call(number("mmap"), 0, 4096, 0, 0x22, -1)', 'call(number("mmap"), 0, 4096, 0, 0x21, -1)'),
    "mprotect": ('call(number("mprotect"), 0, 0, 3)', 'call(number("mprotect"), 0, 0, 4)'),
    "madvise": ('call(number("madvise"), 0, 0, 4)', 'call(number("madvise"), 0, 0, 9)'),
    "rt_sigaction": ('call(number("rt_sigaction"), 11, 0, 0, 8)', 'call(number("rt_sigaction"), 14, 0, 0, 8)'),
    "futex": ('call(number("futex"), 0, 1, 0)', 'call(number("futex"), 0, 6, 0)'),
    "recvmsg": ('call(number("recvmsg"), 3, 0, 0)', 'call(number("recvmsg"), 4, 0, 0)'),
    "recvfrom": ('call(number("recvfrom"), 3, 0, 0, 0x42, 0, 0)', 'call(number("recvfrom"), 3, 0, 0, 0, 0, 0)'),
}
# Each in a child of its own: its allowed form, and then it with its flipped one.
FLIPPER = """
import json
null = os.open("/dev/null", os.O_RDWR)
for fd in range(3, 8): os.dup2(null, fd)
filter = seccomp.Filter(seccomp.assemble(allow.RUNNER))
def end(*calls):
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    filter.install()
    for source in calls:
        try: exec(source)
        except OSError: pass
    os._exit(0)
flips = json.loads(sys.argv[1])
os.write(1, json.dumps({name: [end(flip[0]), end(*flip)] for name, flip in flips.items()}).encode())
"""


@pytest.fixture(scope="module")
def ends() -> dict[str, list[int]]:
    """By each flip's name: how its allowed form ended, and how both together did."""
    argv = [sys.executable, "-I", "-S", "-E", "-c", HEAD + FLIPPER, json.dumps(FLIPS)]
    found: dict[str, list[int]] = json.loads(subprocess.run(argv, env={}, capture_output=True, check=True).stdout)
    return found


@pytest.mark.parametrize("name", sorted(FLIPS))
def test_the_kernel_refuses_the_flipped_argument(name: str, ends: dict[str, list[int]]) -> None:
    assert [0, -signal.SIGSYS] == ends[name]


@pytest.mark.skipif(MACHINE != X86_64, reason="int 0x80 is x86's")
def test_the_32_bit_entry_kills() -> None:
    """Code made before the filter: `mov eax, 20; int 0x80; ret` asks for getpid by the 32-bit table."""
    code = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))
entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
{}
entry()
os._exit(0)
"""
    assert 0 == played(code.format("")), "this kernel has no 32-bit entry: the test shows nothing"
    assert -signal.SIGSYS == played(code.format("install(allow.RUNNER)"))


def test_a_thread_that_exists_is_brought_under_it() -> None:
    code = """
import _thread, time
go, done = _thread.allocate_lock(), _thread.allocate_lock()
go.acquire(); done.acquire()
def run():
    done.release(); go.acquire(); call(number("getppid")); os._exit(0)
_thread.start_new_thread(run, ())
done.acquire()
install(allow.RUNNER)
go.release()
done.acquire()
"""
    assert -signal.SIGSYS == played(code)


def test_the_machine_is_known() -> None:
    assert MACHINE in AUDIT_ARCH
    assert seccomp.assemble(allow.RUNNER) == seccomp.assemble(allow.RUNNER, MACHINE)
