"""A runner that is played: a service's listening socket, and a thread that does with each call what a test says."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.protocol.call import CALL_HEAD, MARK, Answer, Call, call_length, decode_call, encode_answer

Act = Callable[["PlayedRunner", socket.socket], None]
HELLO = b"Content-Type: text/plain\n\nhello\n"
PATIENCE_S = 10.0


class PlayedRunner:
    """
    Attributes:
        acts: what is done with the next connections, in turn; after the last, `otherwise` is.
        calls: that were read whole.
        go: what `holds` waits for.
    """

    def __init__(self, path: Path, *acts: Act, queue: int = 16) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.acts = deque(acts)
        self.otherwise: Act = answers(HELLO)
        self.calls: list[Call] = []
        self.go = threading.Event()
        self.failed: Exception | None = None
        self.listener = socket.socket(socket.AF_UNIX)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        self.listener.bind(f"/proc/self/fd/{directory}/{path.name}")  # however long the path is (unix(7): 107 bytes)
        os.close(directory)
        self.listener.listen(queue - 1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self.go.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self.listener.close()
        self.path.unlink(missing_ok=True)
        if self.failed is not None:
            raise self.failed

    def read(self, connection: socket.socket) -> Call | None:
        """One call, whole; None for one that went away before that."""
        data = b""
        while len(data) < CALL_HEAD.size or len(data) < call_length(data):
            piece = connection.recv(1 << 16)
            if not piece:
                return None
            data += piece
        call = decode_call(data)
        assert call is not None
        self.calls.append(call)
        return call

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENCE_S)
                act = self.acts.popleft() if self.acts else self.otherwise
                try:
                    act(self, connection)
                except (BrokenPipeError, ConnectionResetError):
                    continue
                except Exception as exc:  # noqa: BLE001 - told by `close`
                    self.failed = exc


@contextlib.contextmanager
def played(path: Path, *acts: Act, queue: int = 16) -> Iterator[PlayedRunner]:
    runner = PlayedRunner(path, *acts, queue=queue)
    try:
        yield runner
    finally:
        runner.close()


# What it may do


def answers(body: bytes = HELLO, reason: str = "exit", mark: bool = False, **fields: object) -> Act:
    """Read the call, and give an answer."""
    return says((MARK if mark else b"") + encode_answer(Answer(reason, body, **fields)))  # type: ignore[arg-type]


def says(*pieces: bytes) -> Act:
    """Read the call, say this, and close."""

    def act(runner: PlayedRunner, connection: socket.socket) -> None:
        if runner.read(connection) is not None:
            for piece in pieces:
                connection.sendall(piece)

    return act


def echoes(runner: PlayedRunner, connection: socket.socket) -> None:
    """Answer with the call's variables and its body, as a WAGI guest could."""
    call = runner.read(connection)
    if call is not None:
        body = b"Content-Type: text/plain\n\n" + b"\n".join(call.variables) + b"\n\n" + call.body
        connection.sendall(encode_answer(Answer("exit", body)))


def resets(_runner: PlayedRunner, connection: socket.socket) -> None:
    """Close without having read it all: the other end gets ECONNRESET."""
    connection.recv(1)


def dies(runner: PlayedRunner, connection: socket.socket) -> None:
    """Read it all and close: the other end gets EOF."""
    runner.read(connection)


def holds(then: Act | None = None) -> Act:
    """Wait until told to go on, before anything is read; then answer, or do what is said."""

    def act(runner: PlayedRunner, connection: socket.socket) -> None:
        runner.go.wait(PATIENCE_S)
        (then or answers())(runner, connection)

    return act


def reads_and_holds(runner: PlayedRunner, connection: socket.socket) -> None:
    """Read it all, and say nothing until told to go on."""
    runner.read(connection)
    runner.go.wait(PATIENCE_S)


def marks_and_holds(runner: PlayedRunner, connection: socket.socket) -> None:
    """Read it all, say that it runs, and nothing more until told to go on."""
    runner.read(connection)
    connection.sendall(MARK)
    runner.go.wait(PATIENCE_S)
