"""Messages with descriptors by raw calls, against Python's own sockets; and forks that are known to libc."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runner.errors import ProtocolError
from runner.messages import MAX_FDS, Mailbox
from runner.syscalls import unmap
from tests.runner.zygote_host import ROOT

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    one = Mailbox(4096)
    yield one
    unmap(one._buffer, 4096)


@pytest.mark.parametrize("size", [1, 100, 4096])
@pytest.mark.parametrize("count", range(MAX_FDS + 1))
def test_a_message_comes_whole_with_its_descriptors(mailbox: Mailbox, pair: Pair, size: int, count: int) -> None:
    ours, theirs = pair
    sent = os.urandom(size)
    socket.send_fds(theirs, [sent], [0] * count)
    message, fds = mailbox.receive(ours.fileno())
    assert (sent, count) == (message, len(fds))
    assert all(os.path.sameopenfile(0, fd) and not os.get_inheritable(fd) for fd in fds)
    for fd in fds:
        os.close(fd)


def test_a_message_without_descriptors_has_none_of_the_last(mailbox: Mailbox, pair: Pair) -> None:
    ours, theirs = pair
    socket.send_fds(theirs, [b"a"], [0])
    theirs.send(b"b")
    os.close(mailbox.receive(ours.fileno())[1][0])
    assert (b"b", ()) == mailbox.receive(ours.fileno())


def test_the_end_is_empty(mailbox: Mailbox, pair: Pair) -> None:
    pair[1].close()
    assert (b"", ()) == mailbox.receive(pair[0].fileno())


def test_what_is_too_long_is_an_error(mailbox: Mailbox, pair: Pair) -> None:
    pair[1].send(b"x" * 4097)
    with pytest.raises(ProtocolError, match="4096 bytes"):
        mailbox.receive(pair[0].fileno())


@pytest.mark.parametrize("descriptor", [None, 0])
def test_what_is_sent_arrives(mailbox: Mailbox, pair: Pair, descriptor: int | None) -> None:
    mailbox.send(pair[0].fileno(), b"hello", descriptor)
    message, fds, flags, _ = socket.recv_fds(pair[1], 100, 2)
    assert (b"hello", 0 if descriptor is None else 1, 0) == (message, len(fds), flags & socket.MSG_CTRUNC)
    for fd in fds:
        os.close(fd)


def test_a_send_that_would_wait_says_so(mailbox: Mailbox, pair: Pair) -> None:
    def fill() -> None:
        while True:
            mailbox.send(pair[0].fileno(), b"x" * 1000, wait=False)

    with pytest.raises(BlockingIOError):
        fill()


def test_a_look_leaves_the_message(mailbox: Mailbox, pair: Pair) -> None:
    fd = pair[0].fileno()
    assert -1 == mailbox.look(fd)
    pair[1].send(b"\x07rest")
    assert (7, 7) == (mailbox.look(fd), mailbox.look(fd))
    mailbox.skip(fd)
    assert -1 == mailbox.look(fd)
    pair[1].close()
    assert -2 == mailbox.look(fd)


def played(code: str) -> str:
    head = f"import os, sys, time; sys.path.append({ROOT!r})\nfrom runner.fork import Forker\nforker = Forker()\n"
    argv = [sys.executable, "-I", "-S", "-E", "-c", head + code]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, check=False, timeout=30)
    assert "" == done.stderr
    return done.stdout.strip()


def test_a_child_knows_its_own_thread() -> None:
    """libc keeps the thread's id: what pthread_kill and new threads go by has to be the child's."""
    code = """
import _signal, _thread
def child():
    lock = _thread.allocate_lock(); lock.acquire()
    seen = []
    _thread.start_new_thread(lambda: (seen.append(_thread.get_native_id()), lock.release()), ())
    lock.acquire()
    if seen[0] == os.getpid(): raise OSError(1, "")
    _signal.pthread_kill(_thread.get_ident(), 10)
print(forker.throwaway(child))
"""
    assert "138" == played(code)


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("None", 0),
        ("os.close(99)", 9),
        ("1 / 0", 255),
        ("os.kill(os.getpid(), 15)", 143),
    ],
)
def test_a_throwaway_tells_what_came_of_it(action: str, answer: int) -> None:
    assert str(answer) == played(f"print(forker.throwaway(lambda: {action}))")


def test_only_one_thread_may_fork() -> None:
    code = """
import _thread
lock = _thread.allocate_lock(); lock.acquire()
_thread.start_new_thread(lock.acquire, ())
while os.stat("/proc/self/task").st_nlink != 4: pass
try: forker.throwaway(lambda: None)
except RuntimeError as exc: print(exc)
"""
    assert "only a process with one thread may fork, this has 2" == played(code)


def test_a_sibling_is_the_parents_child() -> None:
    """A child forks a sibling: it is waited for here, by the pidfd's process and by nobody else."""
    code = """
def child():
    pid, pidfd = forker.sibling()
    if pid == 0: os._exit(7)
print(forker.throwaway(child))
pid, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""
    assert "0\n7" == played(code)
