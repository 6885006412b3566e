"""The trial of an instance that a service's first runner makes before it is ready."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import I32
from runner.protocol.control import FLAG_TRY_INSTANCE
from runner.protocol.record import BUSY_SINCE, CALLS
from runner.protocol.status import READY
from tests.runner.call_guests import COUNT, ECHO, handler
from tests.runner.call_host import Service
from tests.runner.zygote_host import MIB, RUNNER_UID, ZygoteHost

MOUNTS, PREOPENS = ((b"v", b".", False),), ((b"/m0", b"/data", False),)

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]
Deploy = Callable[..., Service]


def starting(body: str) -> str:
    """A handler whose start function has `body`."""
    return handler("(call $say (i32.const 1) (i32.const 2048) (i32.const 2))", f"(start $s) (func $s {body})")


SAYS_MORE_THAN_IT_MAY = starting("(call $say (i32.const 1) (i32.const 2048) (i32.const 4096))")
SLEEPS = starting("""(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 3600000000000))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))""")
EXITS_WELL = starting("(call $exit (i32.const 0))")
LOGS = starting("(call $say (i32.const 2) (i32.const 2048) (i32.const 10))")

# guest, SERVE's fields, reason, trap code, exit code
FAILURES: dict[str, tuple[str, dict[str, Any], str, str | None, int | None]] = {
    "a trap": (starting("unreachable"), {}, "trap", "unreachable_code_reached", None),
    "fuel": (starting("(loop $l (br $l))"), {"fuel": 100_000}, "fuel", None, None),
    "its deadline": (starting("(loop $l (br $l))"), {"fuel": 2**62, "wall_ms": 20}, "deadline", None, None),
    "an exit": (starting("(call $exit (i32.const 3))"), {}, "nonzero_exit", None, 3),
    "its output": (SAYS_MORE_THAN_IT_MAY, {"output_bytes": 2000}, "output_limit", None, None),
    "more memory than it may have": (ECHO, {"memory_bytes": 65_536}, "init_failed", None, None),
}


@pytest.fixture
def deploy(start_zygote: Start, artifact: Artifact, tmp_path: Path, root_directory: Path) -> Deploy:
    """`deploy(guest, mounts=(), **SERVE's fields)`: one that tries an instance and may not be ready yet."""
    volume = root_directory.parent / f"{root_directory.name}-volume"
    volume.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(volume, RUNNER_UID, RUNNER_UID)
    host = start_zygote(f"volume=v={volume}")

    def start(guest: str, mounts: tuple[tuple[bytes, bytes, bool], ...] = (), **options: Any) -> Service:
        path = tmp_path / f"{len(host.runs)}.sock"
        service = Service(host, artifact(guest), path, mounts, FLAG_TRY_INSTANCE)
        if "export" in options:
            return service.serve_export(options.pop("export"), **options)
        return service.serve(preopens=PREOPENS if mounts else (), **options)

    return start


@pytest.mark.parametrize("mounts", [(), pytest.param(MOUNTS, marks=pytest.mark.root, id="mounts")])
@pytest.mark.parametrize(("guest", "options", "reason", "trap", "code"), FAILURES.values(), ids=list(FAILURES))
def test_an_instance_that_can_not_be_made_is_told_instead_of_ready(
    deploy: Deploy,
    mounts: tuple[tuple[bytes, bytes, bool], ...],
    guest: str,
    options: dict[str, Any],
    reason: str,
    trap: str | None,
    code: int | None,
) -> None:
    with deploy(guest, mounts, **options) as service:
        outcome = service.run.outcome()
        assert (0, reason, trap, code) == (outcome.job_id, outcome.reason, outcome.trap_code, outcome.exit_code)
        assert outcome.detail or code
        assert (0, True) == service.finish()
        assert READY not in [kind for kind, _ in service.run.frames]


@pytest.mark.parametrize("mounts", [(), pytest.param(MOUNTS, marks=pytest.mark.root, id="mounts")])
def test_a_start_function_that_blocks_in_the_host_dies_by_its_alarm(
    deploy: Deploy, mounts: tuple[tuple[bytes, bytes, bool], ...]
) -> None:
    with deploy(SLEEPS, mounts, wall_ms=50) as service:
        assert (-signal.SIGALRM, False) == service.finish()


def test_a_reactor_is_initialized_for_it(deploy: Deploy) -> None:
    guest = '(module (func (export "_initialize") unreachable) (func (export "get") (result i32) (i32.const 1)))'
    with deploy(guest, export=b"get", params=(), results=(I32,)) as service:
        assert "trap" == service.run.outcome().reason
        assert (0, True) == service.finish()


@pytest.mark.parametrize("mounts", [(), pytest.param(MOUNTS, marks=pytest.mark.root, id="mounts")])
def test_nothing_of_it_is_there_in_the_first_call(
    deploy: Deploy, mounts: tuple[tuple[bytes, bytes, bool], ...]
) -> None:
    """No instance, though one is kept between calls; and it is no call, neither in the record nor for the recycling."""
    with deploy(COUNT, mounts, reuse_calls=3, reuse_memory_bytes=64 * MIB, recycle_calls=4) as service:
        service.ready()
        assert [0, 0] == [service.record()[word] for word in (BUSY_SINCE, CALLS)]
        assert [b"11a", b"22b", b"33c"] == [service.call(body).body for body in (b"a", b"b", b"c")]
        assert b"11a" == service.call(b"a").body
        assert (0, True) == service.finish()


@pytest.mark.parametrize("mounts", [(), pytest.param(MOUNTS, marks=pytest.mark.root, id="mounts")])
def test_a_start_function_that_exits_well_or_logs_is_no_failure(
    deploy: Deploy, mounts: tuple[tuple[bytes, bytes, bool], ...]
) -> None:
    with deploy(EXITS_WELL, mounts) as service:
        assert b"" == service.ready().call().body
    with deploy(LOGS, mounts) as service:
        assert 10 == len(service.ready().log())
        assert bytes(2) == service.call().body
        assert 20 == len(service.log())


def test_its_time_and_its_fuel_are_no_calls(deploy: Deploy) -> None:
    """The alarm is off again, and a call has fuel and deadline of its own."""
    with deploy(handler("(loop $l (br $l))"), wall_ms=100, fuel=2**62) as service:
        service.ready()
        for _ in range(3):
            assert "deadline" == service.call(fuel=2**62, wall_ms=400).reason
