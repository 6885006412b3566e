"""Services of end-to-end tests, called as an API worker calls a runner: over their socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runner.protocol.call import ANSWER_HEAD, MARK, Answer, answer_length, decode_answer, encode_call
from tests.e2e.harness import DEADLINE_S, Worker

CALL_FUEL, CALL_WALL_MS = 10**9, 10_000
MOST_BYTES = 1 << 20
NOT_EXECUTED = (ConnectionRefusedError, FileNotFoundError, BlockingIOError, ConnectionResetError, BrokenPipeError)


@contextmanager
def connection(worker: Worker, task_id: str) -> Iterator[socket.socket]:
    """To the service's listener. Raises what connect raises."""
    directory = os.open(worker.data_dir / "run" / "calls", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.setblocking(False)
            caller.connect(f"/proc/self/fd/{directory}/{task_id}")
        finally:
            os.close(directory)
        caller.settimeout(DEADLINE_S)
        yield caller


def send_call(caller: socket.socket, body: bytes = b"", **variables: str) -> None:
    named = [f"{name}={value}".encode() for name, value in variables.items()]
    sent_us = time.monotonic_ns() // 1000
    caller.sendall(encode_call(body, named, fuel=CALL_FUEL, wall_ms=CALL_WALL_MS, sent_us=sent_us))


def read_answer(caller: socket.socket) -> Answer | None:
    """What came; None where the runner died over the call."""
    data = b""
    while piece := caller.recv(65536):
        data += piece
    data = data.removeprefix(MARK)
    if not data:
        return None
    assert len(data) >= ANSWER_HEAD.size, data
    assert len(data) == answer_length(data, MOST_BYTES)
    return decode_answer(data)


def call(worker: Worker, task_id: str, body: bytes = b"", **variables: str) -> Answer:
    """An answer to a call, which is made again for as long as it was not executed."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with connection(worker, task_id) as caller:
                send_call(caller, body, **variables)
                answer = read_answer(caller)
            assert answer is not None, f"the runner of {task_id} died over a call"
            return answer
        except NOT_EXECUTED:
            assert time.monotonic() < deadline, f"nobody answers the calls of {task_id}"
            time.sleep(0.01)
