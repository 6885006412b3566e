"""The runners that serve: each is started with its service's listener, and says what it does in its record."""

from __future__ import annotations

import os

from runner.protocol import PROFILE_FILES_SERVER, PROFILE_SERVER
from runner.protocol.control import encode_load, encode_serve
from worker.coordinator.call_records import CallRecords
from worker.coordinator.child import Child
from worker.coordinator.listeners import Listeners
from worker.coordinator.runners import Birth, Runners
from worker.coordinator.serving import Recycling, service_of, to_serve, to_server_load
from worker.core.task import Task
from worker.shared.blobs import Blobs


class Servers:
    """What is particular to runners of services; the rest of their lives is `Runners`' matter."""

    def __init__(
        self, runners: Runners, listeners: Listeners, records: CallRecords, blobs: Blobs, recycling: Recycling
    ) -> None:
        self._runners = runners
        self._listeners = listeners
        self._records = records
        self._blobs = blobs
        self._recycling = recycling
        self._slots: dict[str, dict[int, int]] = {}  # task id -> runner id -> slot

    def start(self, runner_id: int, slot: int, task: Task, artifact_fd: int) -> None:
        """Fork a runner for the service: its seal, artifact and service are queued before it is born."""
        mounts = bool(task.spec.mounts)
        self._records.clear(slot)
        self._slots.setdefault(task.id, {})[runner_id] = slot

        def tell(child: Child, fds: tuple[int, ...]) -> None:
            artifact, listener = fds
            child.tell(encode_load(to_server_load(task, self._recycling)), [artifact])
            stderr = self._open_stderr(task.id)
            try:
                serve = encode_serve(to_serve(task, slot, self._recycling))
                child.tell(serve, [listener, stderr, self._records.fd])
            finally:
                os.close(stderr)

        birth = Birth(
            runner_id,
            slot,
            task,
            PROFILE_FILES_SERVER if mounts else PROFILE_SERVER,
            tell,
            lambda: self._gone(task.id, runner_id),
        )
        self._runners.bear(birth, lambda: (artifact_fd, self._listener(task)))

    def busy(self, task_id: str) -> dict[int, int]:
        """Runner id -> deadline (microseconds, CLOCK_MONOTONIC) of those that say that a call runs."""
        found = {}
        for runner_id, slot in self._slots.get(task_id, {}).items():
            record = self._records.read(slot)
            if record.busy_since_us:
                found[runner_id] = record.deadline_us
        return found

    def calls(self, task_id: str) -> int:
        """How many calls the service's living runners say to have answered."""
        return sum(self._records.read(slot).calls for slot in self._slots.get(task_id, {}).values())

    def _gone(self, task_id: str, runner_id: int) -> int:
        """The runner is dead, or never was: how many calls it says to have answered."""
        slots = self._slots[task_id]
        slot = slots.pop(runner_id)
        if not slots:
            del self._slots[task_id]
        return self._records.read(slot).calls

    def _listener(self, task: Task) -> int:
        """The service's listener; made now where that failed before.

        Raises:
            OSError: it can't be made.
        """
        self._listeners.open(task.id, service_of(task).scale.queue)
        return self._listeners.fd(task.id)

    def _open_stderr(self, task_id: str) -> int:
        """All runners of a service append to one file, so that its beginning outlives any of them."""
        path = self._blobs.output_paths(task_id)[1]
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
