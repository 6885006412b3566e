"""What a guest that has escaped from the engine can do in a sealed process: nothing. Native code, played for real."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from runner.protocol.status import OUTCOME, STARTED
from runner.syscall_numbers import NUMBERS, number_of
from tests.runner.conftest import reachable
from tests.runner.zygote_host import ZygoteHost

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]

ESCAPES = {
    "read a file": 'open("/etc/passwd")',
    "read a file by its directory": 'raw("openat", -100, 0, 0)',
    "make a socket": 'raw("socket", 2, 1, 0)',
    "connect": 'raw("connect", 3, 0, 0)',
    "execute": 'raw("execve", 0, 0, 0)',
    "execute by descriptor": 'raw("execveat", 3, 0, 0, 0, 0)',
    "fork": "os.fork()",
    "clone a process": 'raw("clone", 17, 0, 0, 0, 0)',
    "clone a thread": 'raw("clone", 0x3D0F00, 0, 0, 0, 0)',
    "clone anew": 'raw("clone3", 0, 0)',
    "start a thread": "import _thread; _thread.start_new_thread(print, ())",
    "trace": 'raw("ptrace", 0, 0, 0, 0)',
    "read another's memory": 'raw("process_vm_readv", 1, 0, 0, 0, 0, 0)',
    "signal another": 'raw("kill", 1, 0)',
    "signal itself": 'raw("tgkill", 1, 1, 9)',
    "reach another by pidfd": 'raw("pidfd_open", 1, 0)',
    "run another kernel program": 'raw("bpf", 0, 0, 0)',
    "io_uring": 'raw("io_uring_setup", 1, 0)',
    "handle its page faults": 'raw("userfaultfd", 0)',
    "the kernel's keys": 'raw("keyctl", 0, 0)',
    "mount": 'raw("mount", 0, 0, 0, 0, 0)',
    "a name space": 'raw("unshare", 0x10000000)',
    "chroot": 'raw("chroot", 0)',
    "another uid": 'raw("setresuid", 0, 0, 0)',
    "raise a limit": 'raw("prlimit64", 0, 7, 0, 0)',
    "new settings": 'raw("prctl", 4, 1, 0, 0, 0)',
    "another filter": 'raw("seccomp", 1, 0, 0)',
    "duplicate a descriptor": 'raw("dup", 4)',
    "pass a descriptor": 'raw("sendmsg", 3, 0, 0)',
    "talk back on control": 'raw("sendto", 3, 0, 0, 0, 0, 0)',
    "read control as a stream": 'raw("read", 3, 0, 0)',
    "write to control": 'raw("write", 3, 0, 0)',
    "write to the module's image": 'raw("write", 8, 0, 0)',
    "close status": 'raw("close", 4)',
    "executable memory": 'raw("mmap", 0, 4096, 7, 0x22, -1, 0)',
    "make memory executable": 'raw("mprotect", 0, 0, 4)',
    "shared memory": 'raw("mmap", 0, 4096, 3, 0x21, -1, 0)',
    "a handler for SIGSYS": 'raw("rt_sigaction", 31, 0, 0, 8)',
    "another timer": 'raw("setitimer", 1, 0, 0)',
}


@pytest.mark.parametrize("name", sorted(ESCAPES))
def test_a_guest_that_has_escaped_can_not(name: str, playing: ZygoteHost, artifact: Artifact) -> None:
    run = playing.spawn()
    run.load(artifact())
    run.job(args=(ESCAPES[name].encode(),))
    run.read_to(STARTED)
    assert -signal.SIGSYS == run.finish()
    assert OUTCOME not in [kind for kind, _ in run.frames]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is a second entry of x86-64 alone")
def test_the_x32_entry_is_closed(playing: ZygoteHost, artifact: Artifact) -> None:
    run = playing.spawn()
    run.load(artifact())
    run.job(args=(b"raw_number(0x40000000 | 1, 4, 0, 0)",))
    assert -signal.SIGSYS == run.finish()


def test_it_can_not_make_an_anonymous_file(playing: ZygoteHost, artifact: Artifact) -> None:
    """Answered as by a kernel without: the engine asks, and does without."""
    run = playing.spawn()
    run.load(artifact())
    run.job(args=(b'result = raw("memfd_create", 0, 0)',))
    assert "-38" == run.outcome().detail


def test_the_ticker_is_under_the_filter_too(playing: ZygoteHost, artifact: Artifact) -> None:
    source = b"""
import time
started = time.monotonic()
from runner import messages
def escape(self, fd):
    raw("openat", -100, 0, 0)
messages.Mailbox.look = escape
while time.monotonic() - started < 2:
    pass
"""
    run = playing.spawn()
    run.load(artifact())
    run.job(args=(source,))
    assert -signal.SIGSYS == run.finish()


def test_no_descriptor_can_be_had_but_a_jobs(playing: ZygoteHost, artifact: Artifact) -> None:
    """Two jobs with stdin fill 5 to 7 each time; a fourth descriptor would not fit."""
    run = playing.spawn()
    run.load(artifact())
    for _ in range(3):
        run.job(args=(b"result = stdin",), stdin=b"x")
        assert "b'x'" == run.outcome().detail


def test_its_memory_is_hidden(start_zygote: Start, artifact: Artifact) -> None:
    """Not dumpable: its files below /proc belong to root, whoever it is."""
    run = start_zygote().spawn()
    run.load(artifact())
    run.ready_layers()
    assert 0 == os.stat(f"/proc/{run.pid}/mem").st_uid


def test_all_escapes_are_calls_of_this_machine() -> None:
    named = [source.partition('raw("')[2].partition('"')[0] for source in ESCAPES.values() if 'raw("' in source]
    assert all(name in NUMBERS and number_of(name) is not None for name in named)


@pytest.fixture(scope="module")
def played_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteHost]:
    host = ZygoteHost(reachable(tmp_path_factory), module="played_zygote")
    yield host.wait_ready()
    host.close()


@pytest.fixture
def playing(played_zygote: ZygoteHost) -> Iterator[ZygoteHost]:
    """A zygote whose runners play a job's first argument as native code: one for all, and it outlives each."""
    yield played_zygote
    played_zygote.close_runs()
    assert played_zygote.exit is None
