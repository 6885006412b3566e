"""A server with mounts: the engine's own WASI, files for its output, the same promises."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runner.protocol.call import FLAG_CANCEL
from runner.protocol.record import BUSY_SINCE
from tests.e2e.harness import wait_for
from tests.guests.build import guest
from tests.runner.call_guests import COUNT, DEEDS, ECHO, ENVIRONMENT, EXIT, FLOOD, LOG, LOOP, TRAP, ZERO, handler
from tests.runner.call_host import Service, hear
from tests.runner.zygote_host import MIB, RUNNER_UID, ZygoteHost

Deploy = Callable[..., Service]
Artifact = Callable[..., int]
MOUNTS = ((b"v", b"in", False),)
PREOPENS = ((b"/m0", b"/data", False),)

pytestmark = pytest.mark.root


@pytest.fixture
def volume(root_directory: Path) -> Path:
    directory = root_directory.parent / f"{root_directory.name}-volume"
    (directory / "in").mkdir(parents=True)
    for each in (directory, directory / "in"):
        each.chmod(0o755)
        os.chown(each, RUNNER_UID, RUNNER_UID)
    return directory


@pytest.fixture
def deploy(
    start_zygote: Callable[..., ZygoteHost], artifact: Artifact, tmp_path: Path, volume: Path
) -> Iterator[Deploy]:
    host = start_zygote(f"volume=v={volume}")
    with ExitStack() as stack:

        def start(source: str | bytes, **options: Any) -> Service:
            path = tmp_path / f"{len(host.runs)}.sock"
            service = stack.enter_context(Service(host, artifact(source), path, MOUNTS))
            return service.serve(preopens=PREOPENS, **options).ready()

        yield start


def test_each_call_works_on_the_mount_and_finds_what_the_one_before_left(deploy: Deploy, volume: Path) -> None:
    files = deploy(guest("files"), args=(b"files", b"/data"))
    for _ in range(3):
        answer = files.call()
        assert ("exit", 0) == (answer.reason, answer.exit_code), answer.detail
        assert answer.body.startswith(b"create 0\nwrite 0\n")
    assert [] == list((volume / "in").iterdir())
    files.retire()
    assert (0, True) == files.finish()


def test_nothing_of_one_call_is_there_in_the_next(deploy: Deploy) -> None:
    """Its output, which is the same file; what it left unread; its global and its memory."""
    echo = deploy(ECHO)
    assert [b"a long body", b"b", b"", b"c"] == [echo.call(body).body for body in (b"a long body", b"b", b"", b"c")]
    count = deploy(COUNT)
    assert [b"11a", b"11b", b"11\0"] == [count.call(body).body for body in (b"a unread", b"b", b"")]


def test_each_end_has_its_reason(deploy: Deploy) -> None:
    deeds = deploy(DEEDS, output_bytes=2000)
    for _ in range(2):
        assert (b"ok", "exit", 0) == _told(deeds.call(ZERO))
        assert (b"", "nonzero_exit", 7) == _told(deeds.call(EXIT))
        assert (b"", "output_limit", None) == _told(deeds.call(FLOOD))
        assert (b"", "trap", None) == _told(deeds.call(TRAP))
        assert (b"", "fuel", None) == _told(deeds.call(LOOP, fuel=10_000))
        assert (b"", "deadline", None) == _told(deeds.call(LOOP, fuel=2**62, wall_ms=20))
    assert 131_072 == deeds.call(ZERO).peak_memory_bytes


def _told(answer: Any) -> tuple[bytes, str, int | None]:
    return answer.body, answer.reason, answer.exit_code


def test_a_flood_is_interrupted_long_before_its_deadline(deploy: Deploy) -> None:
    flood = deploy(guest("flood"), args=(b"flood", b"1"), output_bytes=100_000, fuel=2**40)
    assert (b"", "output_limit", None) == _told(flood.call(fuel=2**40))


def test_the_log_takes_what_it_has_room_for(deploy: Deploy) -> None:
    deeds = deploy(DEEDS, output_bytes=150_000)
    for size in (100_000, 150_000, 150_000):
        assert (b"ok", "exit", 0) == _told(deeds.call(LOG))
        assert size == len(deeds.log())


def test_variables_of_any_bytes_are_text_for_it(deploy: Deploy) -> None:
    environment = deploy(ENVIRONMENT, env=(b"OWN=1",), args=(b"me", b"--x"))
    answer = environment.call(b"", b"A=1", b"HTTP_X=\xff\xe9", "B=\u00e9".encode())
    assert "OWN=1\0A=1\0HTTP_X=\u00ff\u00e9\0B=\u00e9\0me\0--x\0\0".encode() == answer.body


def test_an_instance_is_kept_where_the_service_says_so(deploy: Deploy) -> None:
    count = deploy(COUNT, reuse_calls=3, reuse_memory_bytes=64 * MIB)
    assert [b"11a", b"22b", b"33b", b"11c"] == [count.call(body).body for body in (b"a unread", b"b", b"", b"c")]


def test_an_instance_whose_call_wrote_too_much_is_not_kept(deploy: Deploy) -> None:
    """No write was refused, and the guest returned: it is told at its end."""
    flood = handler("""(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store8 (i32.const 1024) (i32.add (i32.const 48) (global.get $calls)))
        (drop (call $hear (i32.const 2000) (i32.const 1)))
        (call $say (i32.const 1) (i32.const 1024) (i32.mul (i32.load8_u (i32.const 2000)) (i32.const 100)))""")
    service = deploy(flood, output_bytes=1000, reuse_calls=100, reuse_memory_bytes=64 * MIB)
    answers = [service.call(bytes([size])) for size in (1, 1, 11, 1)]
    assert [b"1", b"2", b"", b"1"] == [answer.body[:1] for answer in answers]
    assert "output_limit" == answers[2].reason


def test_its_memory_has_room_for_all_copies_of_a_request(
    start_zygote: Callable[..., ZygoteHost], artifact: Artifact, tmp_path: Path, volume: Path
) -> None:
    limits = []
    for size in (16 * MIB, 80 * MIB):
        host = start_zygote(f"volume=v={volume}", f"max_call_bytes={size}")
        with Service(host, artifact(ECHO), tmp_path / str(size), MOUNTS) as service:
            service.serve(preopens=PREOPENS).ready()
            text = Path(f"/proc/{service.run.pid}/limits").read_text()
            limits.append(int(text.partition("Max data size")[2].split()[0]))
            assert (b"hello", "exit", 0) == _told(service.call(b"hello"))
    assert 3 * 64 * MIB <= limits[1] - limits[0] + MIB


def test_a_call_is_cancelled_when_its_asker_goes(deploy: Deploy) -> None:
    deeds = deploy(DEEDS, wall_ms=30_000)
    asker = deeds.ask(LOOP, fuel=2**62, wall_ms=30_000, flags=FLAG_CANCEL)
    wait_for(lambda: deeds.record()[BUSY_SINCE], "the call runs")
    asker.close()
    assert b"ok" == deeds.call(ZERO).body


def test_a_listener_that_is_shut_serves_what_is_queued_first(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    askers = [deeds.ask(LOOP, fuel=2**62, wall_ms=50), *[deeds.ask(ZERO) for _ in range(5)]]
    deeds.shut()
    answers = [hear(asker)[1] for asker in askers]
    assert ["deadline"] + ["exit"] * 5 == [answer.reason for answer in answers if answer]
    assert (0, True) == deeds.finish()


def test_a_mount_that_is_not_there_ends_it_before_ready(
    start_zygote: Callable[..., ZygoteHost], artifact: Artifact, tmp_path: Path, volume: Path
) -> None:
    host = start_zygote(f"volume=v={volume}")
    with Service(host, artifact(ECHO), tmp_path / "s", ((b"v", b"nowhere", False),)) as service:
        assert "init_failed" == service.run.outcome().reason
        service.finish()
