"""A client that ends its half of the connection is answered on the other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Worker, running


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data") as started:
        yield started


def ask(worker: Worker, length: int, body: bytes) -> bytes:
    head = (
        f"POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_body_that_ends_early_is_answered_as_truncated(worker: Worker) -> None:
    answer = ask(worker, 100, b'{"kind"')
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"body_truncated"' in answer
    assert b'"executed":"no"' in answer


def test_a_whole_request_is_answered_and_the_connection_closed(worker: Worker) -> None:
    answer = ask(worker, 2, b"{}")
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b'"code":"field_missing"' in answer
