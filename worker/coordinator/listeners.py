"""The listening sockets that calls come to: one for each service, in `<data_dir>/run/calls`, named by the task's id.

They are this process's, and its runners get them; API workers connect. Paths of sockets are at most 107 bytes long, so
that the directory is held open and named by its descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

from runner.protocol.call import RETIRE_BYTES
from worker.coordinator.backlog import Backlogs
from worker.coordinator.poller import READ, Poller
from worker.shared.faults import Fault, no_fault

ONE_SHOT = select.EPOLLONESHOT
DIRECTORY_MODE, SOCKET_MODE = 0o700, 0o600


class Listeners:
    """
    Args:
        directory: made if it isn't there; what a dead coordinator left in it goes.
        call_waits: told the task's id, once for each `watch`, when a call waits.
    """

    def __init__(
        self, directory: Path, poller: Poller, call_waits: Callable[[str], None], fault: Fault = no_fault
    ) -> None:
        self._fault = fault
        self._poller = poller
        self._call_waits = call_waits
        self._sockets: dict[str, socket.socket] = {}
        self._watched: set[str] = set()
        self._unopened: set[str] = set()  # to be watched, and there was no descriptor or no room for them yet
        self._backlogs = Backlogs()
        directory.mkdir(DIRECTORY_MODE, exist_ok=True)
        self._directory_path = directory
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        for name in os.listdir(directory):
            os.unlink(directory / name)

    def close_all(self) -> None:
        """Nobody is heard any more."""
        for task_id in list(self._sockets):
            self.close(task_id)
        self._backlogs.close()
        os.close(self._directory)

    def fds(self) -> dict[int, str]:
        """Its descriptors, and what they are."""
        found = {listener.fileno(): f"the listener of {task_id}" for task_id, listener in self._sockets.items()}
        return {**found, self._directory: "the directory of calls", **self._backlogs.fds()}

    def names(self) -> frozenset[str]:
        """Of the sockets in the directory, as it is on disk."""
        return frozenset(os.listdir(self._directory_path))

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._sockets

    def open(self, task_id: str, queue: int) -> None:
        """Have the service's socket: from now on up to `queue` calls may wait there.

        Raises:
            OSError: no descriptor, or no room on the disk for its name.
        """
        if task_id in self._sockets:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listener.fileno(), SOCKET_MODE)  # what bind gives to the file, so that it is never another
            self._unlink(task_id)
            listener.bind(self._path(task_id))
            self._fault("listener.bound")
            listener.listen(queue - 1)  # unix(7) listeners hold one more than is said
            self._fault("listener.listening")
        except BaseException:
            listener.close()
            raise
        self._sockets[task_id] = listener
        if task_id in self._unopened:
            self._unopened.discard(task_id)
            self.watch(task_id)

    def fd(self, task_id: str) -> int:
        """The socket of a service that has one."""
        return self._sockets[task_id].fileno()

    def shut(self, task_id: str) -> None:
        """What waits is still served; the next connect is refused, and a runner that finds no more call ends."""
        self._unopened.discard(task_id)
        listener = self._sockets.get(task_id)
        if listener is not None:
            self._unwatch(task_id)
            self._unlink(task_id)
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RD)

    def close(self, task_id: str) -> None:
        """The socket goes; what still waited on it was not executed."""
        self._unopened.discard(task_id)
        listener = self._sockets.pop(task_id, None)
        if listener is not None:
            self._forget(task_id, listener)
            self._unlink(task_id)
            listener.close()

    def watch(self, task_id: str) -> None:
        """Tell once when a call waits; of one that can't be opened yet, once it is."""
        listener = self._sockets.get(task_id)
        if listener is None:
            self._unopened.add(task_id)
        elif task_id in self._watched:
            self._poller.change(listener.fileno(), READ | ONE_SHOT)
        else:
            self._watched.add(task_id)
            self._poller.add(listener.fileno(), lambda _: self._call_waits(task_id), READ | ONE_SHOT)

    def waiting(self, task_id: str) -> int:
        """How many calls wait."""
        listener = self._sockets.get(task_id)
        return 0 if listener is None else self._backlogs.waiting(listener)

    def retire(self, task_id: str) -> bool:
        """Ask whichever runner takes it first to end: whether that could be asked. Where not, none is idle either."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
                asker.setblocking(False)
                asker.connect(self._path(task_id))
                asker.send(RETIRE_BYTES)
        except OSError:
            return False
        return True

    def _path(self, task_id: str) -> str:
        return f"/proc/self/fd/{self._directory}/{task_id}"

    def _unlink(self, task_id: str) -> None:
        try:
            os.unlink(task_id, dir_fd=self._directory)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _unwatch(self, task_id: str) -> None:
        self._forget(task_id, self._sockets[task_id])

    def _forget(self, task_id: str, listener: socket.socket) -> None:
        if task_id in self._watched:
            self._watched.discard(task_id)
            self._poller.remove(listener.fileno())
