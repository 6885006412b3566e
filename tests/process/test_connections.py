"""The HTTP server's limits and manners, on a real gunicorn."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.process.launched import Launched, wait_for
from worker.api.server_listeners import ACCEPTS_PER_TURN, MANY

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def serve(launch: Callable[..., Launched]) -> Callable[..., Launched]:
    def start(*options: str) -> Launched:
        launched = launch("--api-workers", "1", *options)
        launched.await_whole(api_workers=1)
        return launched

    return start


@contextmanager
def connected(launched: Launched) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", launched.port), timeout=20) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes. A reset raises."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def problem_of(answer: bytes) -> tuple[int, str, str]:
    """Status, code and `executed` of an answer that must be a problem document and the connection's last."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {problem['status']} ".encode())
    return problem["status"], problem["code"], problem["executed"]


def test_a_head_that_does_not_come_whole_in_time_is_answered_and_closed(serve: Callable[..., Launched]) -> None:
    with connected(serve("--head-timeout-s", "0.3")) as connection:
        connection.sendall(HEAD)
        assert problem_of(read_to_end(connection)) == (408, "request_timeout", "no")


def test_a_head_that_comes_by_drops_is_closed_all_the_same(serve: Callable[..., Launched]) -> None:
    launched = serve("--head-timeout-s", "0.5")
    with connected(launched) as connection:
        connection.settimeout(0.05)
        said = b""
        for _ in range(400):
            try:
                connection.sendall(b"G")
                if (piece := connection.recv(4096)) == b"":
                    break
                said += piece
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("it was let go on for 20 s")


def test_a_connection_that_says_nothing_is_closed_without_a_word(serve: Callable[..., Launched]) -> None:
    with connected(serve("--head-timeout-s", "0.3")) as connection:
        assert read_to_end(connection) == b""


def test_a_second_head_on_a_kept_connection_has_the_same_time(serve: Callable[..., Launched]) -> None:
    with connected(serve("--head-timeout-s", "0.3", "--keepalive-s", "60")) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD)
        assert problem_of(read_to_end(connection))[0] == 408


def test_a_kept_connection_ends_after_the_keepalive_time(serve: Callable[..., Launched]) -> None:
    with connected(serve("--head-timeout-s", "0.3", "--keepalive-s", "1")) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert read_to_end(connection) == b""


def test_the_head_timer_does_not_end_a_slow_answer(serve: Callable[..., Launched]) -> None:
    with connected(serve("--head-timeout-s", "0.3")) as connection:
        connection.sendall(b"GET /slow/900 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "fields",
    [
        b"X-Long: " + b"a" * 70_000 + b"\r\n\r\n",
        b"".join(b"X-%d: " % n + b"a" * 900 + b"\r\n" for n in range(90)) + b"\r\n",
        b"X-Long: " + b"a" * 70_000,
    ],
    ids=["one long field", "many fields", "no end"],
)
def test_a_head_that_is_too_long_is_refused(serve: Callable[..., Launched], fields: bytes) -> None:
    with connected(serve()) as connection:
        connection.sendall(HEAD + fields)
        assert problem_of(read_to_end(connection)) == (431, "headers_too_large", "no")


def test_a_request_line_that_is_too_long_is_refused(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        connection.sendall(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert problem_of(read_to_end(connection)) == (431, "headers_too_large", "no")


def test_more_fields_than_anybody_sends_are_refused(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        connection.sendall(HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n")
        assert problem_of(read_to_end(connection)) == (431, "headers_too_large", "no")


def test_a_head_that_fits_may_come_in_pieces(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + b"X-Long: " + b"a" * 2_000 + b"\r\nConnection: close\r\n\r\n":
            connection.send(bytes([byte]))
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /functions/f HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /functions/f HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
    ],
    ids=["no request", "bad field", "two framings", "unknown coding", "a call's coding", "a call's field"],
)
def test_what_is_no_request_is_a_problem(serve: Callable[..., Launched], request_bytes: bytes) -> None:
    with connected(serve()) as connection:
        connection.sendall(request_bytes)
        answer = read_to_end(connection)
        assert problem_of(answer) == (400, "bad_header", "no")
        assert b"\r\nx-galago-executed: no\r\n" in answer


def test_an_answer_before_the_body_is_read_reaches_a_client_that_still_sends(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        size = 8 << 20
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        connection.sendall(b"b" * size)
        assert b"too large" in read_to_end(connection)


def test_what_the_application_does_not_answer_is_its_fault_and_the_connections_last(
    serve: Callable[..., Launched],
) -> None:
    with connected(serve()) as connection:
        connection.sendall(b"GET /mute HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (500, "internal", "maybe") == problem_of(read_to_end(connection))


def test_a_body_comes_whole(serve: Callable[..., Launched]) -> None:
    body = bytes(range(256)) * 4096
    with connected(serve()) as connection:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        assert read_to_end(connection).endswith(body)


def test_a_client_that_takes_nothing_is_cut(serve: Callable[..., Launched]) -> None:
    launched = serve("--write-timeout-s", "0.5")
    with connected(launched) as connection:
        size = 64 << 20
        connection.sendall(b"GET /large/%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
        assert connection.recv(1) == b"H"
        poll = select.poll()
        poll.register(connection, select.POLLHUP | select.POLLERR)
        assert poll.poll(20_000) != [], "it is reset without having read more"


def test_a_request_to_upgrade_is_answered_as_if_it_had_not_asked(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        connection.sendall(
            HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        one = b"GET /slow/50 HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(one + one + last)
        answers = read_to_end(connection)
        assert (answers.count(b"HTTP/1.1 200"), answers.endswith(b"\r\n\r\n1000")) == (3, True)


def test_one_connection_too_many_is_refused_while_all_are_busy(serve: Callable[..., Launched]) -> None:
    launched = serve("--max-connections", "2")
    with connected(launched) as one, connected(launched) as other, connected(launched) as third:
        for busy in (one, other):
            busy.sendall(b"GET /slow/1500 HTTP/1.1\r\nHost: x\r\n\r\n")
        third.sendall(HEAD + b"\r\n")
        assert problem_of(read_to_end(third)) == (429, "queue_full", "no")
        assert [busy.recv(4096)[:12] for busy in (one, other)] == [b"HTTP/1.1 200"] * 2


def test_an_idle_connection_makes_room_for_a_new_one(serve: Callable[..., Launched]) -> None:
    launched = serve("--max-connections", "1")
    with connected(launched) as idle:
        idle.sendall(HEAD + b"\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        with connected(launched) as new:
            new.sendall(HEAD + b"\r\n")
            assert new.recv(4096).startswith(b"HTTP/1.1 200")
        assert read_to_end(idle) == b""


def test_a_worker_accepts_more_at_once_while_it_has_many_connections(serve: Callable[..., Launched]) -> None:
    launched = serve()
    [worker] = launched.pids("worker")
    few = accepting(worker)
    with ExitStack() as stack:
        for connection in [stack.enter_context(connected(launched)) for _ in range(MANY)]:
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        wait_for(lambda: accepting(worker) == few + ACCEPTS_PER_TURN - 1, "it has its listener more often")
    wait_for(lambda: accepting(worker) == few, "it has it as often as before")
    with connected(launched) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert 0 == launched.stop()
        assert read_to_end(connection) == b""


def accepting(worker: int) -> int:
    """How many descriptors of its listener a worker has: of no other socket it has more than one."""
    links = []
    for fd in os.listdir(f"/proc/{worker}/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{worker}/fd/{fd}"))
    return max(links.count(link) for link in links if link.startswith("socket:"))


@pytest.mark.parametrize("path", ["/slow/400", "/functions/begun/slow/400"])
def test_the_keepalive_time_counts_from_the_last_answer(serve: Callable[..., Launched], path: str) -> None:
    with connected(serve("--keepalive-s", "1")) as connection:
        started = time.monotonic()
        for _ in range(3):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert read_to_end(connection) == b""
        assert time.monotonic() - started > 2.0
