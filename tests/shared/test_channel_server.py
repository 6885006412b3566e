"""The server: nobody who misbehaves on his connection costs another."""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.core.commands import Done, ReadStats, Refused, StopTask
from worker.shared.channel import MAX_MESSAGE_BYTES, Request, Server, listen
from worker.shared.channel_codec import decode_reply, encode

DEADLINE_S = 10.0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    made = listen(tmp_path / "commands.sock")
    yield made
    made.close()


@pytest.fixture
def make_server(listener: socket.socket) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**options: int) -> Server:
        made.append(Server(listener, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def make() -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(DEADLINE_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)
        client.connect(listener.getsockname())
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def _receive(server: Server, count: int) -> list[Request]:
    """Exactly `count` requests, before the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    requests: list[Request] = []
    while len(requests) < count and time.monotonic() < deadline:
        select.select([server], [], [], 0.1)
        requests += server.receive()
    assert count == len(requests)
    return requests


def _turn_until(server: Server, done: Callable[[], bool]) -> list[Request]:
    deadline = time.monotonic() + DEADLINE_S
    requests: list[Request] = []
    while not done():
        assert time.monotonic() < deadline
        select.select([server], [], [], 0.01)
        requests += server.receive()
    return requests


def test_a_request_is_answered_on_its_own_connection(make_server, connect) -> None:
    server, one, other = make_server(), connect(), connect()
    one.send(encode(7, StopTask("a")))
    other.send(encode(7, StopTask("b")))
    for request in _receive(server, 2):
        server.send(request.connection, request.request_id, Done(task_id=request.command.task_id))
    assert (7, Done(task_id="a")) == decode_reply(one.recv(1000))
    assert (7, Done(task_id="b")) == decode_reply(other.recv(1000))


def test_the_server_is_readable_only_while_there_is_something_to_do(make_server, connect) -> None:
    server = make_server()
    assert [] == select.select([server], [], [], 0)[0]
    client = connect()
    client.send(encode(1, ReadStats()))
    assert [server] == select.select([server], [], [], DEADLINE_S)[0]
    _receive(server, 1)
    assert [] == select.select([server], [], [], 0)[0]


def test_a_listener_that_blocks_does_not_block_the_server(listener, make_server, connect) -> None:
    listener.setblocking(True)
    server = make_server()
    connect()
    _turn_until(server, lambda: len(server) == 1)


def test_the_longest_message_passes_both_ways(make_server, connect) -> None:
    server, client = make_server(), connect()
    client.send(encode(1, StopTask("x" * (MAX_MESSAGE_BYTES - 100))))
    request = _receive(server, 1)[0]
    assert MAX_MESSAGE_BYTES - 100 == len(request.command.task_id)
    server.send(request.connection, 1, Done(body=b"y" * (MAX_MESSAGE_BYTES - 100)))
    assert MAX_MESSAGE_BYTES - 100 == len(decode_reply(client.recv(MAX_MESSAGE_BYTES))[1].body)


def test_an_answer_that_is_too_long_becomes_a_refusal(make_server, connect) -> None:
    server, client = make_server(), connect()
    client.send(encode(1, ReadStats()))
    request = _receive(server, 1)[0]
    server.send(request.connection, 1, Done(body=b"y" * MAX_MESSAGE_BYTES))
    request_id, reply = decode_reply(client.recv(1000))
    assert (1, Refused, "internal") == (request_id, type(reply), reply.code)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"garbage", encode(1, Done()), b"x" * (MAX_MESSAGE_BYTES + 1)],
    ids=["empty", "bytes", "reply", "long"],
)
def test_garbage_ends_its_connection_and_no_other(make_server, connect, garbage: bytes) -> None:
    server, bad, good = make_server(), connect(), connect()
    good.send(encode(1, ReadStats()))
    bad.send(garbage)
    request = _receive(server, 1)[0]
    _turn_until(server, lambda: len(server) == 1)
    assert b"" == bad.recv(10)
    server.send(request.connection, 1, Done())
    assert (1, Done()) == decode_reply(good.recv(1000))


def test_a_connection_that_ends_is_forgotten_and_answering_it_is_nothing(make_server, connect) -> None:
    server, client = make_server(), connect()
    client.send(encode(1, ReadStats()))
    request = _receive(server, 1)[0]
    client.close()
    _turn_until(server, lambda: len(server) == 0)
    assert request.connection.closed
    server.send(request.connection, 1, Done())


def test_answering_who_has_just_gone_forgets_him(make_server, connect) -> None:
    server, client = make_server(), connect()
    client.send(encode(1, ReadStats()))
    request = _receive(server, 1)[0]
    client.close()
    server.send(request.connection, 1, Done())
    assert (True, 0) == (request.connection.closed, len(server))


def test_a_path_that_is_taken_is_not_listened_on_twice(listener) -> None:
    with pytest.raises(OSError, match="in use"):
        listen(listener.getsockname())


def test_what_was_sent_before_the_connection_ended_is_read(make_server, connect) -> None:
    server, client = make_server(), connect()
    client.send(encode(1, ReadStats()))
    client.close()
    _receive(server, 1)
    _turn_until(server, lambda: len(server) == 0)


def test_a_client_that_does_not_read_is_dropped_and_no_other_waits(make_server, connect) -> None:
    server, deaf, good = make_server(max_out_bytes=500_000), connect(), connect()
    for request_id in range(200):
        deaf.send(encode(request_id, ReadStats()))
        request = _receive(server, 1)[0]
        server.send(request.connection, request_id, Done(body=b"x" * 100_000))
        if request.connection.closed:
            break
    assert request.connection.closed
    assert request_id < 20
    good.send(encode(1, ReadStats()))
    request = _receive(server, 1)[0]
    server.send(request.connection, 1, Done())
    assert (1, Done()) == decode_reply(good.recv(1000))


def test_a_slow_reader_gets_everything_in_order(make_server, connect) -> None:
    server, slow = make_server(), connect()
    for request_id in range(20):
        slow.send(encode(request_id, ReadStats()))
    for request in _receive(server, 20):
        server.send(request.connection, request.request_id, Done(body=b"x" * 100_000))
    answered = []
    slow.settimeout(0.05)
    while len(answered) < 20:
        select.select([server], [], [], 0.01)
        server.receive()
        answered.append(decode_reply(slow.recv(200_000))[0])
    assert list(range(20)) == answered


def test_a_connection_has_at_most_so_many_requests_in_flight(make_server, connect) -> None:
    server, greedy, good = make_server(max_in_flight=3), connect(), connect()
    for request_id in range(5):
        greedy.send(encode(request_id, ReadStats()))
    held = _receive(server, 3)
    good.send(encode(9, ReadStats()))
    assert [9] == [request.request_id for request in _receive(server, 1)]
    assert [] == select.select([server], [], [], 0)[0]
    server.send(held[0].connection, held[0].request_id, Done())
    assert [3] == [request.request_id for request in _receive(server, 1)]


def test_a_held_connection_that_ends_does_not_spin_the_server(make_server, connect) -> None:
    server, greedy = make_server(max_in_flight=1), connect()
    greedy.send(encode(1, ReadStats()))
    greedy.send(encode(2, ReadStats()))
    _receive(server, 1)
    greedy.close()
    _turn_until(server, lambda: len(server) == 0)
    assert [] == select.select([server], [], [], 0)[0]


def test_more_connections_than_allowed_are_closed(make_server, connect) -> None:
    server = make_server(max_connections=2)
    clients = [connect() for _ in range(3)]
    _turn_until(server, lambda: len(server) == 2)
    assert b"" == clients[2].recv(10)
    clients[0].close()
    _turn_until(server, lambda: len(server) == 1)


def test_no_descriptor_left_means_later_and_not_a_spinning_loop(make_server, connect) -> None:
    server = make_server()
    client = connect()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
    try:
        assert [] == server.receive()
        poll = select.poll()
        poll.register(server, select.POLLIN)
        assert [] == poll.poll(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    server.receive()
    _turn_until(server, lambda: len(server) == 1)
    client.send(encode(1, ReadStats()))
    _receive(server, 1)
