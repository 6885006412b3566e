"""What a manager schedules by: the node, the tasks by state, the runner slots, and what each running task uses now.

The loop feeds plain data and gets JSON. What is read from the system is read at most once a second, however often
somebody asks; counts are always those that were fed. A reading takes 80 us for each running task.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped] # its stubs are a package that nothing else here needs

from runner import probe
from runner.probe import Finding
from worker.version import DISTRIBUTION, version_of

SAMPLE_S = 1.0
PACKAGES = {"worker": DISTRIBUTION, "wasmtime": "wasmtime", "gunicorn": "gunicorn", "falcon": "falcon"}


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that a runner runs now. `memory_bytes` is its limit, which is what a scheduler must count as taken.

    `pid` must be that of a child that isn't reaped yet, when it is told for the first time.
    """

    task_id: str
    pid: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """What the coordinator knows by itself, at the time of asking.

    Args:
        by_state: how many tasks the table has in each state.
        queue_length: tasks that wait for a slot.
        slots, slots_free: runner slots.
        running: the tasks that run.
    """

    by_state: Mapping[str, int]
    queue_length: int
    slots: int
    slots_free: int
    running: tuple[RunningTask, ...] = ()


def versions() -> dict[str, str]:
    """Of the worker, what it stands on, and the kernel; "unknown" for a package that isn't installed as one."""
    found = {"python": platform.python_version(), "kernel": os.uname().release}
    return found | {name: version_of(package, "unknown") for name, package in PACKAGES.items()}


class Stats:
    """
    Args:
        node_name: as the manager knows this worker.
        data_dir: whose file system is reported.
        seal: gives the findings of the probe at start, empty until it has ended; `doctor` explains what is missing.
        clock: monotonic seconds.
        sample_s: how old what was read from the system may get.
    """

    def __init__(
        self,
        node_name: str,
        data_dir: str,
        seal: Callable[[], Mapping[str, Finding]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sample_s: float = SAMPLE_S,
    ) -> None:
        self._node_name = node_name
        self._data_dir = data_dir
        self._clock = clock
        self._sample_s = sample_s
        self._started_s = clock()
        self._seal = seal
        self._versions = versions()
        self._processes = _Processes()
        self._sampled_s = -sample_s - 1
        self._node: dict[str, Any] = {}

    @property
    def version(self) -> str:
        """The worker's."""
        return self._versions["worker"]

    @property
    def uptime_s(self) -> float:
        return round(self._clock() - self._started_s, 3)

    def document(self, load: Load, functions: Mapping[str, Any] | None = None) -> bytes:
        """The body of `GET /stats`. `functions`: what is told of calls, each under a name of its own."""
        now_s = self._clock()
        if now_s - self._sampled_s >= self._sample_s:
            self._sampled_s = now_s
            self._node = self._read_node()
            self._processes.read(load.running, now_s)
        allocated_bytes = sum(task.memory_bytes for task in load.running)
        memory = {**self._node["memory"], "allocated_bytes": allocated_bytes}
        document = {
            "node": {**self._node, "memory": memory},
            "uptime_s": self.uptime_s,
            "tasks": {**load.by_state},
            "queue": {"length": load.queue_length},
            "runners": {"total": load.slots, "free": load.slots_free},
            **(functions or {}),
            "running": [usage for task in load.running if (usage := self._processes.usage(task)) is not None],
            "versions": self._versions,
            "seal": self._read_seal(),
        }
        return orjson.dumps(document)

    def _read_seal(self) -> dict[str, Any]:
        findings = self._seal()
        level = probe.level(findings) if findings else None
        return {"level": level, "layers": {name: finding.ok for name, finding in findings.items()}}

    def _read_node(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        disk = shutil.disk_usage(self._data_dir)
        return {
            "name": self._node_name,
            "cores": len(os.sched_getaffinity(0)),
            "load": [round(average, 2) for average in os.getloadavg()],
            "memory": {"total_bytes": memory.total, "available_bytes": memory.available},
            "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
            "uptime_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        }


@dataclass(slots=True)
class _Reading:
    """A task's process and what it had used when it was last looked at."""

    process: psutil.Process
    cpu_us: int
    rss_bytes: int
    at_s: float
    cpu_percent: float | None = None


class _Processes:
    """What running tasks use. A process is known by its pid *and* the time that it was created at.

    psutil remembers that time in its Process from the first look on, when the pid was that of a child not yet reaped; a
    later process under the same pid has another, and is nobody's here.
    """

    def __init__(self) -> None:
        self._readings: dict[tuple[str, int], _Reading] = {}

    def read(self, running: Iterable[RunningTask], now_s: float) -> None:
        """Look at the process of each of these tasks, and forget all others."""
        before, self._readings = self._readings, {}
        for task in running:
            key = (task.task_id, task.pid)
            try:
                self._readings[key] = _read(before.get(key), task.pid, now_s)
            except psutil.Error:  # it has ended, or another process has its pid
                continue

    def usage(self, task: RunningTask) -> dict[str, Any] | None:
        """The last reading; None for a task that began since, or whose process is gone."""
        reading = self._readings.get((task.task_id, task.pid))
        if reading is None:
            return None
        return {
            "task_id": task.task_id,
            "pid": task.pid,
            "cpu_percent": reading.cpu_percent,
            "cpu_us": reading.cpu_us,
            "rss_bytes": reading.rss_bytes,
        }


def _read(before: _Reading | None, pid: int, now_s: float) -> _Reading:
    """One process's figures; its share of a core since the reading `before`, None at the first.

    Raises:
        psutil.Error: there is no such process (any more).
    """
    process = before.process if before is not None else psutil.Process(pid)
    if not process.is_running():
        raise psutil.NoSuchProcess(pid)
    times, memory = process.cpu_times(), process.memory_info()
    reading = _Reading(process, round((times.user + times.system) * 1_000_000), memory.rss, now_s)
    if before is not None and now_s > before.at_s:
        reading.cpu_percent = round((reading.cpu_us - before.cpu_us) / (now_s - before.at_s) / 10_000, 1)
    return reading
