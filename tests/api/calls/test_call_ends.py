"""How a call may end that no guest answered, or that nobody waits for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from runner.protocol.call import MARK
from tests.api.api_client import Api
from tests.api.calls.scopes import Play, nothing_comes, scope_of
from tests.api.deployed import Deployed
from tests.api.played_runner import Act, PlayedRunner, answers, dies, holds, reads_and_holds, resets, says
from worker.api.asking import End
from worker.core.commands import ReportBroken
from worker.core.task import Handler, Limits, State

# How it may end


@pytest.mark.parametrize(
    ("act", "status", "code", "executed"),
    [
        (answers(reason="nonzero_exit", exit_code=3), 502, "guest_exit", "yes"),
        (answers(reason="trap", trap_code="unreachable_code_reached"), 502, "guest_trap", "yes"),
        (answers(reason="oom_guest"), 502, "guest_oom", "yes"),
        (answers(reason="output_limit"), 502, "guest_output_limit", "yes"),
        (answers(reason="init_failed"), 502, "init_failed", "yes"),
        (answers(reason="link_failed"), 502, "init_failed", "yes"),
        (answers(reason="compile_failed"), 502, "init_failed", "yes"),
        (answers(reason="fuel"), 504, "fuel", "yes"),
        (answers(reason="deadline", mark=True), 504, "deadline", "yes"),
        (answers(reason="stopped"), 502, "runner_died", "maybe"),
        (answers(b"no head"), 502, "guest_bad_response", "yes"),
        (answers(b"Status: 425\n\n"), 502, "guest_bad_response", "yes"),
        (dies, 502, "runner_died", "maybe"),
        (says(MARK), 502, "runner_died", "maybe"),
        (says(b"nonsense" * 20), 502, "runner_died", "maybe"),
    ],
)
def test_an_end_without_an_answer_says_what_is_known(
    api: Api, f: Deployed, play: Play, act: Act, status: int, code: str, executed: str
) -> None:
    play(f, act)
    answer = api.get("/functions/f", ("x-galago-retry", "425"))
    assert (status, code, executed) == (answer.status, answer.code, answer.json["executed"])
    assert (executed, "no-store") == (answer.headers["x-galago-executed"], answer.headers["cache-control"])


def test_a_kill_past_the_deadline_is_told_as_that(api: Api, play: Play) -> None:
    play(Deployed(api, limits=Limits(wall_ms=1)), says(MARK))
    answer = api.get("/functions/f")
    assert (504, "killed_deadline", "yes") == (answer.status, answer.code, answer.json["executed"])


def test_a_trap_names_itself(api: Api, f: Deployed, play: Play) -> None:
    play(f, answers(reason="trap", trap_code="stack_overflow", detail="wasm \x1b[31mbacktrace"))
    document = api.get("/functions/f").json
    assert "stack_overflow" == document["trap_code"]
    assert "the guest trapped: wasm \\u001b[31mbacktrace" == document["detail"]


def test_what_was_not_executed_is_tried_again(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, resets, resets, resets)
    assert 200 == api.get("/functions/f").status
    assert 1 == len(runner.calls)


def test_a_call_waits_for_a_listener_that_is_not_there_yet(api: Api, f: Deployed) -> None:
    started: list[PlayedRunner] = []
    timer = threading.Timer(0.05, lambda: started.append(PlayedRunner(f.socket)))
    timer.start()
    assert 200 == api.get("/functions/f").status
    timer.join()
    started[0].close()


@pytest.mark.parametrize(
    ("draining", "trouble", "code"),
    [(False, None, "no_runner"), (True, None, "draining"), (False, "it traps at its start", "runner_backoff")],
)
def test_nobody_who_takes_it_is_503(api: Api, draining: bool, trouble: str | None, code: str) -> None:
    deployed = Deployed(api, queue_ms=20)
    deployed.set_trouble(trouble)
    api.page.draining = draining
    answer = api.get("/functions/f")
    assert (503, code, "no", "1") == (
        answer.status,
        answer.code,
        answer.headers["x-galago-executed"],
        answer.headers["retry-after"],
    )
    assert (trouble or "") in answer.json["detail"]


def test_a_drain_alone_refuses_no_call(api: Api, f: Deployed, play: Play) -> None:
    play(f)
    api.page.draining = True
    assert 200 == api.get("/functions/f").status


def test_a_call_that_nobody_reads_in_time_is_503(api: Api, play: Play) -> None:
    play(Deployed(api, queue_ms=20), holds(dies))
    assert (503, "no_runner", None) == api.get("/functions/f").refusal


def test_a_full_queue_is_429_at_once(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, holds(), queue=2)

    async def crowd() -> list[int]:
        calls = [asyncio.ensure_future(api.call("GET", "/functions/f")) for _ in range(6)]
        done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        runner.go.set()
        refused = next(iter(done)).result()
        assert ("function_queue_full", "no", "1") == (
            refused.code,
            refused.json["executed"],
            refused.headers["retry-after"],
        )
        return [call.result().status for call in done] + [call.status for call in await asyncio.gather(*pending)]

    statuses = api.loop.run_until_complete(crowd())
    assert {200, 429} == set(statuses)


def test_a_full_queue_is_asked_once(api: Api, f: Deployed, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = api.app.calls._asker
    asked: list[object] = []

    def full(*call: object) -> End:
        asked.append(call)
        return End.FULL

    monkeypatch.setattr(asker, "ask", full)
    assert (429, "function_queue_full", None) == api.get("/functions/f").refusal
    assert 1 == len(asked)


def test_a_load_balancer_is_told_425_of_what_it_may_repeat(api: Api) -> None:
    Deployed(api, queue_ms=0)
    answer = api.get("/functions/f", ("x-galago-retry", "425"))
    assert (425, "no_runner", "1") == (answer.status, answer.code, answer.headers["retry-after"])
    assert 503 == api.get("/functions/f", ("x-galago-retry", "503")).status
    assert 404 == api.get("/functions/g", ("x-galago-retry", "425")).status


def test_a_retryable_call_is_given_to_another_once(api: Api, play: Play) -> None:
    runner = play(Deployed(api, handler=Handler("wagi", retryable=True)), dies, answers(), dies, dies)
    assert 200 == api.get("/functions/f").status
    assert (502, "runner_died", None) == api.get("/functions/f").refusal
    assert 4 == len(runner.calls)


def test_what_a_runner_died_over_is_never_said_not_to_be_executed(api: Api, play: Play) -> None:
    deployed = Deployed(api, handler=Handler("wagi", retryable=True), queue_ms=50)

    def last(runner: PlayedRunner, connection: object) -> None:
        runner.listener.close()
        deployed.socket.unlink()
        dies(runner, connection)  # type: ignore[arg-type]

    play(deployed, last)
    answer = api.get("/functions/f", ("x-galago-retry", "425"))
    assert (503, "no_runner", "maybe") == (answer.status, answer.code, answer.headers["x-galago-executed"])


def test_a_call_whose_revision_is_stopped_before_it_was_taken_is_told_so(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, holds(resets))

    async def call() -> tuple[int, str]:
        asked = asyncio.ensure_future(api.call("GET", "/functions/f/r1"))
        await asyncio.sleep(0)
        f.become(State.RUNNING, stopping=True)
        runner.go.set()
        answer = await asked
        return answer.status, answer.code

    assert (404, "revision_unknown") == api.loop.run_until_complete(call())


def test_a_call_that_was_not_taken_goes_to_the_new_default(api: Api, f: Deployed, play: Play) -> None:
    other = Deployed(api, revision="r2", handler=Handler("wagi", auth="token"), default=False)
    old, new = play(f, holds(resets)), play(other)

    async def call() -> int:
        asked = asyncio.ensure_future(api.call("GET", "/functions/f"))
        await asyncio.sleep(0)
        f.set_default("r2")
        old.go.set()
        return (await asked).status

    assert 200 == api.loop.run_until_complete(call())
    assert 1 == len(new.calls)


def test_a_broken_answer_is_reported(api: Api, f: Deployed, play: Play) -> None:
    play(f, says(b"nonsense" * 20))
    assert 502 == api.get("/functions/f").status
    api.loop.run_until_complete(asyncio.sleep(0))
    [report] = [command for command in api.coordinator.asked if isinstance(command, ReportBroken)]
    assert f.task.id == report.task_id
    assert report.pid > 0


def test_a_failure_of_our_own_is_a_problem_like_any(api: Api, f: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.api.calls.encode_call_block", None)
    answer = api.get("/functions/f")
    assert (500, "internal", "no") == (answer.status, answer.code, answer.headers["x-galago-executed"])


# A client that goes away


def test_a_client_that_goes_cancels_its_call_where_that_is_wanted(api: Api, play: Play) -> None:
    gone: list[bytes] = []

    def act(runner: PlayedRunner, connection: object) -> None:
        runner.read(connection)  # type: ignore[arg-type]
        gone.append(connection.recv(1))  # type: ignore[attr-defined]

    runner = play(Deployed(api, handler=Handler("wagi", on_disconnect="cancel")), act)

    async def call() -> object:
        pieces = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, object]:
            while not pieces and not runner.calls:
                await asyncio.sleep(0.005)
            return pieces.pop() if pieces else {"type": "http.disconnect"}

        return await api.app.calls.respond(scope_of("/functions/f"), receive)

    answered = api.loop.run_until_complete(call())
    runner.close()
    assert ([b""], None) == (gone, answered)


def test_a_call_that_is_cancelled_lets_go_of_its_runner(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, reads_and_holds)

    async def call() -> None:
        asked = asyncio.ensure_future(api.app.calls.respond(scope_of("/functions/f"), nothing_comes))
        while not runner.calls:
            await asyncio.sleep(0.005)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    api.loop.run_until_complete(call())
    assert {} == api.app.calls._asker._asked


def test_an_end_that_comes_to_a_cancelled_call_is_nobodys(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, reads_and_holds)
    asker = api.app.calls._asker

    async def call() -> None:
        asked = asyncio.ensure_future(api.app.calls.respond(scope_of("/functions/f"), nothing_comes))
        while not runner.calls:
            await asyncio.sleep(0.005)
        asked.cancel()
        for fd, under_way in list(asker._asked.items()):  # before it can let go of its runner
            asker._end(fd, under_way, End.DIED)
        with pytest.raises(asyncio.CancelledError):
            await asked

    api.loop.run_until_complete(call())
