"""Every rule of a server's allow-list is needed, and by what: without it a call that needs it is the server's death."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner import allow
from runner.protocol import PROFILE_FILES, PROFILE_FILES_SERVER, PROFILE_SERVER
from runner.protocol.record import BUSY_SINCE
from runner.seccomp import Rule
from runner.syscall_numbers import number_of
from tests.e2e.harness import wait_for
from tests.runner.call_guests import DEEDS, LOG, LOOP, TRAP, ZERO, handler
from tests.runner.call_host import Service
from tests.runner.needed_calls import HIDDEN, PAUSES, pause
from tests.runner.zygote_host import MIB, RUNNER_UID, ZygoteHost

# What is sent, one asker each: calls' bodies, or their variables where a tuple; None sends nothing for a while.
Asked = tuple[bytes | tuple[bytes] | None, ...]
GROW = handler("(drop (memory.grow (i32.const 100)))")
RANDOM = handler(
    "(drop (call $random (i32.const 0) (i32.const 64)))",
).replace(
    "(memory",
    '(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32))) (memory',
    1,
)


def _played(source: str) -> Asked:
    return ((b"PLAY=" + source.encode(),),)


# name: (guest, what it is asked)
OPERATIONS: dict[str, tuple[str, Asked]] = {
    "answer": (DEEDS, (ZERO,)),
    "write to the log": (DEEDS, (LOG,)),
    "run to the deadline": (DEEDS, (LOOP,)),
    "be paused": (DEEDS, (LOOP,)),
    "trap": (DEEDS, (TRAP,)),
    "wait for a slow asker": (DEEDS, (None,)),
    "grow a memory": (GROW, (b"",)),
    "random numbers": (RANDOM, (b"",)),
    "a memory that is hidden": (HIDDEN, (b"",)),
    "a long request": (DEEDS, (b"z" + bytes(4 * MIB),)),
    "fill the heap": (DEEDS, _played("a = [bytes(600) for _ in range(20000)]")),
    "realloc a large block": (DEEDS, _played("a = bytearray(1 << 20); a.extend(bytes(1 << 22)); del a")),
    "crash in the host": (DEEDS, _played("ctypes.string_at(0)")),
    "ask where there is no vDSO": (DEEDS, _played('raw("clock_gettime", 1, 0)')),
}
NEEDED = {
    "munmap": "a long request",
    "brk": "fill the heap",
    "mremap": "realloc a large block",
    "madvise": "grow a memory",
    "futex": "run to the deadline",
    "rt_sigreturn": "trap",
    "restart_syscall": "be paused",
    "getrandom": "random numbers",
    "clock_gettime": "ask where there is no vDSO",
    "exit_group": "answer",
    "rt_sigaction": "crash in the host",
    "mmap": "a long request",
    "mprotect": "grow a memory",
    "memfd_create": "a memory that is hidden",
    "accept4": "answer",
    "recvfrom": "answer",
    "ppoll": "wait for a slow asker",
    "sendto": "answer",
    "setitimer": "answer",
    "sigaltstack": "answer",
    "getrusage": "run to the deadline",
    "close": "answer",
    "write": "write to the log",
}
# The limits of a call that is paused, by whether that is to be its death: then how long it runs must not decide, on
# however slow a machine. Where it isn't, fuel ends it: a deadline's alarm could come while it is stopped.
PAUSED = {True: {"fuel": 2**62, "wall_ms": 60_000}, False: {"fuel": 200_000_000, "wall_ms": 60_000}}
TO_ITS_DEATH = 10_000
RULES = [rule for rule in allow.SERVER if number_of(rule.name) is not None]
# What a server with mounts may do that a job with mounts may not, or not so.
OWN = [rule for rule in allow.FILES_SERVER if rule not in allow.FILES and number_of(rule.name) is not None]

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]
Play = Callable[..., int]


@pytest.fixture
def play(start_zygote: Start, artifact: Artifact, tmp_path: Path, root_directory: Path) -> Play:
    """`play(operation, profile, lacking)`: how a server ends that is asked and then retired."""
    volume = root_directory.parent / f"{root_directory.name}-volume"
    volume.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(volume, RUNNER_UID, RUNNER_UID)

    def start(name: str, profile: int, lacking: str, host: ZygoteHost | None = None) -> int:
        arguments = [f"lacking={profile}:{lacking}"] if lacking else []
        host = host or start_zygote(f"volume=v={volume}", *arguments, module="serving_zygote")
        guest, asked = OPERATIONS[name]
        mounts = ((b"v", b".", False),) if profile == PROFILE_FILES_SERVER else ()
        with ExitStack() as stack:
            path = tmp_path / f"{len(host.runs)}-{lacking}"
            service = stack.enter_context(Service(host, artifact(guest), path, mounts))
            preopens = ((b"/m0", b"/data", False),) if mounts else ()
            limits = PAUSED[bool(lacking)] if name == "be paused" else {"fuel": 2**62, "wall_ms": 60}
            service.serve(preopens=preopens, **limits)
            for one in asked:
                stack.enter_context(_ask(service, one))
            if name == "be paused":
                _pause(service, bool(lacking))
            service.retire()
            return service.run.finish()

    return start


def _pause(service: Service, to_its_death: bool) -> None:
    """The ticker waits for its next tick: the kernel goes on with that by a call of its own."""
    wait_for(lambda: service.record()[BUSY_SINCE], "the call runs")
    times = TO_ITS_DEATH if to_its_death else PAUSES
    pause(service.run, "R", times, over=lambda: not service.record()[BUSY_SINCE])


def _ask(service: Service, one: bytes | tuple[bytes] | None) -> socket.socket:
    if one is None:
        return service.connect()
    if isinstance(one, tuple):
        return service.ask(b"", *one)
    return service.ask(one, fuel=2**62)


def test_every_rule_is_in_the_table() -> None:
    assert sorted(rule.name for rule in allow.SERVER) == sorted(NEEDED)
    assert set(NEEDED.values()) == set(OPERATIONS)


def test_what_is_no_job_with_mounts_is_the_servers_own() -> None:
    assert ["accept4", "dup3", "getrusage", "ppoll", "recvfrom", "sendto", "setitimer", "sigaltstack"] == sorted(
        rule.name for rule in OWN
    )
    assert {rule.name for rule in allow.FILES} - {rule.name for rule in allow.FILES_SERVER} == {
        "recvmsg",
        "close_range",
    }
    assert PROFILE_FILES in allow.RULES


@pytest.mark.parametrize("profile", [PROFILE_SERVER, pytest.param(PROFILE_FILES_SERVER, marks=pytest.mark.root)])
def test_under_the_whole_filter_nothing_dies_of_it(play: Play, start_zygote: Start, profile: int) -> None:
    for name in OPERATIONS:
        expected = -signal.SIGSEGV if name == "crash in the host" else 0
        assert expected == play(name, profile, ""), name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_without_its_rule_what_needs_it_dies(play: Play, rule: Rule) -> None:
    assert -signal.SIGSYS == play(NEEDED[rule.name], PROFILE_SERVER, rule.name)


@pytest.mark.root
@pytest.mark.parametrize("rule", OWN, ids=lambda rule: rule.name)
def test_without_its_rule_what_needs_it_dies_with_mounts_too(play: Play, rule: Rule) -> None:
    assert -signal.SIGSYS == play(NEEDED.get(rule.name, "answer"), PROFILE_FILES_SERVER, rule.name)
