"""Every way in which the connection of a call may end, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.protocol.call import ANSWER_HEAD, MARK, Answer, encode_answer, encode_call
from tests.api.played_runner import (
    HELLO,
    Act,
    PlayedRunner,
    answers,
    dies,
    holds,
    marks_and_holds,
    reads_and_holds,
    resets,
    says,
)
from worker.api.asking import DEADLINE_TICK_S, Asker, End
from worker.api.routes import Revision
from worker.core.task import Handler, Kind, Limits, Service, TaskSpec
from worker.shared.routes import Route

OUTPUT_BYTES = 1 << 20
LONG_S = 30.0
ANSWER = encode_answer(Answer("exit", HELLO, fuel_used=7, queue_us=1, init_us=2, run_us=3))


class World:
    """A revision's socket, an Asker, and what it reported."""

    def __init__(self, path: Path) -> None:
        spec = TaskSpec(
            Kind.SERVICE,
            "f",
            None,
            limits=Limits(output_bytes=OUTPUT_BYTES),
            queue_ms=5000,
            service=Service("f", "r", Handler("wagi")),
        )
        self.path = path
        self.revision = Revision(Route("f", "r", "task", True, None, spec), os.path.relpath(path))
        self.broken: list[tuple[str, int, str]] = []
        self.asker = Asker(lambda *report: self.broken.append(report))
        self.runners: list[PlayedRunner] = []

    def play(self, *acts: Act, queue: int = 16) -> PlayedRunner:
        self.runners.append(PlayedRunner(self.path, *acts, queue=queue))
        return self.runners[-1]

    async def ask(self, body: bytes = b"", *, wall_s: float = LONG_S, queue_s: float = LONG_S) -> Answer | End:
        message = encode_call(body, [b"A=1"], fuel=1, wall_ms=1000, sent_us=0)
        ended: asyncio.Future[Answer | End] = asyncio.get_running_loop().create_future()
        asked = self.asker.ask(self.revision, message, wall_s, time.monotonic() + queue_s, ended.set_result)
        return asked if isinstance(asked, End) else await ended

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def whole() -> Any:
            try:
                return await asyncio.wait_for(coroutine, 20)
            finally:
                self.asker.close()

        return asyncio.run(whole())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "calls" / "task")
    yield made
    for runner in made.runners:
        runner.close()


def body_of(result: Answer | End) -> bytes:
    assert isinstance(result, Answer), result
    return result.body


def test_an_answer_is_given_as_it_came(world: World) -> None:
    runner = world.play(says(ANSWER))
    answer = world.run(world.ask(b"body"))
    assert (HELLO, "exit", 7, 1, 2, 3) == (
        answer.body,
        answer.reason,
        answer.fuel_used,
        answer.queue_us,
        answer.init_us,
        answer.run_us,
    )
    assert [(b"body", (b"A=1",))] == [(call.body, call.variables) for call in runner.calls]


@pytest.mark.parametrize(
    "pieces",
    [
        [ANSWER[:1], ANSWER[1:]],
        [ANSWER[: ANSWER_HEAD.size], ANSWER[ANSWER_HEAD.size :]],
        [bytes([byte]) for byte in ANSWER],
        [MARK, ANSWER],
        [MARK + ANSWER],
        [MARK + ANSWER[:20], ANSWER[20:]],
        [MARK, *[bytes([byte]) for byte in ANSWER]],
    ],
)
def test_an_answer_may_come_in_any_pieces(world: World, pieces: list[bytes]) -> None:
    world.play(says(*pieces))
    assert HELLO == body_of(world.run(world.ask()))
    assert [] == world.broken


def test_a_request_and_an_answer_may_be_longer_than_a_socket_holds(world: World) -> None:
    body, answer = os.urandom(2 << 20), os.urandom(OUTPUT_BYTES)
    runner = world.play(answers(answer))
    assert answer == body_of(world.run(world.ask(body)))
    assert body == runner.calls[0].body


def test_many_calls_are_under_way_at_once(world: World) -> None:
    world.play(queue=128)

    async def many() -> list[Answer | End]:
        return await asyncio.gather(*[world.ask(b"%d" % number) for number in range(100)])

    assert [HELLO] * 100 == [body_of(result) for result in world.run(many())]


def test_nobody_listens(world: World) -> None:
    world.path.parent.mkdir()
    assert End.REFUSED is world.run(world.ask())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(world.path))
        assert End.REFUSED is world.run(world.ask())


def test_a_full_backlog_is_told_at_once(world: World) -> None:
    world.play(holds(), queue=2)

    async def fill() -> list[Answer | End]:
        # One is accepted, now or soon; two wait; of what comes beyond that, each is refused.
        asked = [asyncio.ensure_future(world.ask()) for _ in range(4)]
        done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        world.runners[0].go.set()
        return [task.result() for task in done] + list(await asyncio.gather(*pending))

    results = world.run(fill())
    assert End.FULL in results
    assert {True} == {result is End.FULL or body_of(result) == HELLO for result in results}


def test_a_reset_before_it_was_read_is_not_executed(world: World) -> None:
    world.play(resets)
    assert End.DROPPED is world.run(world.ask(b"x" * 100))


def test_a_runner_that_dies_within_a_long_request_did_not_execute_it(world: World) -> None:
    world.play(resets)
    assert End.DROPPED is world.run(world.ask(b"x" * (8 << 20)))


def test_a_listener_that_closes_drops_what_waits(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        world.path.parent.mkdir()
        listener.bind(str(world.path))
        listener.listen()

        async def wait_and_close() -> Answer | End:
            asked = asyncio.ensure_future(world.ask())
            await asyncio.sleep(0)
            listener.close()
            return await asked

        assert End.DROPPED is world.run(wait_and_close())


def test_an_end_after_it_was_read_may_have_been_executed(world: World) -> None:
    world.play(dies)
    assert End.DIED is world.run(world.ask(b"x"))


@pytest.mark.parametrize("said", [ANSWER[:1], ANSWER[:-1], MARK + ANSWER[:5]])
def test_half_an_answer_is_none(world: World, said: bytes) -> None:
    world.play(says(said))
    assert End.DIED is world.run(world.ask())
    assert [] == world.broken


def test_an_end_before_its_time_was_over_is_a_death(world: World) -> None:
    world.play(says(MARK))
    assert End.DIED is world.run(world.ask(wall_s=LONG_S))


def test_an_end_once_its_time_was_over_is_the_deadline(world: World) -> None:
    world.play(says(MARK))
    assert End.KILLED is world.run(world.ask(wall_s=0.001))


def test_a_marked_call_that_is_never_answered_is_given_up_past_its_deadline(world: World) -> None:
    world.play(marks_and_holds)
    assert End.KILLED is world.run(world.ask(wall_s=0.01))


@pytest.mark.parametrize(
    "said",
    [
        b"x" * 100,
        b"\0" * ANSWER_HEAD.size,
        MARK + MARK + ANSWER,
        ANSWER + b"x",
        ANSWER + ANSWER,
        MARK + ANSWER + b"x",
        ANSWER[:2] + b"\xff" + ANSWER[3:],
        ANSWER[:3] + b"\xff" + ANSWER[4:],
        encode_answer(Answer("exit", b"x" * (OUTPUT_BYTES + 1))),
        ANSWER[:4] + b"\xff\xff\xff\xff" + ANSWER[8:],
        ANSWER[:4] + b"\0\0\0\0" + ANSWER[8:],
    ],
)
def test_a_broken_answer_is_reported_with_the_pid_that_the_kernel_tells(world: World, said: bytes) -> None:
    world.play(says(said))
    assert End.BROKEN is world.run(world.ask())
    [(task_id, pid, detail)] = world.broken
    assert ("task", os.getpid()) == (task_id, pid)
    assert detail


def test_a_call_that_nobody_takes_in_time_is_not_executed(world: World) -> None:
    runner = world.play(holds(dies))
    assert End.UNREAD is world.run(world.ask(queue_s=0.02))
    runner.go.set()  # it reads what was sent, and finds the asker gone


def test_a_long_call_that_nobody_takes_in_time_is_not_executed_either(world: World) -> None:
    world.play(holds(dies))
    assert End.UNREAD is world.run(world.ask(b"x" * (1 << 20), queue_s=0.02))


def test_a_call_that_was_read_is_waited_for_past_its_queue_time(world: World) -> None:
    def act(runner: PlayedRunner, connection: socket.socket) -> None:
        runner.read(connection)
        asked_until = time.monotonic() + 0.1
        while time.monotonic() < asked_until:
            time.sleep(0.01)
        connection.sendall(ANSWER)

    world.play(act)
    assert HELLO == body_of(world.run(world.ask(queue_s=0.02)))


def test_a_call_that_was_read_and_never_answered_may_have_been_executed(world: World) -> None:
    world.play(reads_and_holds)
    assert End.DIED is world.run(world.ask(queue_s=0.02, wall_s=0.01))


def test_what_was_said_is_heard_before_a_deadline_is_judged(world: World) -> None:
    runner = world.play(says(ANSWER))

    async def asleep() -> Answer | End:
        asked = asyncio.ensure_future(world.ask(queue_s=0.02))
        await asyncio.sleep(0)
        deadline = time.monotonic() + 10
        while not runner.calls and time.monotonic() < deadline:
            time.sleep(0.01)  # the loop is stopped, as by SIGSTOP
        time.sleep(0.1)
        return await asked

    assert HELLO == body_of(world.run(asleep()))


def test_who_gives_up_closes_the_connection(world: World) -> None:
    seen: list[bytes] = []

    def act(runner: PlayedRunner, connection: socket.socket) -> None:
        runner.read(connection)
        seen.append(connection.recv(1))

    world.play(act)

    async def give_up() -> None:
        message = encode_call(b"", [], fuel=1, wall_ms=1, sent_us=0)
        told: list[object] = []
        asked = world.asker.ask(world.revision, message, LONG_S, time.monotonic() + LONG_S, told.append)
        assert not isinstance(asked, End)
        world.asker.drop(asked)
        world.asker.drop(asked)
        assert [] == told

    world.run(give_up())
    world.runners[0].close()
    world.runners.clear()
    assert [b""] == seen


def test_whoever_fails_over_an_end_takes_nobodys_deadline(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.play(holds(dies))

    def fails(_: object) -> None:
        raise RuntimeError("this is made to fail")

    async def both() -> Answer | End:
        message = encode_call(b"", [], fuel=1, wall_ms=1, sent_us=0)
        world.asker.ask(world.revision, message, LONG_S, time.monotonic(), fails)
        return await world.ask(queue_s=0.05)

    assert End.UNREAD is world.run(both())
    assert "this is made to fail" in caplog.text


def test_a_close_tells_who_waits_and_leaves_no_deadline_behind(world: World) -> None:
    world.play(reads_and_holds)
    failed: list[dict[str, Any]] = []

    async def close_and_ask_again() -> list[Answer | End]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        asked = asyncio.ensure_future(world.ask())
        await asyncio.sleep(0)
        world.asker.close()
        ends = [await asked]
        await asyncio.sleep(3 * DEADLINE_TICK_S)  # the next look at deadlines was due, and finds nothing to look at
        return [*ends, await world.ask(queue_s=0.02)]

    assert [End.DIED, End.UNREAD] == world.run(close_and_ask_again())
    assert [] == failed


def test_no_descriptor_is_left(world: World) -> None:
    def fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    world.play(answers(), resets, dies, says(b"x" * 100), says(MARK))

    async def all_ends() -> int:
        await world.ask()
        before = fds()
        for _ in range(4):
            await world.ask()
        return fds() - before

    assert 0 >= world.run(all_ends())


def test_another_error_of_the_kernel_is_raised(world: World) -> None:
    world.revision.address = "x" * 200

    async def ask() -> None:
        with pytest.raises(OSError, match="too long"):
            await world.ask()

    world.run(ask())
