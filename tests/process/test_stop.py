"""The orderly end, the hurried one, and SIGHUP."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.launched import CGROUP_LIMITS, NOBODY, Launched, cgroup_tree, wait_for


class Asked(threading.Thread):
    """One request in flight; `answer` is what came of it."""

    def __init__(self, launched: Launched, path: str) -> None:
        super().__init__()
        self.launched = launched
        self.path = path
        self.answer: tuple[int, bytes] | str = "none yet"
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.launched.get(self.path, 30)
        except (OSError, http.client.HTTPException) as exc:
            self.answer = type(exc).__name__


def connections_of(launched: Launched) -> int:
    """Connections that the API workers hold."""
    held = 0
    for pid in launched.pids("worker"):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                held += os.readlink(entry).startswith("socket:")
            except OSError:
                continue
    return held


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_it_ends_at_once_with_code_0_and_nothing_is_left(launch: Callable[..., Launched], number: int) -> None:
    launched = launch("--drain-s", "60")
    launched.await_whole()
    assert launched.stop(number, within_s=5) == 0
    launched.await_nothing()
    assert sorted(os.listdir(launched.data_dir / "run")) == ["fake.json", "lock", "starts"]


def test_an_idle_connection_does_not_hold_up_the_end(launch: Callable[..., Launched]) -> None:
    launched = launch("--drain-s", "60")
    launched.await_whole()
    with socket.create_connection(("127.0.0.1", launched.port)) as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(4096).startswith(b"HTTP/1.1 200")
        assert launched.stop(within_s=5) == 0


def test_what_is_in_flight_is_answered(launch: Callable[..., Launched]) -> None:
    launched = launch()
    launched.await_whole()
    before = connections_of(launched)
    asked = Asked(launched, "/slow/1000")
    wait_for(lambda: connections_of(launched) > before, "the request is in flight")
    assert launched.stop() == 0
    asked.join()
    assert asked.answer[0] == 200


def test_while_jobs_run_it_serves_and_says_that_it_is_draining(launch: Callable[..., Launched]) -> None:
    launched = launch(FAKE_WORK_S="1")
    launched.await_whole()
    launched.process.send_signal(signal.SIGTERM)
    assert wait_for(lambda: launched.get("/readyz")[0] == 503, "it says that it is draining")
    assert launched.get("/")[0] == 200
    assert launched.process.wait(20) == 0


def test_deregistration_takes_its_time(launch: Callable[..., Launched]) -> None:
    launched = launch("--deregistration-delay-s", "0.8")
    launched.await_whole()
    started = time.monotonic()
    assert launched.stop() == 0
    assert time.monotonic() - started >= 0.8


def test_a_request_that_outlasts_the_budget_is_cut(launch: Callable[..., Launched]) -> None:
    launched = launch("--drain-s", "0.5")
    launched.await_whole()
    before = connections_of(launched)
    asked = Asked(launched, "/slow/60000")
    wait_for(lambda: connections_of(launched) > before, "the request is in flight")
    assert launched.stop() == 0
    asked.join()
    assert asked.answer in ("RemoteDisconnected", "ConnectionResetError")
    launched.await_nothing()


def test_a_coordinator_that_never_drains_is_not_waited_for_beyond_the_budget(launch: Callable[..., Launched]) -> None:
    launched = launch("--drain-s", "0.5", "--stop-grace-ms", "100", FAKE_WORK_S="1000")
    launched.await_whole()
    assert launched.stop(within_s=15) == 0
    launched.await_nothing()


def test_a_second_signal_ends_it_at_once(launch: Callable[..., Launched]) -> None:
    launched = launch(FAKE_WORK_S="1000")
    launched.await_whole()
    launched.process.send_signal(signal.SIGTERM)
    wait_for(lambda: launched.get("/readyz")[0] == 503, "it drains")
    assert launched.stop(signal.SIGTERM, within_s=5) == 1
    launched.await_nothing()


@pytest.mark.parametrize("kind", ["coordinator", "master", "worker"])
def test_what_is_stopped_does_not_hold_up_the_end_beyond_its_heartbeat(
    launch: Callable[..., Launched], kind: str
) -> None:
    launched = launch("--drain-s", "60", "--heartbeat-timeout-ms", "1000")
    launched.await_whole()
    os.kill(launched.pids(kind)[0], signal.SIGSTOP)
    assert launched.stop(within_s=15) == 0
    launched.await_nothing()


def test_sighup_reads_the_file_again_for_both(launch: Callable[..., Launched], scratch: Path) -> None:
    file = scratch / "worker.toml"
    file.write_text("max_connections = 11\n")
    launched = launch("--config", str(file))
    launched.await_whole()
    assert (launched.get("/config"), launched.report()["max_connections"]) == ((200, b"11"), 11)
    file.write_text("max_connections = 22\n")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: launched.get("/config") == (200, b"22"), "the API has the new figure")
    wait_for(lambda: launched.report()["max_connections"] == 22, "the coordinator has the new figure")
    assert launched.stop() == 0


def test_sighup_asks_nothing_of_a_volume_that_stays_and_is_gone(launch: Callable[..., Launched], scratch: Path) -> None:
    volume, file = scratch / "volume", scratch / "worker.toml"
    volume.mkdir()
    file.write_text(f'max_connections = 11\nvolumes = ["v={volume}"]\n')
    launched = launch("--config", str(file))
    launched.await_whole()
    volume.rmdir()
    file.write_text("max_connections = 22\n")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: launched.get("/config") == (200, b"22"), "the API has the new figure")
    assert "--volume can't change while the worker runs" in launched.text()
    assert launched.stop() == 0


def test_sighup_with_a_wrong_file_changes_nothing(launch: Callable[..., Launched], scratch: Path) -> None:
    file = scratch / "worker.toml"
    file.write_text("max_connections = 11\n")
    launched = launch("--config", str(file))
    launched.await_whole()
    before = launched.marked().keys()
    file.write_text("max_connections = -1\n")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP changes nothing" in launched.text(), "it says what is wrong")
    assert "max_connections: '-1' is not right; it must be a whole number from 1 to 100000" in launched.text()
    assert (launched.marked().keys(), launched.get("/config")) == (before, (200, b"11"))


def test_sighup_leaves_what_only_a_restart_can_change_and_says_so(
    launch: Callable[..., Launched], scratch: Path
) -> None:
    """Uids, slots and the cgroup's limits belong together; runners of the uid that parses HTTP could steer it."""
    file = scratch / "worker.toml"
    file.write_text("max_connections = 11\nmax_runners = 3\n")
    cgroups = cgroup_tree(scratch / "cgroup")
    launched = launch("--config", str(file), "--cgroup", str(cgroups))
    launched.await_whole()
    limits = [(cgroups / "runners" / name).read_text() for name in CGROUP_LIMITS]
    before = launched.report()
    others = f'user = "daemon"\nmax_runners = 4\nrunner_uid_first = {NOBODY - 1}\ncgroup = "/elsewhere"\n'
    file.write_text(f"max_connections = 22\n{others}")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: launched.report()["max_connections"] == 22, "the coordinator has the new figure")
    for flag in ("--user", "--max-runners", "--runner-uid-first"):
        assert f"{flag} can't change while the worker runs and stays as it was" in launched.text()
    after = launched.report()
    kept = ("bind", "max_runners", "runner_uid_first")
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}
    assert limits == [(cgroups / "runners" / name).read_text() for name in CGROUP_LIMITS]


def test_sighup_changes_nothing_that_does_not_fit_what_stays(launch: Callable[..., Launched], scratch: Path) -> None:
    """Each file is right by itself."""
    file = scratch / "worker.toml"
    file.write_text("max_connections = 11\nmax_memory_bytes = 67108864\n")
    launched = launch("--config", str(file))
    launched.await_whole()
    file.write_text("max_connections = 22\nmax_memory_bytes = 268435456\ndefault_memory_bytes = 134217728\n")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP changes nothing: --default-memory-bytes" in launched.text(), "it says what is wrong")
    assert launched.get("/config") == (200, b"11")


def test_tokens_are_handed_over_and_read_again(launch: Callable[..., Launched], scratch: Path) -> None:
    file = scratch / "tokens"
    file.touch(mode=0o600)
    file.write_text("sha256:" + "00" * 32 + " read\n")
    launched = launch("--token-file", str(file))
    launched.await_whole()
    assert launched.get("/tokens") == (200, file.read_bytes())
    file.write_text("sha256:" + "11" * 32 + " read\n")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: launched.get("/tokens") == (200, file.read_bytes()), "the API has the new tokens")


def test_a_wrong_token_file_changes_nothing(launch: Callable[..., Launched], scratch: Path) -> None:
    file = scratch / "tokens"
    file.touch(mode=0o600)
    file.write_text("sha256:" + "00" * 32 + " read\n")
    launched = launch("--token-file", str(file))
    launched.await_whole()
    before = launched.get("/tokens")
    file.write_text("no token\n")
    launched.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "SIGHUP changes nothing: --token-file" in launched.text(), "it says what is wrong")
    assert launched.get("/tokens") == before


def test_systemd_is_told(launch: Callable[..., Launched], scratch: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(scratch / "notify"))
        (scratch / "notify").chmod(0o777)
        systemd.settimeout(20)
        launched = launch(NOTIFY_SOCKET=str(scratch / "notify"))
        assert systemd.recv(1000).decode().split("\n") == ["READY=1", f"MAINPID={launched.process.pid}"]
        assert launched.serves()
        assert launched.stop() == 0
        assert systemd.recv(1000) == b"STOPPING=1"


def test_what_got_ready_is_heard_before_a_signal_ends_it(launch: Callable[..., Launched]) -> None:
    """A signal that comes while everything starts is obeyed too."""
    launched = launch()
    wait_for(lambda: launched.pids("master"), "gunicorn starts")
    assert launched.stop(within_s=10) == 0
    launched.await_nothing()
