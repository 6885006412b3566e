"""A worker of one's own, for as long as a block lasts: a private directory, a loopback port, a token nobody else has.

It dies with the process that started it, however that ends. A directory that such a death leaves behind is removed by
the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.errors import ExitCode, WorkerError
from worker.prctl import set_parent_death_signal
from worker.spawn import python, python_env

PREFIX = "galago-embedded-"
START_S, STOP_S = 60.0, 10.0
# One that is being made isn't locked yet.
_LEFTOVER_S = 60.0
_TOLD_BYTES = 4_000
# Whoever waits for it waits for its end, too; and nobody comes back for what it has recorded.
_OPTIONS = ("--bind", "127.0.0.1:0", "--api-workers", "1", "--durability", "normal", "--log-level", "warning")
_STOP_OPTIONS = ("--drain-s", "2", "--stop-grace-ms", "200", "--keepalive-s", "1")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Where it serves, and the token of scopes `read` and `run` that it knows."""

    url: str
    token: str


class EmbeddedFailed(WorkerError):
    """It did not start; the message has what it said, `exit_code` is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code > 0 else ExitCode.INTERNAL


@contextmanager
def embedded(options: Sequence[str] = (), meanwhile: Callable[[], object] = lambda: None) -> Iterator[Embedded]:
    """Start it with these options of `serve` beside its own, and leave nothing of it behind.

    Args:
        meanwhile: done while it starts.

    Raises:
        EmbeddedFailed: it did not start.
    """
    with _directory() as place:
        token = secrets.token_urlsafe(32)
        process, ready = _start(place, token, options)
        try:
            with ready:
                meanwhile()
                _await_ready(place, process, ready)
            url = (place / "data" / "run" / "url").read_text().split()[0]
            yield Embedded(url, token)
        finally:
            _stop(process)


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory that `--user` may pass through, and that is locked for as long as it is used."""
    # As root the worker's parts run as somebody else, who need not be able to enter root's own TMPDIR.
    base = Path("/tmp" if os.geteuid() == 0 else tempfile.gettempdir())  # noqa: S108 - mkdtemp makes what is below it
    _remove_leftovers(base)
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.fchmod(fd, 0o711)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(fd)


def _remove_leftovers(base: Path) -> None:
    """What processes of ours that were killed could not remove: nobody holds its lock."""
    for place in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if found.st_uid == os.geteuid() and time.time() - found.st_ctime > _LEFTOVER_S:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(fd)


def _start(place: Path, token: str, options: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The launcher, and the socket on which it says that it is ready (sd_notify(3))."""
    tokens = place / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"sha256:{hashlib.sha256(token.encode()).hexdigest()} read,run\n")
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    ready.bind(str(place / "ready"))
    argv = [*python("worker", "serve"), "--data-dir", str(place / "data"), "--token-file", str(tokens)]
    parent = os.getpid()

    def die_with_parent() -> None:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(ExitCode.PARENT_GONE)

    with (place / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [*argv, *_OPTIONS, *_STOP_OPTIONS, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**python_env(), "NOTIFY_SOCKET": str(place / "ready")},
            start_new_session=True,  # a terminal's Ctrl-C is for us, who end it in order
            preexec_fn=die_with_parent,  # no other thread is here
        )
    return process, ready


def _await_ready(place: Path, process: subprocess.Popen[bytes], ready: socket.socket) -> None:
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    pidfd = os.pidfd_open(process.pid)
    try:
        poll.register(pidfd, select.POLLIN)
        happened = {fd for fd, _ in poll.poll(START_S * 1000)}
    finally:
        os.close(pidfd)
    if ready.fileno() in happened and ready.recv(4096).startswith(b"READY=1"):
        return
    code = process.wait() if pidfd in happened else ExitCode.NEVER_READY
    said = (place / "log").read_bytes()[-_TOLD_BYTES:].decode("utf-8", "replace").strip()
    raise EmbeddedFailed(f"the embedded worker did not start: {said or 'it said nothing'}", code)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """In order; past its time by force, which ends its children, too."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
