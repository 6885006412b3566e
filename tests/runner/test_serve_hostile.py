"""Askers that are slow, stopped, gone or broken; nonsense instead of SERVE; and a guest that has escaped."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import I32
from runner.protocol.call import CALL_HEAD, RETIRE_BYTES
from runner.protocol.control import ABI_EXPORT, Serve, encode_serve, encode_stop
from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE
from runner.protocol.status import READY
from tests.e2e.harness import wait_for
from tests.runner.call_guests import DEEDS, ECHO, LOG, LOOP, NUMBERS, ZERO, handler
from tests.runner.call_host import Service, hear, read_all, request
from tests.runner.zygote_host import MIB, ZygoteHost

PATIENCE_MS = 300  # as serving_zygote has it

Start = Callable[..., ZygoteHost]
Deploy = Callable[..., Service]
Artifact = Callable[..., int]


@pytest.fixture
def host(start_zygote: Start) -> ZygoteHost:
    return start_zygote(f"max_call_bytes={MIB}", module="serving_zygote")


@pytest.fixture
def deploy(host: ZygoteHost, artifact: Artifact, tmp_path: Path) -> Iterator[Deploy]:
    with ExitStack() as stack:

        def start(guest: str, **options: Any) -> Service:
            service = stack.enter_context(Service(host, artifact(guest), tmp_path / f"{len(host.runs)}.sock"))
            return service.serve(**options).ready()

        yield start


# -- requests --------------------------------------------------------------------------------------------------------

WHOLE = request(b"body", b"A=1", b"B=2")
HEAD = list(CALL_HEAD.unpack_from(WHOLE))


def altered(**changed: int) -> bytes:
    """WHOLE with fields of its head changed."""
    names = ("magic", "version", "kind", "whole", "flags", "fuel", "wall_ms", "sent_us", "count", "block")
    fields = [changed.get(name, field) for name, field in zip(names, HEAD, strict=True)]
    return CALL_HEAD.pack(*fields) + WHOLE[CALL_HEAD.size :]


BROKEN = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
    "another version": altered(version=2),
    "another kind": altered(kind=9),
    "shorter than a head": altered(whole=CALL_HEAD.size - 1),
    "half a head": WHOLE[:20],
    "half a body": WHOLE[:-2],
    "more than it says": WHOLE + b"x",
    "two calls": WHOLE + WHOLE,
    "far too long": altered(whole=2**32 - 1),
    "a little too long": altered(whole=MIB + 1),
    "too many variables": altered(count=3),
    "variables past its end": altered(block=1000),
    "variables that don't end": altered(block=7),
    "no variables with a block": altered(count=0),
    "a block that is huge": altered(block=2**32 - 1),
}


def test_what_is_no_request_is_closed_unanswered_and_the_next_is_served(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    for name, message in BROKEN.items():
        asker = echo.connect()
        asker.sendall(message)
        asker.shutdown(socket.SHUT_WR)
        assert b"" == read_all(asker), name
        assert b"next" == echo.call(b"next").body, name
    assert len(BROKEN) == echo.record()[CALLS]


def test_a_request_may_come_in_parts(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    for body in (b"slow", os.urandom(100_000)):
        message = request(body, b"A=1")
        cuts = [0, 1, 10, CALL_HEAD.size - 1, CALL_HEAD.size, CALL_HEAD.size + 3, len(message) - 1, len(message)]
        asker = echo.connect()
        for start, end in pairwise(cuts):
            asker.sendall(message[start:end])
            time.sleep(0.005)  # so that they come apart; not waited for
        answer = hear(asker)[1]
        assert answer is not None
        assert body == answer.body


def test_a_request_up_to_the_cap_is_served(deploy: Deploy) -> None:
    echo = deploy(ECHO, output_bytes=2 * MIB)
    body = os.urandom(MIB - CALL_HEAD.size)
    assert body == echo.call(body).body


def test_an_asker_that_stops_in_its_request_holds_the_runner_for_a_while_only(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    for part in (WHOLE[:5], WHOLE[:-1]):
        stopped = echo.connect()
        stopped.sendall(part)
        assert b"next" == echo.call(b"next").body
        assert b"" == read_all(stopped)


def test_a_trickle_is_no_way_around_it(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    started = time.monotonic()
    with echo.connect() as slow:
        sent = _trickle(slow, request(bytes(10_000)))
    assert sent < 10_000
    assert PATIENCE_MS / 1000 <= time.monotonic() - started
    assert b"next" == echo.call(b"next").body


def _trickle(slow: socket.socket, message: bytes) -> int:
    """Send byte by byte: how many were taken."""
    for sent, byte in enumerate(message):
        try:
            slow.send(bytes([byte]))
        except OSError:
            return sent
        time.sleep(0.01)  # waits for nothing: it is how a trickle is
    return len(message)


def test_an_asker_that_does_not_read_a_long_answer_holds_the_runner_for_a_while_only(deploy: Deploy) -> None:
    echo = deploy(ECHO, output_bytes=2 * MIB)
    body = os.urandom(900_000)
    stopped = echo.ask(body)
    wait_for(lambda: echo.record()[DEADLINE] - echo.record()[BUSY_SINCE] < 5_000_000, "the answer is stuck")
    assert b"next" == echo.call(b"next").body
    told = read_all(stopped)
    assert 0 < len(told) < len(body)
    assert body == echo.call(body).body


def test_an_asker_that_goes_in_a_long_answer_is_forgotten(deploy: Deploy) -> None:
    echo = deploy(ECHO, output_bytes=2 * MIB)
    asker = echo.ask(bytes(900_000))
    assert b"" != asker.recv(1)
    asker.close()
    assert b"next" == echo.call(b"next").body


def test_one_that_shuts_its_side_down_has_given_up(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    busy = deeds.ask(LOOP, fuel=2**62, wall_ms=50)
    asker = deeds.ask(LOG)
    asker.shutdown(socket.SHUT_RDWR)
    asker.close()
    hear(busy)
    assert b"ok" == deeds.call(ZERO).body
    assert b"" == deeds.log()


def test_a_retirement_counts_though_its_asker_has_gone(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    busy = deeds.ask(LOOP, fuel=2**62, wall_ms=50)
    deeds.retire()
    hear(busy)
    assert (0, True) == deeds.finish()


def test_a_retirement_may_come_in_parts(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    with echo.connect() as asker:
        for byte in RETIRE_BYTES:
            asker.sendall(bytes([byte]))
        assert (0, True) == echo.finish()


def test_an_exports_parameters_have_their_length(host: ZygoteHost, artifact: Artifact, tmp_path: Path) -> None:
    with Service(host, artifact(NUMBERS), tmp_path / "s") as service:
        service.serve_export(b"add", (I32, I32), (I32,)).ready()
        for size in (0, 8, 15, 17, 24):
            assert (0, None) == hear(service.ask(bytes(size)))
        assert [7] == service.export(3, 4)


# -- SERVE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"export": b"nothing"}, "link_failed", id="no such export"),
        pytest.param({"export": b"memory"}, "link_failed", id="no function"),
        pytest.param({"export": b"add", "params": (I32,)}, "link_failed", id="other parameters"),
        pytest.param({"export": b"add", "params": (I32, I32)}, "link_failed", id="other results"),
        pytest.param({"export": b"vector", "results": (4,)}, "link_failed", id="results that are no numbers"),
        pytest.param({"export": b"spin", "record": 1000}, "init_failed", id="no such record"),
    ],
)
def test_what_can_not_be_served_is_told_before_ready(
    start_zygote: Start, artifact: Artifact, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with Service(start_zygote(), artifact(NUMBERS), tmp_path / "s") as service:
        service.serve(ABI_EXPORT, **options)
        assert reason == service.run.outcome().reason
        assert service.finish()[1]
        assert READY not in [kind for kind, _ in service.run.frames]


def test_a_module_without_start_is_no_handler(start_zygote: Start, artifact: Artifact, tmp_path: Path) -> None:
    with Service(start_zygote(), artifact(NUMBERS), tmp_path / "s") as service:
        outcome = service.serve().run.outcome()
        assert ("link_failed", True) == (outcome.reason, "_start" in outcome.detail)


SERVE = encode_serve(Serve(0, fuel=1, memory_bytes=MIB, wall_ms=1, output_bytes=1, record=0))


@pytest.mark.parametrize(
    ("message", "count"),
    [
        pytest.param(SERVE, 0, id="without descriptors"),
        pytest.param(SERVE, 2, id="with two"),
        pytest.param(SERVE[:-1], 3, id="cut short"),
        pytest.param(encode_stop(), 0, id="STOP"),
        pytest.param(SERVE, 3, id="records that are none"),
    ],
)
def test_nonsense_instead_of_serve_is_told(start_zygote: Start, artifact: Artifact, message: bytes, count: int) -> None:
    run = start_zygote().spawn(3)
    run.load(artifact(ECHO))
    run.send(message, [0, 1, 2][:count])
    assert "init_failed" == run.outcome().reason
    assert 0 != run.finish()


def test_a_listener_that_is_none_is_a_crash(start_zygote: Start, artifact: Artifact, tmp_path: Path) -> None:
    with Service(start_zygote(), artifact(ECHO), tmp_path / "s") as service:
        theirs = os.memfd_create("no listener")
        service.run.send(
            encode_serve(Serve(0, fuel=1, memory_bytes=MIB, wall_ms=1, output_bytes=1, record=0)),
            [theirs, service.stderr, service.records],
        )
        os.close(theirs)
        assert (70, False) == service.finish()


# -- guests ----------------------------------------------------------------------------------------------------------


def test_many_buffers_to_stderr_are_no_bomb(deploy: Deploy) -> None:
    """1,024 times the whole memory: no more is touched than the log takes."""
    guest = handler(
        """(local.set $n (i32.const 0))
        (loop $each
          (i32.store (i32.add (i32.const 4096) (i32.mul (local.get $n) (i32.const 8))) (i32.const 0))
          (i32.store (i32.add (i32.const 4100) (i32.mul (local.get $n) (i32.const 8))) (i32.const 131072))
          (br_if $each (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1024))))
        (drop (call $write (i32.const 2) (i32.const 4096) (i32.const 1024) (i32.const 16)))
        (call $say (i32.const 1) (i32.const 16) (i32.const 4))"""
    )
    service = deploy(guest, output_bytes=5000)
    assert struct.pack("<I", 1024 * 131_072) == service.call().body
    assert 5000 == len(service.log())


ESCAPES = (
    'raw("openat", -100, 0, 0)',
    'raw("openat2", -100, 0, 0, 0)',
    'raw("socket", 1, 1, 0)',
    'raw("connect", 7, 0, 0)',
    'raw("bind", 7, 0, 0)',
    'raw("listen", 5, 9)',
    'raw("accept", 5, 0, 0)',
    'raw("accept4", 5, 0, 0, 0)',
    'raw("accept4", 7, 0, 0, 0o2000000)',
    'raw("recvfrom", 3, 0, 0, 0x40)',
    'raw("recvfrom", 7, 0, 0, 0)',
    'raw("recvmsg", 3, 0, 0)',
    'raw("recvmsg", 7, 0, 0)',
    'raw("sendmsg", 7, 0, 0)',
    'raw("sendto", 3, 0, 0, 0x4040, 0, 0)',
    'raw("sendto", 7, 0, 0, 0, 0, 0)',
    'raw("sendto", 7, 0, 0, 0x4040, 4096, 2)',
    'raw("read", 7, 0, 0)',
    'raw("pread64", 7, 0, 0, 0)',
    'raw("write", 3, 0, 0)',
    'raw("write", 5, 0, 0)',
    'raw("write", 7, 0, 0)',
    'raw("close", 5)',
    'raw("close", 6)',
    'raw("close_range", 5, 7, 0)',
    'raw("dup", 7)',
    'raw("fcntl", 7, 0, 0)',
    'raw("ioctl", 7, 0, 0)',
    'raw("ftruncate", 6, 0)',
    'raw("mmap", 0, 4096, 3, 1, 6, 0)',
    'raw("mmap", 0, 4096, 7, 0x22, -1, 0)',
    'raw("mprotect", 0, 0, 4)',
    'raw("getrusage", -1, 0)',
    'raw("setitimer", 1, 0, 0)',
    'raw("kill", 1, 0)',
    'raw("clone", 0x3D0F00, 0, 0, 0, 0)',
    'raw("execve", 0, 0, 0)',
    'raw("prctl", 4, 1, 0, 0, 0)',
)


def test_a_guest_that_has_escaped_can_do_nothing_else(host: ZygoteHost, artifact: Artifact, tmp_path: Path) -> None:
    for number, escape in enumerate(ESCAPES):
        with Service(host, artifact(ECHO), tmp_path / str(number)) as service:
            service.serve().ready()
            asker = service.ask(b"", b"PLAY=" + escape.encode())
            assert (0, None) == hear(asker), escape
            assert (-signal.SIGSYS, False) == service.finish(), escape


def test_its_one_descriptor_is_the_calls(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    source = b"""PLAY=
result = [raw("accept4", 5, 0, 0, 0o2000000), raw("memfd_create", 0, 0)]
"""
    waits = [echo.ask(b"", source), echo.ask(b"queued")]
    answers = [hear(asker)[1] for asker in waits]
    assert [b"[-24, -38]", b"queued"] == [answer and answer.body for answer in answers]  # EMFILE, ENOSYS


def test_an_answer_that_a_guest_wrote_itself_is_the_askers_to_judge(deploy: Deploy) -> None:
    """What has escaped can send anything on its own connection, and on no other."""
    echo = deploy(ECHO)
    source = b"PLAY=text = ctypes.create_string_buffer(b'junk'); raw('sendto', 7, ctypes.addressof(text), 4, 0x4040)"
    told = read_all(echo.ask(b"", source))
    assert told.startswith(b"junk")
    assert b"next" == echo.call(b"next").body
