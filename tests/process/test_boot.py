"""What can't start says why, ends with its exit code, and leaves nothing; what fails later does not loop."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.launched import CGROUP_LIMITS, NOBODY, Launched, cgroup_tree, wait_for
from worker import capabilities
from worker.errors import ExitCode


def test_a_coordinator_that_always_fails_ends_in_the_circuit_breaker(launch: Callable[..., Launched]) -> None:
    launched = launch(FAKE_FAIL="boot")
    assert launched.process.wait(20) == ExitCode.NEVER_READY
    expected = "coordinator was started 5 times and never got ready; the last time: exit code 7"
    assert launched.text().splitlines()[-1] == expected
    assert len((launched.data_dir / "run" / "starts").read_text().split()) == 5
    launched.await_nothing()


def test_a_coordinator_that_never_beats_is_killed_and_tried_again(launch: Callable[..., Launched]) -> None:
    launched = launch("--start-timeout-ms", "1000", FAKE_FAIL="mute")
    wait_for(lambda: launched.text().count("coordinator is killed: no first heartbeat") == 2, "it was killed twice")
    assert launched.stop(within_s=10) == 0


def test_an_application_that_does_not_start_ends_in_the_circuit_breaker(launch: Callable[..., Launched]) -> None:
    launched = launch("--api-workers", "1", STUB_FAIL="create")
    assert launched.process.wait(30) == ExitCode.NEVER_READY
    assert "gunicorn was started 5 times and never got ready; the last time: exit code 3" in launched.text()
    assert "this application is made to fail" in launched.text()
    launched.await_nothing()


def test_one_that_fails_at_its_startup_fails_the_same(launch: Callable[..., Launched]) -> None:
    """The first of what the circuit breaker counts."""
    launched = launch("--api-workers", "1", STUB_FAIL="startup")
    wait_for(lambda: "gunicorn ended: exit code 3" in launched.text(), "gunicorn gives up")
    assert "this application is made to fail at startup" in launched.text()
    wait_for(lambda: launched.text().count("gunicorn started") == 2, "it is started again")


def test_workers_that_stop_booting_do_not_loop(launch: Callable[..., Launched]) -> None:
    """The application breaks while it runs: a worker's successors die, the master gives up, then the launcher."""
    launched = launch("--api-workers", "1")
    launched.await_whole(api_workers=1)
    (launched.data_dir / "run" / "broken").touch()
    os.kill(launched.pids("worker")[0], signal.SIGKILL)
    assert launched.process.wait(30) == ExitCode.NEVER_READY
    launched.await_nothing()


def test_a_reload_that_does_not_boot_keeps_the_workers_from_before(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    before = launched.pids("worker")
    (launched.data_dir / "run" / "broken").touch()
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the reload failed" in launched.text(), "the reload is given up")
    wait_for(lambda: launched.pids("worker") == before, "the old workers alone are there")
    assert launched.serves()
    (launched.data_dir / "run" / "broken").unlink()
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not set(before) & set(launched.pids("worker")), "the next reload succeeds")
    launched.await_whole()
    assert launched.stop() == 0


def test_an_address_in_use_is_told(launch: Callable[..., Launched]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launched = launch("--bind", f"127.0.0.1:{port}")
        assert launched.process.wait(20) == ExitCode.CANT_BIND
    expected = f"127.0.0.1:{port} can't be listened on: Address already in use; free it, or choose another --bind"
    assert launched.text().splitlines()[-1] == expected


def test_two_workers_never_share_a_data_directory(launch: Callable[..., Launched], scratch: Path) -> None:
    first = launch()
    first.await_whole()
    cgroups = cgroup_tree(scratch / "cgroup")
    second = launch("--cgroup", str(cgroups), FAKE_LOCK_PATIENCE_S="0.2")
    assert second.process.wait(20) == ExitCode.LOCKED
    assert f"another worker (pid {first.process.pid}) uses the data directory" in second.text()
    assert first.serves()
    limits = [(cgroups / "runners" / name).read_text() for name in CGROUP_LIMITS]
    assert ["", "", ""] == limits, "what may be the first one's is left alone"


def test_the_next_worker_starts_right_after_the_first_was_killed(launch: Callable[..., Launched]) -> None:
    first = launch()
    first.await_whole()
    first.process.kill()
    first.process.wait()
    second = launch()
    second.await_whole()
    assert second.stop() == 0


def test_a_wrong_option_is_named(launch: Callable[..., Launched]) -> None:
    launched = launch("--max-runners", "0")
    assert launched.process.wait(20) == ExitCode.CONFIG
    assert launched.text() == "--max-runners: '0' is not right; it must be a whole number from 1 to 4096\n"


def test_a_token_file_that_others_can_read_is_refused(launch: Callable[..., Launched], scratch: Path) -> None:
    (scratch / "tokens").touch(mode=0o644)
    launched = launch("--token-file", str(scratch / "tokens"))
    assert launched.process.wait(20) == ExitCode.CONFIG
    assert "it must be a regular file with mode 0600, which nobody else can read" in launched.text()


def test_a_data_directory_is_private(launch: Callable[..., Launched], scratch: Path) -> None:
    (scratch / "data").mkdir(mode=0o755)
    launched = launch()
    launched.await_whole()
    assert [(scratch / name).stat().st_mode & 0o777 for name in ("data", "data/run")] == [0o700, 0o700]
    assert (scratch / "data/run/commands.sock").stat().st_mode & 0o777 == 0o600


def test_the_listener_may_come_from_systemd(launch: Callable[..., Launched]) -> None:
    launched = launch("--bind", "127.0.0.1:1", activated=True)
    launched.await_whole()
    told = Path(f"/proc/{launched.process.pid}/environ").read_bytes().partition(b"TOLD_PORT=")[2].partition(b"\0")[0]
    assert launched.port == int(told)
    assert launched.stop() == 0


def test_systemd_must_pass_as_many_listeners_as_are_wanted(launch: Callable[..., Launched]) -> None:
    launched = launch("--calls-bind", "127.0.0.1:0", activated=True)
    assert launched.process.wait(20) == ExitCode.CONFIG
    assert "--calls-bind: '127.0.0.1:0' is not right; it must be passed by systemd too" in launched.text()


def test_a_second_listener_serves_calls_alone(launch: Callable[..., Launched]) -> None:
    launched = launch("--calls-bind", "127.0.0.1:0")
    launched.await_whole()
    assert launched.get("/who")[1].split()[1] == b"False"
    url = (launched.data_dir / "run" / "url").read_text().split()[1]
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as calls:
        calls.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: calls.recv(4096), b""))
    assert answer.endswith(b" True")


@pytest.mark.root
def test_as_root_each_process_has_the_user_and_the_capabilities_that_it_needs(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    report = launched.report()
    read_code, kill = 1 << 2, 1 << 5
    assert (report["uid"], report["effective"] & ~read_code) == (NOBODY, kill)
    had = capabilities.read().permitted  # a container's root has fewer than all
    assert report["permitted"] & ~read_code == capabilities.mask(capabilities.ZYGOTE) & had & ~read_code
    assert launched.get("/who")[1].split()[0] == str(NOBODY).encode()
    for pid in launched.pids("worker"):
        status = Path(f"/proc/{pid}/status").read_text()
        sets = [line.split()[1] for line in status.splitlines() if line.startswith(("CapInh", "CapPrm", "CapEff"))]
        assert (sets, "NoNewPrivs:\t1" in status) == (["0" * 16] * 3, True)
    assert (launched.data_dir.stat().st_uid, launched.data_dir.stat().st_mode & 0o777) == (NOBODY, 0o700)


@pytest.mark.root
def test_root_is_refused_as_the_user_that_parses_http(launch: Callable[..., Launched]) -> None:
    launched = launch("--user", "root")
    assert launched.process.wait(20) == ExitCode.CONFIG
    assert "--user: 'root' is not right; it must be another user than root" in launched.text()


@pytest.mark.root
def test_somebody_elses_data_directory_is_refused(launch: Callable[..., Launched], scratch: Path) -> None:
    (scratch / "data").mkdir()
    os.chown(scratch / "data", 1, 1)
    launched = launch()
    assert launched.process.wait(20) == ExitCode.CANT_CREATE
    assert f"belongs to uid 1 and must belong to uid {NOBODY}: chown it" in launched.text()


@pytest.mark.root
def test_a_data_directory_that_user_cannot_reach_is_refused(launch: Callable[..., Launched], scratch: Path) -> None:
    scratch.chmod(0o750)
    launched = launch()
    assert launched.process.wait(20) == ExitCode.CANT_CREATE
    assert f"uid {NOBODY} of --user can't enter {scratch}, and so not the data directory" in launched.text()


def test_the_children_get_no_more_than_they_need(launch: Callable[..., Launched]) -> None:
    launched = launch(GALAGO_MAX_CONNECTIONS="7", SECRET="of the launcher's")
    launched.await_whole()
    report = launched.report()
    assert report["fds"] == ["beat", "commands", "config", "lock", "page"]
    assert set(report["env"]) <= {"FAKE_MARK", "FAKE_TESTER", "LANG", "PATH", "PYTHONPATH", "LC_CTYPE"}
    assert report["max_connections"] == 7
