"""Calls of functions, answered by runners that are played: where they go, what a guest gets, and what its client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from runner.protocol.call import FLAG_CANCEL
from tests.api.api_client import Api
from tests.api.calls.scopes import Make, Play, nothing_comes, nothing_more, scope_of
from tests.api.deployed import Deployed
from tests.api.played_runner import HELLO, answers, echoes
from worker.core.commands import ReportBroken
from worker.core.task import Handler, Limits, State

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


@pytest.mark.parametrize("way", ["begin", "respond"])
def test_a_body_of_no_length_is_told_alike_by_both_ways(api: Api, f: Deployed, play: Play, way: str) -> None:
    runner = play(f)
    scope = scope_of("/functions/f", (b"content-length", b"0"))

    async def call() -> None:
        if way == "begin":
            ended = asyncio.get_running_loop().create_future()
            assert api.app.calls.begin(scope, nothing_comes, ended.set_result)
            await ended
        else:
            await api.app.calls.respond(scope, nothing_more)

    api.loop.run_until_complete(call())
    assert b"CONTENT_LENGTH=0" in runner.calls[0].variables


def test_what_a_guest_says_of_its_page_weakens_nothing(api: Api, f: Deployed, play: Play) -> None:
    """Of two X-Content-Type-Options browsers take the first (Fetch, 2.2.2); of policies, all hold."""
    play(f, answers(b"X-Content-Type-Options: none\nContent-Security-Policy: script-src *\n\n"))
    response = api.loop.run_until_complete(api.app.calls.respond(scope_of("/functions/f"), nothing_more))
    assert response is not None
    said = [value for name, value in response[1] if name == b"x-content-type-options"]
    assert (b"nosniff", [b"sandbox", b"script-src *"]) == (
        said[0],
        [value for name, value in response[1] if name == b"content-security-policy"],
    )


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


def test_the_time_that_a_body_takes_is_none_in_the_queue(
    api: Api, f: Deployed, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(f)
    asker = api.app.calls._asker
    came_s: list[float] = []
    until_s: list[float] = []
    ask = asker.ask

    def asked(revision: Any, message: bytes, wall_s: float, queue_until_s: float, done: Any) -> Any:
        until_s.append(queue_until_s)
        return ask(revision, message, wall_s, queue_until_s, done)

    async def receive() -> dict[str, object]:
        came_s.append(time.monotonic())
        return {"type": "http.request", "body": b"x", "more_body": len(came_s) < 3}

    monkeypatch.setattr(asker, "ask", asked)
    response = api.loop.run_until_complete(
        api.app.calls.respond(scope_of("/functions/f", (b"content-length", b"3")), receive)
    )
    assert response is not None
    assert until_s[0] >= came_s[-1] + 5  # `Deployed`'s queue_ms


def test_a_slow_body_is_not_executed(make_api: Make, play: Play) -> None:
    api = make_api(body_timeout_s=0.05)
    runner = play(Deployed(api))
    answer = api.request("POST", "/functions/f", ("content-length", "2"), body=[b"x", 5.0, b"x"])
    assert (408, "no") == (answer.status, answer.headers["x-galago-executed"])
    assert [] == runner.calls
