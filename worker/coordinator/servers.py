"""The runners that serve: each is started with its service's listener, and says what it does in its record."""

from __future__ import annotations

import os
from collections.abc import Callable

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
        self._told: set[int] = set()  # runners that are to end after their call
        self._calls_seen: dict[int, int] = {}  # by runner id, at the last look

    def start(self, runner_id: int, slot: int, task: Task, artifact: Callable[[], int]) -> None:
        """Fork a runner for the service: its seal, artifact and service are queued before it is born."""
        mounts = bool(task.spec.mounts)
        self._records.clear(slot)
        self._slots.setdefault(task.id, {})[runner_id] = slot

        def tell(child: Child, fds: tuple[int, ...]) -> None:
            artifact_fd, listener = fds
            child.tell(encode_load(to_server_load(task, self._recycling)), [artifact_fd])
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
            lambda: (artifact(), self._listener(task)),
            tell,
            lambda: self._gone(task.id, runner_id),
        )
        self._runners.bear(birth)

    def fds(self) -> dict[int, str]:
        """The records' descriptor."""
        return {self._records.fd: "the records of calls"}

    def seen(self, task_id: str) -> tuple[dict[int, int], int]:
        """Runner id -> deadline (microseconds, CLOCK_MONOTONIC) of those that say that a call runs; how many calls the
        service's living runners say to have answered."""
        busy, calls = {}, 0
        for runner_id, slot in self._slots.get(task_id, {}).items():
            record = self._records.read(slot)
            calls += record.calls
            if record.busy_since_us:
                busy[runner_id] = record.deadline_us
        return busy, calls

    def active(self) -> list[str]:
        """The services whose runners are at calls, or have answered some since this was asked last."""
        before, self._calls_seen = self._calls_seen, {}
        found = []
        for task_id, slots in self._slots.items():
            records = {runner_id: self._records.read(slot) for runner_id, slot in slots.items()}
            self._calls_seen.update({runner_id: record.calls for runner_id, record in records.items()})
            if any(one.busy_since_us or one.calls != before.get(runner_id, 0) for runner_id, one in records.items()):
                found.append(task_id)
        return found

    def retire(self, task_id: str, waiting: bool) -> int | None:
        """Tell one runner by its record that it is to end after its call: its id.

        None, and nobody is told, where one is idle and no call waits: a message reaches that one at once, where under
        load it would come after every call that waits.
        """
        mine = [(runner_id, slot, self._records.read(slot)) for runner_id, slot in self._slots.get(task_id, {}).items()]
        if not waiting and any(not record.busy_since_us for _, _, record in mine):
            return None
        untold = [one for one in mine if one[0] not in self._told]
        # Between two calls it is at none for a moment; one that never answered any may be on its way to its start.
        for runner_id, slot, record in sorted(untold, key=lambda one: not one[2].busy_since_us):
            if record.busy_since_us or record.calls:
                self._records.retire(slot)
                self._told.add(runner_id)
                return runner_id
        return None

    def _gone(self, task_id: str, runner_id: int) -> int:
        """The runner is dead, or never was: how many calls it says to have answered or begun."""
        slots = self._slots[task_id]
        slot = slots.pop(runner_id)
        self._told.discard(runner_id)
        if not slots:
            del self._slots[task_id]
        record = self._records.read(slot)
        return record.calls + (record.busy_since_us != 0)

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
