"""Calls on the connections of a real gunicorn: they are answered without ASGI's ways, and must show it in nothing."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable

import pytest

from tests.process.launched import Launched, wait_for
from tests.process.test_connections import connected, read_to_end


@pytest.fixture
def serve(launch: Callable[..., Launched]) -> Callable[..., Launched]:
    def start(*options: str) -> Launched:
        launched = launch("--api-workers", "1", *options)
        launched.await_whole(api_workers=1)
        return launched

    return start


def ask(method: str, what: str, *fields: str, body: str = "", version: str = "1.1") -> bytes:
    head = [f"{method} /functions/{what} HTTP/{version}", "Host: x", *fields]
    return "\r\n".join([*head, "", body]).encode()


def read_answer(connection: socket.socket, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
    """One answer of a kept connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1 << 16)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while not bodiless and len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(1 << 16)
    return int(status.split()[1]), headers, body


@pytest.mark.parametrize("way", ["", "begun/"])
def test_one_connection_carries_calls_and_everything_else(serve: Callable[..., Launched], way: str) -> None:
    with connected(serve()) as connection:
        connection.sendall(ask("POST", "echo?a=b", "Content-Length: 5", body="hello"))
        status, headers, body = read_answer(connection)
        assert (200, b"hello", "POST", "a=b", "1.1", "127.0.0.1", "False") == (
            status,
            body,
            *(headers[f"x-{name}"] for name in ("method", "query", "version", "client", "calls-only")),
        )
        assert {"server", "date"} <= headers.keys()
        connection.sendall(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"1000" == read_answer(connection)[2]
        connection.sendall(ask("POST", "echo", "Transfer-Encoding: chunked", body="3\r\nabc\r\n0\r\n\r\n"))
        assert b"abc" == read_answer(connection)[2]
        connection.sendall(ask("HEAD", f"{way}large/9"))
        assert "9" == read_answer(connection, bodiless=True)[1]["content-length"]
        connection.sendall(ask("GET", f"{way}status/204"))
        status, headers, _ = read_answer(connection)
        assert (204, False, False) == (status, "content-length" in headers, "transfer-encoding" in headers)
        connection.sendall(ask("GET", f"{way}large/3000000"))
        assert 3_000_000 == len(read_answer(connection)[2])
        connection.sendall(ask("POST", "echo", "Content-Length: 2", "Expect: 100-continue"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(b"ok")
        assert b"ok" == read_answer(connection)[2]
        two = ask("GET", f"{way}slow/20") + ask("GET", "status/201") + ask("GET", f"{way}status/202")
        connection.sendall(two + ask("GET", f"{way}slow/20") + ask("GET", f"{way}status/404", "Connection: close"))
        answers = read_to_end(connection)
        assert [b"200", b"201", b"202", b"200", b"404"] == [part.split()[0] for part in answers.split(b"HTTP/1.1 ")[1:]]
        assert 1 == answers.count(b"Connection: close")


@pytest.mark.parametrize("way", ["", "begun/"])
def test_an_answer_that_says_close_is_the_last(serve: Callable[..., Launched], way: str) -> None:
    with connected(serve()) as connection:
        connection.sendall(ask("GET", f"{way}close"))
        answer = read_to_end(connection)
        assert (True, 1) == (answer.startswith(b"HTTP/1.1 400"), answer.lower().count(b"connection: close"))


def test_a_client_that_was_gone_before_it_was_accepted_is_no_error(serve: Callable[..., Launched]) -> None:
    launched = serve()
    [worker] = launched.pids("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        for way in ("", "begun/"):
            with connected(launched) as gone:
                gone.sendall(ask("GET", f"{way}status/200"))
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
    finally:
        os.kill(worker, signal.SIGCONT)
    with connected(launched) as connection:
        connection.sendall(ask("GET", "status/200"))
        assert 200 == read_answer(connection)[0]
    assert "Traceback" not in launched.text(), launched.text()


def test_an_old_client_is_closed_on(serve: Callable[..., Launched]) -> None:
    launched = serve()
    for way in ("", "begun/"):
        with connected(launched) as connection:
            connection.sendall(ask("GET", f"{way}status/200", version="1.0"))
            assert b"x-version: 1.0" in read_to_end(connection)


def test_a_kept_connection_of_calls_has_the_times_of_every_other(serve: Callable[..., Launched]) -> None:
    launched = serve("--head-timeout-s", "0.3", "--keepalive-s", "1")
    with connected(launched) as connection:
        connection.sendall(ask("GET", "begun/slow/1500"))  # longer than either
        assert 200 == read_answer(connection)[0]
        assert b"" == read_to_end(connection)
    with connected(launched) as connection:
        connection.sendall(ask("GET", "begun/status/200"))
        assert 200 == read_answer(connection)[0]
        connection.sendall(b"GET /functions/begun/x HTTP/1.1\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 408")


def test_a_call_under_way_is_finished_before_the_worker_ends(serve: Callable[..., Launched]) -> None:
    launched = serve("--drain-s", "10")
    with connected(launched) as idle, connected(launched) as connection:
        idle.sendall(ask("GET", "begun/status/200"))
        assert 200 == read_answer(idle)[0]
        connection.sendall(ask("GET", "begun/slow/400"))
        launched.process.send_signal(signal.SIGTERM)
        status, headers, _ = read_answer(connection)
        assert (200, "close") == (status, headers["connection"].lower())
        assert b"" == read_to_end(connection)
    assert 0 == launched.process.wait(20)


def test_a_busy_connection_of_calls_makes_no_room_for_a_new_one(serve: Callable[..., Launched]) -> None:
    launched = serve("--max-connections", "1")
    with connected(launched) as busy:
        busy.sendall(ask("GET", "begun/status/200"))
        assert 200 == read_answer(busy)[0]
        busy.sendall(ask("GET", "begun/slow/1000"))
        with connected(launched) as new:
            new.sendall(ask("GET", "begun/status/200"))
            assert 429 == read_answer(new)[0]
        assert 200 == read_answer(busy)[0]
        with connected(launched) as new:  # idle now, it makes room
            new.sendall(ask("GET", "begun/status/200"))
            assert 200 == read_answer(new)[0]
        assert b"" == read_to_end(busy)


def test_a_call_that_is_answered_before_its_body_came_ends_the_connection(serve: Callable[..., Launched]) -> None:
    with connected(serve()) as connection:
        size = 4 << 20
        connection.sendall(ask("POST", "early", f"Content-Length: {size}"))
        connection.sendall(b"b" * size)
        assert read_to_end(connection).endswith(b"too large")


@pytest.mark.parametrize("path", ["functions/status/404", "early"])
def test_an_answer_that_comes_before_the_body_says_that_it_is_the_last(
    serve: Callable[..., Launched], path: str
) -> None:
    """Or the client would send its next request to where nobody reads."""
    launched = serve()
    request = f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n".encode()
    with connected(launched) as connection:
        connection.sendall(request)
        assert "close" == read_answer(connection)[1].get("connection")
        assert b"" == read_to_end(connection)
    with connected(launched) as connection:
        connection.sendall(request + b"whole")
        assert "connection" not in read_answer(connection)[1]
        connection.sendall(ask("GET", "status/200"))
        assert 200 == read_answer(connection)[0]


def test_a_client_that_is_gone_is_no_error(serve: Callable[..., Launched]) -> None:
    launched = serve()
    with connected(launched) as connection:
        connection.sendall(ask("GET", "gone"))
        assert b"" == read_to_end(connection)
    for way in ("", "begun/"):
        with connected(launched) as connection:
            connection.sendall(ask("GET", f"{way}slow/100"))
    with connected(launched) as connection:
        connection.sendall(ask("GET", "slow/150"))
        assert 200 == read_answer(connection)[0]
    assert "error" not in launched.text()


@pytest.mark.parametrize("way", ["", "begun/"])
def test_a_client_that_takes_nothing_of_its_answer_is_cut(serve: Callable[..., Launched], way: str) -> None:
    launched = serve("--write-timeout-s", "0.5")
    with connected(launched) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(ask("GET", f"{way}large/64000000"))

        def is_cut() -> bool:
            try:
                connection.send(b"x")
            except OSError:
                return True
            return False

        wait_for(is_cut, "it is cut")


def test_a_second_listener_is_for_calls(serve: Callable[..., Launched]) -> None:
    launched = serve("--calls-bind", "127.0.0.1:0")
    url = (launched.data_dir / "run" / "url").read_text().split()[1]
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(ask("GET", "status/200"))
        assert "True" == read_answer(connection)[1]["x-calls-only"]
