"""A serving runner gets its artifact, its listener and its record; what it then says is told under its id."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import PROFILE_FILES_SERVER, PROFILE_SERVER
from runner.protocol.control import LOAD, SERVE, decode_serve
from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE, RECORD_BYTES
from tests.shared.samples import make_service, task_id
from worker.coordinator.call_records import CallRecord, CallRecords
from worker.coordinator.calls import Calls
from worker.coordinator.listeners import Listeners
from worker.coordinator.poller import Poller
from worker.coordinator.runners import Birth
from worker.coordinator.servers import Servers
from worker.coordinator.serving import Recycling
from worker.core.clock import Now
from worker.core.task import Mount, Task
from worker.shared.blobs import Blobs

TASK = make_service(1)


class PlayedRunners:
    """Takes births, and hears what each is told."""

    def __init__(self) -> None:
        self.births: list[Birth] = []
        self.failed: list[str] = []
        self.told: list[tuple[bytes, list[os.stat_result]]] = []

    def bear(self, birth: Birth, fds: Callable[[], tuple[int, ...]]) -> None:
        try:
            birth.fds = tuple(os.dup(fd) for fd in fds())
        except OSError as error:
            birth.gone()
            self.failed.append(str(error))
            return
        self.births.append(birth)
        birth.tell(self, birth.fds)  # type: ignore[arg-type]
        birth.let_go()

    def tell(self, message: bytes, fds: list[int]) -> None:
        self.told.append((message, [os.fstat(fd) for fd in fds]))


class PlayedNode:
    """Hears samples."""

    def __init__(self) -> None:
        self.services = self
        self.heard: list[tuple[Any, ...]] = []

    def sampled(self, task_id: str, queued: int, busy: dict[int, int], calls: int, _now: Now) -> None:
        self.heard.append((task_id, queued, busy, calls))


class Stage:
    def __init__(self, path: Path) -> None:
        self.poller = Poller()
        self.directory = path / "calls"
        self.listeners = Listeners(self.directory, self.poller, lambda _: None)
        self.records = CallRecords(4)
        self.blobs = Blobs(path)
        self.blobs.create()
        self.runners = PlayedRunners()
        self.servers = Servers(self.runners, self.listeners, self.records, self.blobs, Recycling())  # type: ignore[arg-type]
        self.node = PlayedNode()
        clock = lambda: Now(0, 0)  # noqa: E731 - a whole function for two zeroes
        self.calls = Calls(self.node, self.listeners, self.servers, None, clock)  # type: ignore[arg-type]
        self.artifact = os.memfd_create("artifact")

    def start(self, runner_id: int, slot: int, task: Task = TASK) -> None:
        self.servers.start(runner_id, slot, task, self.artifact)

    def close(self) -> None:
        os.close(self.artifact)
        self.records.close()
        self.listeners.close_all()
        self.poller.close()

    def write(self, slot: int, **words: int) -> None:
        with mmap.mmap(self.records.fd, RECORD_BYTES, offset=slot * RECORD_BYTES) as page:
            for name, value in words.items():
                index = {"busy_since": BUSY_SINCE, "deadline": DEADLINE, "calls": CALLS}[name]
                struct.pack_into("=Q", page, index * 8, value)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_a_runner_is_told_its_artifact_and_then_its_service(stage: Stage) -> None:
    stage.calls.open(TASK)
    stage.start(7, 3)
    (load, load_fds), (serve, serve_fds) = stage.runners.told
    assert ([LOAD, SERVE], 3) == ([load[0], serve[0]], decode_serve(serve).record)
    stderr = stage.blobs.output_paths(TASK.id)[1].stat()
    expected = [os.fstat(stage.artifact), os.fstat(stage.listeners.fd(TASK.id)), stderr, os.fstat(stage.records.fd)]
    assert [(of.st_dev, of.st_ino) for of in expected] == [(of.st_dev, of.st_ino) for of in (*load_fds, *serve_fds)]
    assert (PROFILE_SERVER, 0o600) == (stage.runners.births[0].profile, stderr.st_mode & 0o777)


def test_one_with_mounts_has_a_profile_of_its_own(stage: Stage) -> None:
    stage.start(7, 3, make_service(2, mounts=(Mount("corpus", "/data"),)))
    assert PROFILE_FILES_SERVER == stage.runners.births[0].profile


def test_what_its_service_said_before_stays(stage: Stage) -> None:
    stage.start(7, 3)
    path = stage.blobs.output_paths(TASK.id)[1]
    path.write_bytes(b"before\n")
    stage.start(8, 0)
    assert b"before\n" == path.read_bytes()


def test_a_sample_tells_who_is_busy_and_how_many_calls_wait(stage: Stage) -> None:
    for runner_id, slot in ((7, 3), (8, 0)):
        stage.start(runner_id, slot)
    stage.start(9, 1, make_service(2, revision="r2"))
    stage.write(3, busy_since=5, deadline=50, calls=10)
    stage.write(0, calls=4, deadline=60)
    stage.write(1, busy_since=1, deadline=2, calls=100)
    directory = os.open(stage.directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(f"/proc/self/fd/{directory}/{TASK.id}")
        stage.calls.sample((TASK.id, task_id(2), task_id(3)))
    os.close(directory)
    assert [(TASK.id, 1, {7: 50}, 14), (task_id(2), 0, {9: 2}, 100)] == stage.node.heard


def test_one_that_is_gone_leaves_its_calls_behind_and_its_slot_clean(stage: Stage) -> None:
    for runner_id, slot in ((7, 3), (8, 0)):
        stage.start(runner_id, slot)
    stage.write(3, busy_since=5, deadline=50, calls=10)
    assert 10 == stage.runners.births[0].gone()
    assert ({}, 0) == (stage.servers.busy(TASK.id), stage.servers.calls(TASK.id))
    stage.start(9, 3)
    assert CallRecord() == stage.records.read(3)
    assert [0, 0] == [birth.gone() for birth in stage.runners.births[1:]]
    assert {} == stage.servers._slots


def test_a_listener_that_could_not_be_made_is_made_with_the_next_runner(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(stage.listeners, "open", refuse)
        stage.calls.open(TASK)
        stage.start(7, 3)
    assert (["[Errno 24] Too many open files"], {}) == (stage.runners.failed, stage.servers._slots)
    stage.start(8, 3)
    assert [8] == [birth.runner_id for birth in stage.runners.births]
    assert TASK.id in stage.listeners
    stage.calls.close(TASK.id)
    assert TASK.id not in stage.listeners
