"""The listening sockets of services: how many calls wait, who is told of them, and what a stop leaves."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.protocol.call import RETIRE_BYTES
from worker.coordinator import backlog
from worker.coordinator.backlog import Backlogs
from worker.coordinator.listeners import Listeners
from worker.coordinator.poller import Poller

ID = "00000001-0000-7000-8000-000000000001"
OTHER = "00000002-0000-7000-8000-000000000002"


class Place:
    """Listeners in a directory whose path is longer than a socket's may be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.poller = Poller()
        self.waits: list[str] = []
        self.listeners = Listeners(directory, self.poller, self.waits.append)

    def close(self) -> None:
        self.listeners.close_all()
        self.poller.close()

    @contextmanager
    def caller(self, task_id: str = ID) -> Iterator[socket.socket]:
        directory = os.open(self.directory, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as caller:
            try:
                caller.setblocking(False)
                caller.connect(f"/proc/self/fd/{directory}/{task_id}")
            finally:
                os.close(directory)
            yield caller

    def refusal(self, task_id: str = ID) -> str | None:
        """The name of the error that a connect runs into."""
        try:
            with self.caller(task_id):
                return None
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def accept(self, task_id: str = ID) -> socket.socket:
        """As a runner does, on its own copy of the descriptor."""
        with socket.socket(fileno=os.dup(self.listeners.fd(task_id))) as theirs:
            return theirs.accept()[0]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    made = Place(deep / "calls")
    yield made
    made.close()


def test_a_call_reaches_whoever_accepts(place: Place) -> None:
    place.listeners.open(ID, 4)
    with place.caller() as caller, place.accept() as accepted:
        caller.send(b"call")
        assert b"call" == accepted.recv(10)


def test_the_socket_is_its_owners_alone(place: Place) -> None:
    place.listeners.open(ID, 1)
    assert (0o700, 0o600) == (
        stat.S_IMODE(place.directory.stat().st_mode),
        stat.S_IMODE((place.directory / ID).stat().st_mode),
    )


@pytest.mark.parametrize("queue", [1, 2, 5])
def test_as_many_calls_wait_as_were_asked_for_and_the_next_is_refused_at_once(place: Place, queue: int) -> None:
    place.listeners.open(ID, queue)
    callers = [place.caller() for _ in range(queue)]
    for number, caller in enumerate(callers):
        assert number == place.listeners.waiting(ID)
        caller.__enter__()
    assert (queue, "EAGAIN") == (place.listeners.waiting(ID), place.refusal())
    place.accept().close()
    assert (queue - 1, None) == (place.listeners.waiting(ID), place.refusal())
    for caller in callers:
        caller.__exit__(None, None, None)


def test_without_sock_diag_some_calls_are_told_as_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_NETLINK_SOCK_DIAG", 31)  # a protocol that there isn't
    backlogs = Backlogs()
    place.listeners.open(ID, 4)
    with socket.socket(fileno=os.dup(place.listeners.fd(ID))) as listener:
        assert 0 == backlogs.waiting(listener)
        with place.caller(), place.caller():
            assert 1 == backlogs.waiting(listener)
            place.listeners.shut(ID)  # readable for ever by this
            assert 0 == backlogs.waiting(listener)
    backlogs.close()


def test_one_that_is_shut_has_none_waiting_once_all_are_served(place: Place) -> None:
    place.listeners.open(ID, 4)
    with place.caller(), place.caller():
        place.listeners.shut(ID)
        for left in (2, 1, 0):
            assert left == place.listeners.waiting(ID)
            if left:
                place.accept().close()


def test_a_kernel_that_stops_answering_is_asked_no_more(place: Place) -> None:
    backlogs = Backlogs()
    place.listeners.open(ID, 4)
    with socket.socket(fileno=os.dup(place.listeners.fd(ID))) as listener, place.caller(), place.caller():
        assert 2 == backlogs.waiting(listener)
        backlogs._ask = lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no"))  # type: ignore[method-assign]
        assert [1, 1] == [backlogs.waiting(listener), backlogs.waiting(listener)]
    backlogs.close()


def test_a_watch_tells_once(place: Place) -> None:
    place.listeners.open(ID, 4)
    place.listeners.open(OTHER, 4)
    place.listeners.watch(ID)
    place.poller.poll(0)
    with place.caller(), place.caller(OTHER):
        for _ in range(3):
            place.poller.poll(0)
        assert [ID] == place.waits
        place.listeners.watch(ID)
        place.poller.poll(0)
        place.poller.poll(0)
        assert [ID, ID] == place.waits


def test_one_that_is_opened_late_is_watched_as_it_was_to_be(place: Place) -> None:
    place.listeners.watch(ID)  # it could not be opened when it should have been
    place.listeners.watch(OTHER)
    place.listeners.close(OTHER)
    for task_id in (ID, OTHER):
        place.listeners.open(task_id, 4)
    with place.caller(), place.caller(OTHER):
        for _ in range(3):
            place.poller.poll(0)
    assert [ID] == place.waits


def test_one_that_is_shut_refuses_and_serves_what_waits(place: Place) -> None:
    place.listeners.open(ID, 4)
    place.listeners.watch(ID)
    with place.caller() as caller:
        place.listeners.shut(ID)
        assert (1, "ENOENT") == (place.listeners.waiting(ID), place.refusal())
        with place.accept() as accepted:
            caller.send(b"late")
            assert b"late" == accepted.recv(10)
        with pytest.raises(OSError, match="Invalid argument"):  # what tells a runner that there will be no more
            place.accept()
        place.poller.poll(0)
        assert [] == place.waits
        place.listeners.shut(ID)


def test_who_waits_on_one_that_is_closed_is_told_at_once(place: Place) -> None:
    place.listeners.open(ID, 4)
    place.listeners.watch(ID)
    with place.caller() as caller:
        caller.send(b"in vain")
        place.listeners.close(ID)
        with pytest.raises(ConnectionResetError):
            caller.recv(1)
    assert ("ENOENT", 0, [], False) == (
        place.refusal(),
        place.listeners.waiting(ID),
        os.listdir(place.directory),
        ID in place.listeners,
    )


def test_one_is_opened_once_and_again_after_it_was_closed(place: Place) -> None:
    place.listeners.open(ID, 4)
    first = place.listeners.fd(ID)
    place.listeners.open(ID, 4)
    assert first == place.listeners.fd(ID)
    place.listeners.close(ID)
    place.listeners.open(ID, 4)
    assert None is place.refusal()


@pytest.mark.parametrize("order", ["shut", "close", "watch", "retire"])
def test_what_is_not_there_needs_no_order(place: Place, order: str) -> None:
    getattr(place.listeners, order)(ID)
    assert (0, False) == (place.listeners.waiting(ID), ID in place.listeners)


def test_one_runner_is_asked_to_end(place: Place) -> None:
    place.listeners.open(ID, 1)
    assert place.listeners.retire(ID)
    assert not place.listeners.retire(ID)  # no room: then none is idle
    with place.accept() as accepted:
        assert RETIRE_BYTES == accepted.recv(1000)
    assert 0 == place.listeners.waiting(ID)


def test_what_a_dead_coordinator_left_goes(place: Place, tmp_path: Path) -> None:
    directory = tmp_path / "calls"
    directory.mkdir()
    dead = Place(directory)
    dead.listeners.open(ID, 1)
    os.link(directory / ID, tmp_path / "left")  # a close removes its name; a death doesn't
    dead.close()
    os.rename(tmp_path / "left", directory / ID)
    again = Place(directory)
    assert [] == os.listdir(directory)
    again.listeners.open(ID, 1)
    assert None is again.refusal()
    again.close()
    assert [] == os.listdir(directory)


def test_a_name_that_cannot_be_made_is_told_and_leaves_nothing(place: Place) -> None:
    with pytest.raises(OSError, match="No such file"):
        place.listeners.open("x/" + ID, 1)
    assert "x/" + ID not in place.listeners
