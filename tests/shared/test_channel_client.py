"""The client: an answer, or the truth about whether the command can have been executed. On asyncio and uvloop."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from worker.core.commands import Done, ReadStats, StopTask
from worker.errors import ChannelError, NoAnswer, NotSent
from worker.shared.channel import MAX_MESSAGE_BYTES, Client, Request, Server, listen
from worker.shared.channel_codec import decode_command

LONG_S = 20.0
SHORT_S = 0.05


@pytest.fixture(scope="module", autouse=True)
def _libuv_is_warm() -> None:
    """libuv opens a pipe for signals once a process and keeps it: before anybody counts descriptors."""

    async def nothing() -> None:
        return None

    uvloop.run(nothing())


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request) -> Callable[[Awaitable[None]], None]:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "commands.sock"


class Coordinator:
    """A server within the test's own loop that gives every request to `handle`."""

    def __init__(self, path: Path, handle: Callable[[Server, Request], None]) -> None:
        self.path, self.handle = path, handle
        self.listener = listen(path)
        self.server = Server(self.listener)
        asyncio.get_running_loop().add_reader(self.server.fileno(), self.turn)

    def turn(self) -> None:
        for request in self.server.receive():
            self.handle(self.server, request)

    def die(self) -> None:
        asyncio.get_running_loop().remove_reader(self.server.fileno())
        self.server.close()
        self.listener.close()
        self.path.unlink()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        if self.listener.fileno() >= 0:
            self.die()


def _answer(server: Server, request: Request) -> None:
    server.send(request.connection, request.request_id, Done(task_id=request.command.task_id))


def _ignore(_server: Server, _request: Request) -> None:
    return None


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():
            await asyncio.sleep(0.005)


def test_many_at_once_get_each_his_own_answer(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        with Coordinator(path, _answer):
            replies = await asyncio.gather(*(client.ask(StopTask(f"t{n}"), LONG_S) for n in range(500)))
            client.close()
        assert [Done(task_id=f"t{n}") for n in range(500)] == replies

    run(scene())


def test_without_a_coordinator_nothing_is_sent(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        with pytest.raises(NotSent, match="no coordinator"):
            await client.ask(ReadStats(), SHORT_S)
        client.close()

    run(scene())


def test_a_command_waits_for_a_coordinator_that_is_starting(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        asking = [asyncio.ensure_future(client.ask(StopTask(f"t{n}"), LONG_S)) for n in range(3)]
        await asyncio.sleep(SHORT_S)
        with Coordinator(path, _answer):
            assert [Done(task_id=f"t{n}") for n in range(3)] == await asyncio.gather(*asking)
            client.close()

    run(scene())


def test_a_silent_coordinator_may_have_executed_it(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        with Coordinator(path, _ignore):
            with pytest.raises(NoAnswer):
                await client.ask(ReadStats(), SHORT_S)
            client.close()

    run(scene())


def test_a_command_that_nobody_accepted_yet_may_still_be_executed(run, path: Path) -> None:
    """The launcher holds the listening socket: the next coordinator reads what waits there."""

    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        with pytest.raises(NoAnswer):
            await client.ask(ReadStats(), SHORT_S)
        client.close()
        listener.close()

    run(scene())


def test_a_coordinator_that_dies_leaves_maybe_and_the_next_one_is_found(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        heard: list[Request] = []
        with Coordinator(path, lambda _, request: heard.append(request)) as first:
            asking = asyncio.ensure_future(client.ask(StopTask("a"), LONG_S))
            await _until(lambda: bool(heard))
            first.die()
            with pytest.raises(NoAnswer, match="went away"):
                await asking
        with Coordinator(path, _answer):
            assert Done(task_id="b") == await client.ask(StopTask("b"), LONG_S)
            client.close()

    run(scene())


def test_what_was_not_sent_and_what_was_are_told_apart_to_the_last(run, path: Path) -> None:
    """A coordinator that reads nothing: the commands in its socket are exactly those that get NoAnswer."""

    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        asking = [client.ask(StopTask(f"{n:02d}" + "x" * 60_000), SHORT_S * 4) for n in range(20)]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        sent = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, NoAnswer)]
        not_sent = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, NotSent)]
        assert 20 == len(sent) + len(not_sent)
        assert sent
        assert not_sent

        accepted, _ = listener.accept()
        accepted.setblocking(False)
        found = []
        try:
            while True:
                found.append(int(decode_command(accepted.recv(MAX_MESSAGE_BYTES))[1].task_id[:2]))
        except BlockingIOError:
            pass
        assert sent == found
        client.close()
        accepted.close()
        listener.close()

    run(scene())


def test_commands_that_wait_for_room_go_out_once_there_is_some(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        asking = [asyncio.ensure_future(client.ask(StopTask(f"{n}" + "x" * 60_000), LONG_S)) for n in range(30)]
        await asyncio.sleep(SHORT_S)
        server = Server(listener)
        loop = asyncio.get_running_loop()
        order: list[str] = []

        def turn() -> None:
            for request in server.receive():
                order.append(request.command.task_id.rstrip("x"))
                server.send(request.connection, request.request_id, Done(task_id=order[-1]))

        loop.add_reader(server.fileno(), turn)
        assert [f"{n}" for n in range(30)] == [reply.task_id for reply in await asyncio.gather(*asking)]
        assert [f"{n}" for n in range(30)] == order
        loop.remove_reader(server.fileno())
        client.close()
        server.close()
        listener.close()

    run(scene())


def test_a_connection_that_breaks_tells_each_what_is_true_for_him(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        asking = [asyncio.ensure_future(client.ask(StopTask("x" * 60_000), LONG_S)) for _ in range(20)]
        await asyncio.sleep(SHORT_S)
        accepted, _ = listener.accept()
        accepted.close()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        kinds = [type(outcome) for outcome in outcomes]
        sent = kinds.count(NoAnswer)
        assert 0 < sent < 20
        assert [NoAnswer] * sent + [NotSent] * (20 - sent) == kinds
        client.close()
        listener.close()

    run(scene())


def test_a_command_on_a_connection_that_just_ended_was_not_sent(run, path: Path) -> None:
    """Its end has not been read yet, and the kernel already refuses."""

    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        with pytest.raises(NoAnswer):
            await client.ask(ReadStats(), SHORT_S)
        accepted, _ = listener.accept()
        accepted.close()
        with pytest.raises(NotSent, match="broke"):
            await client.ask(ReadStats(), LONG_S)
        client.close()
        listener.close()

    run(scene())


def test_too_many_that_wait_for_room_are_refused_at_once(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        asking = [asyncio.ensure_future(client.ask(StopTask("x" * 2_000), LONG_S)) for _ in range(3000)]
        done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert {NotSent} == {type(task.exception()) for task in done}
        client.close()
        assert {NotSent, NoAnswer} == {
            type(outcome) for outcome in await asyncio.gather(*waiting, return_exceptions=True)
        }
        listener.close()

    run(scene())


def test_a_late_reply_is_nobodys(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        heard: list[Request] = []
        with Coordinator(path, lambda _, request: heard.append(request)) as coordinator:
            with pytest.raises(NoAnswer):
                await client.ask(StopTask("late"), SHORT_S)
            _answer(coordinator.server, heard.pop())
            coordinator.handle = _answer
            assert Done(task_id="next") == await client.ask(StopTask("next"), LONG_S)
            client.close()

    run(scene())


def test_garbage_from_the_other_end_breaks_the_connection(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        asking = asyncio.ensure_future(client.ask(ReadStats(), LONG_S))
        await asyncio.sleep(SHORT_S)
        accepted, _ = listener.accept()
        accepted.send(b"garbage")
        with pytest.raises(NoAnswer, match="not a message"):
            await asking
        accepted.close()
        client.close()
        listener.close()

    run(scene())


def test_a_command_without_an_expiry_expires_when_its_asker_gives_up(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        heard: list[Request] = []
        with Coordinator(path, lambda _, request: heard.append(request)):
            before_us = time.monotonic_ns() // 1000
            for command in (ReadStats(), ReadStats(expires_at_us=77)):
                with pytest.raises(NoAnswer):
                    await client.ask(command, SHORT_S)
            after_us = time.monotonic_ns() // 1000
            client.close()
        stamped, own = (request.command.expires_at_us for request in heard)
        assert before_us + 50_000 <= stamped <= after_us
        assert 77 == own

    run(scene())


def test_a_command_that_is_too_long_is_refused(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        with pytest.raises(ChannelError, match="at most"):
            await client.ask(StopTask("x" * MAX_MESSAGE_BYTES), LONG_S)
        client.close()

    run(scene())


def test_who_no_longer_waits_leaves_nothing_behind(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        listener = listen(path)
        asking = [asyncio.ensure_future(client.ask(StopTask("x" * 60_000), LONG_S)) for _ in range(20)]
        await asyncio.sleep(SHORT_S)
        for task in asking:
            task.cancel()
        assert {asyncio.CancelledError} == {type(o) for o in await asyncio.gather(*asking, return_exceptions=True)}
        assert (0, 0) == (len(client._asked), len(client._unsent))
        client.close()
        listener.close()

    run(scene())


def test_a_closed_client_tells_who_waits_and_who_comes(run, path: Path) -> None:
    async def scene() -> None:
        client = Client(path)
        with Coordinator(path, _ignore):
            asking = asyncio.ensure_future(client.ask(ReadStats(), LONG_S))
            await asyncio.sleep(SHORT_S)
            client.close()
            with pytest.raises(NoAnswer, match="closed"):
                await asking
            with pytest.raises(NotSent, match="closed"):
                await client.ask(ReadStats(), LONG_S)

    run(scene())


def _serve(listener: socket.socket) -> int:
    """A coordinator process that answers everything."""
    pid = os.fork()
    if pid:
        return pid
    try:
        server = Server(listener)
        while True:
            select.select([server], [], [])
            for request in server.receive():
                _answer(server, request)
    finally:
        os._exit(1)


def test_a_stopped_coordinator_goes_on_and_a_killed_one_is_replaced(run, path: Path) -> None:
    listener = listen(path)
    pid = _serve(listener)

    async def scene() -> None:
        client = Client(path)
        assert Done(task_id="a") == await client.ask(StopTask("a"), LONG_S)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(NoAnswer):
            await client.ask(StopTask("b"), SHORT_S)
        os.kill(pid, signal.SIGCONT)
        assert Done(task_id="c") == await client.ask(StopTask("c"), LONG_S)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        await _until(lambda: client._socket is None)
        asking = asyncio.ensure_future(client.ask(StopTask("d"), LONG_S))
        await asyncio.sleep(SHORT_S)
        second = _serve(listener)
        assert Done(task_id="d") == await asking
        client.close()
        os.kill(second, signal.SIGKILL)
        os.waitpid(second, 0)

    run(scene())
    listener.close()
