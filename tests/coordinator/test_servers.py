"""A serving runner gets its artifact, its listener and its record; what it then says is told under its id."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import PROFILE_FILES_SERVER, PROFILE_SERVER
from runner.protocol.control import LOAD, SERVE, decode_serve
from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE, RECORD_BYTES, RETIRE
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

    def bear(self, birth: Birth) -> None:
        try:
            birth.fds = tuple(os.dup(fd) for fd in birth.need())
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
        self.services = self.traffic = self
        self.heard: list[tuple[Any, ...]] = []
        self.asked: list[tuple[str, int | None]] = []
        self.looked_at: list[str] = []

    def sampled(self, task_id: str, queued: int, busy: dict[int, int], calls: int, _now: Now) -> None:
        self.heard.append((task_id, queued, busy, calls))

    def retire_asked(self, task_id: str, runner_id: int | None, _now: Now) -> None:
        self.asked.append((task_id, runner_id))

    def look(self, task_id: str, _now: Now) -> None:
        self.looked_at.append(task_id)


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
        self.servers.start(runner_id, slot, task, lambda: self.artifact)

    def close(self) -> None:
        os.close(self.artifact)
        self.records.close()
        self.listeners.close_all()
        self.poller.close()

    @contextmanager
    def caller(self) -> Iterator[None]:
        directory = os.open(self.directory, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(f"/proc/self/fd/{directory}/{TASK.id}")
            os.close(directory)
            yield

    def told(self) -> list[int]:
        """The slots whose runners were told to end."""
        with mmap.mmap(self.records.fd, 4 * RECORD_BYTES) as pages:
            words = [struct.unpack_from("=Q", pages, slot * RECORD_BYTES + 8 * RETIRE)[0] for slot in range(4)]
        return [slot for slot, word in enumerate(words) if word]

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
    assert 11 == stage.runners.births[0].gone()  # and the one that it was at
    assert ({}, 0) == stage.servers.seen(TASK.id)
    stage.start(9, 3)
    assert CallRecord() == stage.records.read(3)
    assert [0, 0] == [birth.gone() for birth in stage.runners.births[1:]]
    assert {} == stage.servers._slots


@pytest.fixture
def serving(stage: Stage) -> Stage:
    """Runner 7 is at a call, 8 has answered some and 9 none."""
    stage.calls.open(TASK)
    for runner_id, slot in ((9, 1), (8, 0), (7, 3)):
        stage.start(runner_id, slot)
    stage.write(3, busy_since=5, deadline=50, calls=10)
    stage.write(0, calls=4)
    return stage


def test_where_one_is_idle_and_no_call_waits_whoever_is_there_takes_the_message(serving: Stage) -> None:
    serving.calls.retire(TASK.id)
    assert ([(TASK.id, None)], [], 1) == (serving.node.asked, serving.told(), serving.listeners.waiting(TASK.id))


def test_under_load_those_at_calls_are_told_first_each_once_and_none_that_never_began(serving: Stage) -> None:
    with serving.caller(), serving.caller():
        for _ in range(3):
            serving.calls.retire(TASK.id)
        assert 3 == serving.listeners.waiting(TASK.id)  # the third time there was none left
    assert ([(TASK.id, 7), (TASK.id, 8), (TASK.id, None)], [0, 3]) == (serving.node.asked, serving.told())


def test_where_all_are_at_calls_one_is_told_though_none_waits(serving: Stage) -> None:
    for slot in (0, 1):
        serving.write(slot, busy_since=1, deadline=50)
    serving.calls.retire(TASK.id)
    assert (1, 1, 0) == (len(serving.node.asked), len(serving.told()), serving.listeners.waiting(TASK.id))


def test_where_nobody_can_be_asked_the_core_hears_of_none(stage: Stage) -> None:
    stage.start(7, 3)
    stage.calls.close(TASK.id)
    stage.calls.retire(TASK.id)
    stage.calls.retire(task_id(5))
    assert [] == stage.node.asked


def test_a_slots_next_runner_is_told_anew(serving: Stage) -> None:
    with serving.caller():
        serving.calls.retire(TASK.id)
        next(birth for birth in serving.runners.births if birth.runner_id == 7).gone()
        serving.start(7, 3)
        serving.write(3, busy_since=5)
        serving.calls.retire(TASK.id)
    assert ([(TASK.id, 7)] * 2, [3]) == (serving.node.asked, serving.told())


def test_a_look_is_told_of_those_where_something_goes_on_or_went_on(serving: Stage) -> None:
    other, quiet = make_service(2, revision="r2"), make_service(3, revision="r3")
    serving.start(20, 2, other)
    serving.write(2, calls=1)
    serving.servers._slots[quiet.id] = {}
    looks = []
    for _ in range(2):
        serving.calls.look()
        looks.append(serving.node.looked_at[:])
        serving.node.looked_at.clear()
    serving.write(2, calls=2)
    serving.write(3, busy_since=0)
    serving.calls.look()
    assert ([TASK.id, other.id], [TASK.id], [other.id]) == (*looks, serving.node.looked_at)
    serving.node.looked_at.clear()
    next(birth for birth in serving.runners.births if birth.runner_id == 7).gone()
    serving.calls.look()
    assert [] == serving.node.looked_at


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
