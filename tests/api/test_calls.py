"""Calls of functions, answered by runners that are played."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator

import pytest

from runner.protocol.call import FLAG_CANCEL, MARK
from tests.api.api_client import Api
from tests.api.deployed import Deployed
from tests.api.played_runner import (
    HELLO,
    Act,
    PlayedRunner,
    answers,
    dies,
    echoes,
    holds,
    reads_and_holds,
    resets,
    says,
)
from worker.api.auth import Tokens
from worker.core.changes import SetDefault
from worker.core.commands import CallFigures, ReportBroken, ReportCalls
from worker.core.task import Handler, Limits, State, Status

Make = Callable[..., Api]
Play = Callable[..., PlayedRunner]


@pytest.fixture
def play() -> Iterator[Play]:
    """Plays the runners of a revision."""
    made: list[PlayedRunner] = []

    def start(deployed: Deployed, *acts: Act, queue: int = 16) -> PlayedRunner:
        made.append(PlayedRunner(deployed.socket, *acts, queue=queue))
        return made[-1]

    yield start
    for runner in made:
        runner.close()


@pytest.fixture(scope="module")
def one_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    made = Api(tmp_path_factory.mktemp("calls"))
    yield made
    made.close()


@pytest.fixture
def api(one_api: Api) -> Iterator[Api]:
    """One for all tests; each finds it without a revision."""
    one_api.coordinator.asked.clear()
    yield one_api
    one_api.page.draining = False
    functions, routes = one_api.reader.routes()
    for route in routes:
        task = one_api.reader.task(route.task_id)
        assert task is not None
        one_api.coordinator.finish(task.id, Status(State.COMPLETED))
    for row in functions:
        one_api.writer.apply([SetDefault(row.name, None, row.generation + 1)])
    one_api.page.route_generation += 1


@pytest.fixture
def f(api: Api) -> Deployed:
    return Deployed(api)


# Where a call goes


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get"])
def test_a_call_is_answered_by_any_method(api: Api, f: Deployed, play: Play, method: str) -> None:
    runner = play(f)
    answer = api.request(method, "/functions/f")
    assert (200, b"hello\n") == (answer.status, answer.body)
    assert {
        "content-type": "text/plain",
        "content-length": "6",
        "x-galago-executed": "yes",
        "content-security-policy": "sandbox",
        "x-content-type-options": "nosniff",
    } == answer.headers
    assert f"REQUEST_METHOD={method}".encode() in runner.calls[0].variables


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_but_by_two_of_them(api: Api, f: Deployed, method: str) -> None:
    answer = api.request(method, "/functions/f")
    assert (405, "method_not_allowed", "no") == (answer.status, answer.code, answer.headers["x-galago-executed"])
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["f", "f/r1", "f/default", "f/r1/any/thing", "f/default/", "%66/r%31"])
def test_a_revision_is_called_by_its_name_or_as_the_default(api: Api, f: Deployed, play: Play, path: str) -> None:
    play(f)
    assert 200 == api.get(f"/functions/{path}").status


def test_each_revision_has_its_own_runners(api: Api, f: Deployed, play: Play) -> None:
    other = Deployed(api, revision="r2", default=False)
    play(f, answers(b"A: 1\n\nr1"))
    play(other, answers(b"A: 1\n\nr2"))
    assert b"r2" == api.get("/functions/f/r2").body
    assert b"r1" == api.get("/functions/f").body


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("g", 404, "function_unknown"),
        ("g/r1", 404, "function_unknown"),
        ("%ff", 404, "function_unknown"),
        ("f/r2", 404, "revision_unknown"),
        ("f/", 404, "route_unknown"),
        ("f//x", 400, "bad_path"),
        ("/f", 400, "bad_path"),
        ("..", 400, "bad_path"),
        ("f/%2e%2e/x", 400, "bad_path"),
        ("f%2Fr1", 400, "bad_path"),
        ("f/r1%00", 400, "bad_path"),
        ("f/r1/%00", 400, "bad_path"),
        ("f/r1/a%zz", 503, "no_runner"),
    ],
)
def test_what_is_not_there_is_not_executed(api: Api, path: str, status: int, code: str) -> None:
    Deployed(api, queue_ms=0)
    answer = api.get(f"/functions/{path}")
    assert (status, code, "no") == (answer.status, answer.code, answer.json["executed"])
    assert ("no", "sandbox") == (answer.headers["x-galago-executed"], answer.headers["content-security-policy"])
    assert b"" == api.request("HEAD", f"/functions/{path}").body


def test_a_function_without_a_default_says_so(api: Api) -> None:
    Deployed(api, default=False)
    assert (404, "no_default_revision", None) == api.get("/functions/f").refusal


def test_a_revision_that_is_not_running_takes_no_calls(api: Api, f: Deployed) -> None:
    f.become(State.RUNNING, stopping=True)
    assert (404, "revision_unknown", None) == api.get("/functions/f/r1").refusal
    f.become(State.COMPLETED)
    assert (404, "revision_unknown", None) == api.get("/functions/f/r1").refusal
    f.set_default(None)
    assert (404, "no_default_revision", None) == api.get("/functions/f").refusal


def test_a_change_of_routes_is_seen_with_the_next_call(api: Api, f: Deployed, play: Play) -> None:
    other = Deployed(api, revision="r2", default=False)
    play(f, otherwise := answers(b"A: 1\n\nr1"), otherwise)
    play(other, answers(b"A: 1\n\nr2"))
    assert b"r1" == api.get("/functions/f").body
    f.set_default("r2")
    assert b"r2" == api.get("/functions/f").body


def test_routes_that_cannot_be_read_are_the_coordinators_matter(make_api: Make) -> None:
    api = make_api()
    api.reader.close()
    api.writer.path.unlink()
    answer = api.get("/functions/f")
    assert (503, "coordinator_unavailable", "no") == (answer.status, answer.code, answer.json["executed"])


# What the guest gets, and what the client


def test_a_guest_gets_the_request(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, echoes)
    answer = api.request(
        "POST",
        "/functions/f/r1/a%20b/c?x=1&y=%00",
        ("content-type", "application/x-thing"),
        ("content-length", "4"),
        ("x-a", "1"),
        ("x-a", "2"),
        body=b"\x00\xff\r\n",
    )
    assert answer.body.endswith(b"\n\n\x00\xff\r\n")
    variables = dict(variable.split(b"=", 1) for variable in runner.calls[0].variables)
    assert {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"SERVER_NAME": b"localhost",
        b"SERVER_PORT": b"8470",
        b"REMOTE_ADDR": b"127.0.0.1",
        b"REQUEST_METHOD": b"POST",
        b"SCRIPT_NAME": b"/functions/f/r1",
        b"PATH_INFO": b"/a b/c",
        b"REQUEST_URI": b"/functions/f/r1/a%20b/c?x=1&y=%00",
        b"QUERY_STRING": b"x=1&y=%00",
        b"CONTENT_TYPE": b"application/x-thing",
        b"CONTENT_LENGTH": b"4",
        b"HTTP_HOST": b"localhost:8470",
        b"HTTP_X_A": b"1, 2",
    } == {name: value for name, value in variables.items() if name != b"SERVER_SOFTWARE"}


def test_a_guest_has_its_limits(api: Api, play: Play) -> None:
    deployed = Deployed(api, limits=Limits(fuel=77, wall_ms=88), handler=Handler("wagi", on_disconnect="cancel"))
    runner = play(deployed)
    assert 200 == api.get("/functions/f").status
    assert (77, 88, FLAG_CANCEL) == (runner.calls[0].fuel, runner.calls[0].wall_ms, runner.calls[0].flags)


def test_a_listener_of_calls_needs_no_sandbox(api: Api, f: Deployed, play: Play) -> None:
    play(f)
    answer = api.request("GET", "/functions/f", calls_only=True)
    assert {"content-type", "content-length", "x-galago-executed"} == set(answer.headers)


def test_head_and_bodiless_statuses_have_no_body(api: Api, f: Deployed, play: Play) -> None:
    play(f, answers(HELLO), answers(b"A: 1\n\n"), answers(b"Status: 204\n\nx"), answers(b"Status: 304\n\nx"))
    head = api.request("HEAD", "/functions/f")
    assert (200, b"", "6") == (head.status, head.body, head.headers["content-length"])
    assert "content-length" not in api.request("HEAD", "/functions/f").headers
    for status in (204, 304):
        answer = api.get("/functions/f")
        assert (status, b"", None) == (answer.status, answer.body, answer.headers.get("content-length"))


def test_an_export_is_called_with_json(api: Api, play: Play) -> None:
    handler = Handler("export", "add", ("i32", "i32"), ("i32",))
    deployed = Deployed(api, "add", handler=handler)
    runner = play(deployed, answers(b"\x2a" + b"\0" * 7), answers(b"\x2a"))
    length = ("content-length", "18")
    answer = api.request("POST", "/functions/add", length, body=b'{"params":[19,23]}')
    assert (200, b'{"result":[42]}', "application/json") == (
        answer.status,
        answer.body,
        answer.headers["content-type"],
    )
    assert [((), b"\x13" + b"\0" * 7 + b"\x17" + b"\0" * 7)] == [(c.variables, c.body) for c in runner.calls]
    refused = api.request("POST", "/functions/add", length, body=b'{"params":[19,-1.]}')
    assert (400, "bad_json", "no") == (refused.status, refused.code, refused.headers["x-galago-executed"])
    # What can't be a result is a runner's breach, not a guest's.
    broken = api.request("POST", "/functions/add", length, body=b'{"params":[19,23]}')
    assert (502, "runner_died", "maybe") == (broken.status, broken.code, broken.headers["x-galago-executed"])
    assert [deployed.task.id] == [c.task_id for c in api.coordinator.asked if isinstance(c, ReportBroken)]


@pytest.mark.parametrize(
    ("body", "length", "code", "status"),
    [
        (b"x" * 2000, "2000", "body_too_large", 413),
        ([b"x" * 600, b"x" * 600], None, "body_too_large", 413),
        ([b"half", None], "8", "body_truncated", 400),
        (b"", "x", "bad_header", 400),
    ],
)
def test_a_body_that_is_not_right_is_not_executed(
    make_api: Make, play: Play, body: bytes, length: str | None, code: str, status: int
) -> None:
    api = make_api(max_body_bytes=1024)
    runner = play(Deployed(api))
    framing = ("content-length", length) if length is not None else ("transfer-encoding", "chunked")
    answer = api.request("POST", "/functions/f", framing, body=body)
    assert (status, code, "no") == (answer.status, answer.code, answer.headers["x-galago-executed"])
    assert [] == runner.calls


def test_a_slow_body_is_not_executed(make_api: Make, play: Play) -> None:
    api = make_api(body_timeout_s=0.05)
    runner = play(Deployed(api))
    answer = api.request("POST", "/functions/f", ("content-length", "2"), body=[b"x", 5.0, b"x"])
    assert (408, "no") == (answer.status, answer.headers["x-galago-executed"])
    assert [] == runner.calls


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
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def call() -> None:
        pieces = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, object]:
            while not pieces and not runner.calls:
                await asyncio.sleep(0.005)
            return pieces.pop() if pieces else {"type": "http.disconnect"}

        await api.app(scope_of("/functions/f"), receive, send)

    api.loop.run_until_complete(call())
    runner.close()
    assert ([b""], []) == (gone, sent)


def test_a_call_that_is_cancelled_lets_go_of_its_runner(api: Api, f: Deployed, play: Play) -> None:
    runner = play(f, reads_and_holds)

    async def call() -> None:
        asked = asyncio.ensure_future(api.call("GET", "/functions/f"))
        while not runner.calls:
            await asyncio.sleep(0.005)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    api.loop.run_until_complete(call())
    assert {} == api.app.calls._asker._asked


def scope_of(path: str) -> dict[str, object]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [],
        "server": ("127.0.0.1", 8470),
        "client": ("127.0.0.1", 1),
    }


# Tokens, limits, usage


def token_line(token: str, scopes: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()} {scopes}"


@pytest.fixture
def guarded(make_api: Make) -> Api:
    lines = [token_line("caller", "call"), token_line("reader", "read"), token_line("both", "read,call")]
    return make_api(tokens=Tokens.parse("\n".join(lines), "a test"))


def test_calls_are_open_unless_their_function_says_otherwise(guarded: Api, play: Play) -> None:
    runner = play(Deployed(guarded))
    play(Deployed(guarded, "g", handler=Handler("wagi", auth="token")))
    assert 200 == guarded.request("GET", "/functions/f", client="10.0.0.1").status
    refused = guarded.get("/functions/g")
    assert (401, "unauthorized", "no") == (refused.status, refused.code, refused.headers["x-galago-executed"])
    guarded.bearer = "reader"
    assert (403, "forbidden", None) == guarded.get("/functions/g").refusal
    guarded.bearer = "caller"
    assert 200 == guarded.get("/functions/g").status
    assert b"HTTP_AUTHORIZATION" not in b"".join(runner.calls[-1].variables)


@pytest.mark.parametrize(("token", "handed_on"), [("caller", False), ("reader", False), ("a-guests-own", True)])
def test_a_token_of_ours_is_never_handed_on(guarded: Api, play: Play, token: str, handed_on: bool) -> None:
    runner = play(Deployed(guarded))
    guarded.bearer = token
    assert 200 == guarded.get("/functions/f").status
    assert handed_on is (f"HTTP_AUTHORIZATION=Bearer {token}".encode() in runner.calls[0].variables)


def test_without_tokens_the_shared_listener_serves_this_machine_alone(api: Api, f: Deployed, play: Play) -> None:
    play(f)
    assert (403, "forbidden", None) == api.request("GET", "/functions/f", client="10.0.0.1").refusal
    assert 200 == api.request("GET", "/functions/f", client="10.0.0.1", calls_only=True).status


def test_without_tokens_a_guarded_function_serves_this_machine_alone(api: Api, play: Play) -> None:
    play(Deployed(api, handler=Handler("wagi", auth="token")))
    refused = api.request("GET", "/functions/f", client="10.0.0.1", calls_only=True)
    assert (403, "forbidden", None) == refused.refusal
    assert 200 == api.request("GET", "/functions/f", calls_only=True).status


def test_a_call_may_lower_its_limits_with_a_token(guarded: Api, play: Play) -> None:
    runner = play(Deployed(guarded, limits=Limits(fuel=1000, wall_ms=500)))
    lower = (("x-galago-limit-fuel", "10"), ("x-galago-limit-wall-ms", "20"))
    assert (401, "unauthorized", None) == guarded.get("/functions/f", *lower).refusal
    guarded.bearer = "reader"
    assert 403 == guarded.get("/functions/f", *lower).status
    guarded.bearer = "caller"
    assert 200 == guarded.get("/functions/f", *lower).status
    assert 200 == guarded.get("/functions/f", lower[0]).status
    assert [(10, 20), (10, 500)] == [(call.fuel, call.wall_ms) for call in runner.calls]
    assert b"GALAGO" not in b"".join(runner.calls[0].variables)


@pytest.mark.parametrize(
    ("value", "status", "code"),
    [
        ("1001", 422, "limit_above_ceiling"),
        ("0", 400, "bad_header"),
        ("", 400, "bad_header"),
        ("-1", 400, "bad_header"),
        ("1.5", 400, "bad_header"),
        ("9" * 30, 400, "bad_header"),
        ("\u00b2", 400, "bad_header"),
    ],
)
def test_nobody_may_raise_a_limit(api: Api, play: Play, value: str, status: int, code: str) -> None:
    runner = play(Deployed(api, limits=Limits(fuel=1000)))
    answer = api.get("/functions/f", ("x-galago-limit-fuel", value))
    assert (status, code, "x-galago-limit-fuel") == answer.refusal
    assert [] == runner.calls


def test_what_a_call_used_is_told_where_that_is_wanted(guarded: Api, play: Play) -> None:
    act = answers(fuel_used=5, queue_us=1, init_us=2, run_us=3)
    play(Deployed(guarded), act, act)
    play(Deployed(guarded, "g", handler=Handler("wagi", expose_usage=True)), act, answers(reason="fuel"))
    assert "x-galago-fuel" not in guarded.get("/functions/f").headers
    told = guarded.get("/functions/g").headers
    assert ("5", "queue;dur=0.001, init;dur=0.002, run;dur=0.003") == (told["x-galago-fuel"], told["server-timing"])
    assert "0" == guarded.get("/functions/g").headers["x-galago-fuel"]
    guarded.bearer = "reader"
    assert "5" == guarded.get("/functions/f").headers["x-galago-fuel"]


def reported(api: Api, deployed: Deployed) -> CallFigures:
    """What the coordinator is told of a revision with the next report."""
    api.loop.run_until_complete(api.app.calls._reporter.close())
    reports = [command for command in api.coordinator.asked if isinstance(command, ReportCalls)]
    [found] = [figures for report in reports for figures in report.figures if figures.task_id == deployed.task.id]
    return found


def test_a_runner_cannot_claim_more_than_there_was(api: Api, play: Play) -> None:
    deployed = Deployed(api, handler=Handler("wagi", expose_usage=True), limits=Limits(fuel=100))
    most = 2**64 - 1
    play(deployed, answers(fuel_used=most, queue_us=most, init_us=most, run_us=most))
    told = api.get("/functions/f").headers
    assert "100" == told["x-galago-fuel"]
    assert all(float(part.partition("dur=")[2]) < 60_000 for part in told["server-timing"].split(","))
    figures = reported(api, deployed)
    assert 100 == figures.fuel
    assert figures.run_us < 60_000_000


def test_the_coordinator_is_told_how_calls_ended(api: Api, f: Deployed, play: Play) -> None:
    play(f, answers(fuel_used=5), answers(fuel_used=6), dies, answers(reason="trap"))
    for _ in range(4):
        api.get("/functions/f")
    api.get("/functions/unknown")
    figures = reported(api, f)
    assert ({"ok": 2, "runner_died": 1, "guest_trap": 1}, 11) == (dict(figures.outcomes), figures.fuel)
    assert (3, 3, 3) == (sum(figures.queue), sum(figures.init), sum(figures.run))
