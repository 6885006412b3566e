"""The statistics: what is fed is told as it is, what is read from the system is true and read once a second."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from runner.probe import Finding
from tests.lasting import outlast
from worker.coordinator import stats as module
from worker.coordinator.stats import Load, RunningTask, Stats

LAYERS = {"seccomp": True, "no_new_privs": True, "uid": True}


def findings(layers: dict[str, bool]) -> dict[str, Finding]:
    return {name: Finding(ok) for name, ok in layers.items()}


IDLE = Load({"pending": 2, "completed": 5}, queue_length=2, slots=8, slots_free=7)
# A child that uses CPU time for as long as it is asked: one line in, 50 ms of work, one line out.
WORKER = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + 0.05
    while time.process_time() < end: pass
    print(flush=True)
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Child:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def work(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.end()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(tmp_path: Path, clock: Clock) -> Stats:
    return Stats("node-7", str(tmp_path), lambda: findings(LAYERS), clock=clock)


def read(stats: Stats, *running: RunningTask) -> Any:
    load = Load(IDLE.by_state, IDLE.queue_length, IDLE.slots, IDLE.slots_free, running)
    return orjson.loads(stats.document(load))


def test_what_is_fed_is_told(stats: Stats, clock: Clock) -> None:
    stats.document(IDLE)
    clock.now_s += 12.5
    document = read(stats)
    assert ({"pending": 2, "completed": 5}, {"length": 2}, {"total": 8, "free": 7}, [], 12.5) == (
        document["tasks"],
        document["queue"],
        document["runners"],
        document["running"],
        document["uptime_s"],
    )


def test_what_is_told_of_calls_stands_beside_the_rest(stats: Stats) -> None:
    document = orjson.loads(stats.document(IDLE, {"calls": {"calls": 3}, "functions": {"f": {"runners": 1}}}))
    assert ({"calls": 3}, {"f": {"runners": 1}}, 2) == (
        document["calls"],
        document["functions"],
        document["tasks"]["pending"],
    )
    assert "calls" not in read(stats)


def test_version_and_uptime_are_to_be_had_alone(stats: Stats, clock: Clock) -> None:
    clock.now_s += 2.5
    assert (2.5, read(stats)["versions"]["worker"]) == (stats.uptime_s, stats.version)


def test_the_node_is_described(stats: Stats, tmp_path: Path) -> None:
    node = read(stats)["node"]
    disk = os.statvfs(tmp_path)
    assert ("node-7", len(os.sched_getaffinity(0)), disk.f_frsize * disk.f_blocks, 3) == (
        node["name"],
        node["cores"],
        node["disk"]["total_bytes"],
        len(node["load"]),
    )
    assert psutil.virtual_memory().total == node["memory"]["total_bytes"]
    assert 0 < node["memory"]["available_bytes"] <= node["memory"]["total_bytes"]
    assert 0 <= node["disk"]["free_bytes"] <= node["disk"]["total_bytes"]
    assert abs(time.clock_gettime(time.CLOCK_BOOTTIME) - node["uptime_s"]) < 60


def test_memory_is_allocated_by_the_limits_of_running_tasks(stats: Stats, child: Child) -> None:
    tasks = (RunningTask("a", child.pid, 1000), RunningTask("b", child.pid, 234))
    assert 1234 == read(stats, *tasks)["node"]["memory"]["allocated_bytes"]
    assert 0 == read(stats)["node"]["memory"]["allocated_bytes"]


def test_all_versions_are_named(stats: Stats) -> None:
    versions = read(stats)["versions"]
    assert {"worker", "python", "wasmtime", "gunicorn", "falcon", "kernel"} == versions.keys()
    assert (sys.version.split()[0], os.uname().release) == (versions["python"], versions["kernel"])


def test_a_package_that_is_not_installed_has_no_known_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"nothing": "no-such-package-anywhere"})
    assert "unknown" == module.versions()["nothing"]


@pytest.mark.parametrize(("uid", "level"), [(True, "full"), (False, "reduced")])
def test_the_level_is_full_when_no_layer_is_missing(tmp_path: Path, uid: bool, level: str) -> None:
    layers = {**LAYERS, "uid": uid}
    probed = Stats("n", str(tmp_path), lambda: findings(layers))
    assert {"level": level, "layers": layers} == read(probed)["seal"]


def test_the_level_is_unknown_until_the_probe_has_ended(tmp_path: Path) -> None:
    assert {"level": None, "layers": {}} == read(Stats("n", str(tmp_path), dict))["seal"]


def test_a_running_task_has_its_processs_cpu_time_and_memory(stats: Stats, clock: Clock, child: Child) -> None:
    task = RunningTask("a", child.pid, 1000)
    child.work()
    (first,) = read(stats, task)["running"]
    child.work()
    clock.now_s += 2
    (second,) = read(stats, task)["running"]
    worked_us = second["cpu_us"] - first["cpu_us"]
    assert ("a", child.pid, None) == (first["task_id"], first["pid"], first["cpu_percent"])
    # 50 ms of work, in the kernel's ticks of 10 ms; a percent of one core over the two seconds that passed here.
    assert 30_000 <= worked_us
    assert round(worked_us / 2 / 10_000, 1) == second["cpu_percent"]
    assert 1_000_000 < second["rss_bytes"] < 1_000_000_000


def test_the_system_is_read_once_a_second_however_often_somebody_asks(
    stats: Stats, clock: Clock, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    real = psutil.Process.memory_info

    def counted(process: psutil.Process) -> Any:
        looked.append(process.pid)
        return real(process)

    monkeypatch.setattr(psutil.Process, "memory_info", counted)
    task = RunningTask("a", child.pid, 1000)
    for step_s, expected in ((0, 1), (0, 1), (0.5, 1), (0.4, 1), (0.1, 2), (0.9, 2), (5, 3)):
        clock.now_s += step_s
        assert 1 == len(read(stats, task)["running"])
        assert expected == len(looked)


def test_a_task_that_began_after_the_reading_waits_for_the_next(stats: Stats, clock: Clock, child: Child) -> None:
    task = RunningTask("a", child.pid, 1000)
    assert [] == read(stats)["running"]
    assert [] == read(stats, task)["running"]
    clock.now_s += 1
    assert ["a"] == [usage["task_id"] for usage in read(stats, task)["running"]]


def test_a_task_whose_process_is_gone_is_left_out(stats: Stats, clock: Clock, child: Child) -> None:
    gone = Child()
    tasks = (RunningTask("gone", gone.pid, 1), RunningTask("here", child.pid, 1))
    assert ["gone", "here"] == [usage["task_id"] for usage in read(stats, *tasks)["running"]]
    gone.end()
    clock.now_s += 1
    assert ["here"] == [usage["task_id"] for usage in read(stats, *tasks)["running"]]


def test_a_task_that_ended_is_told_no_more_and_forgotten(stats: Stats, clock: Clock, child: Child) -> None:
    task = RunningTask("a", child.pid, 1)
    read(stats, task)
    assert [] == read(stats)["running"]
    clock.now_s += 1
    read(stats)
    assert {} == stats._processes._readings


def test_another_task_in_the_same_process_has_its_own_share(stats: Stats, clock: Clock, child: Child) -> None:
    read(stats, RunningTask("a", child.pid, 1))
    clock.now_s += 1
    (usage,) = read(stats, RunningTask("b", child.pid, 1))["running"]
    assert ("b", None) == (usage["task_id"], usage["cpu_percent"])


def test_a_process_with_the_same_pid_and_another_start_is_nobodys(
    stats: Stats, clock: Clock, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = RunningTask("a", child.pid, 1)
    assert 1 == len(read(stats, task)["running"])
    # What psutil compares is (pid, time of creation): a process made later in this one's place has another.
    started = psutil.Process(child.pid)._ident
    monkeypatch.setattr(psutil.Process, "_get_ident", lambda process: (started[0], started[1] + 1.0))
    clock.now_s += 1
    assert [] == read(stats, task)["running"]


@pytest.mark.root
def test_a_recycled_pid_is_left_out(stats: Stats, clock: Clock, eventually: Callable[..., None]) -> None:
    first = Child()
    first.work()  # the kernel tells times of creation in ticks of 10 ms: the next one is in another tick for certain
    task = RunningTask("a", first.pid, 1)
    assert 1 == len(read(stats, task)["running"])
    first.end()
    stranger: list[int] = []

    def recycled() -> bool:
        """Others fork here too and may be faster."""
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(task.pid - 1))
        pid = os.fork()
        if pid == 0:
            outlast(os.getppid())
            os._exit(0)
        if pid == task.pid:
            stranger.append(pid)
        else:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        return bool(stranger)

    eventually(recycled)
    clock.now_s += 1
    told = read(stats, task)["running"]
    os.kill(stranger[0], 9)
    os.waitpid(stranger[0], 0)
    assert [] == told
