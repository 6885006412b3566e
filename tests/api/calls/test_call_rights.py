"""What a caller may: tokens, lower limits, and to be told what a call used."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.api.api_client import Api
from tests.api.calls.scopes import Make, Play, nothing_more, scope_of
from tests.api.deployed import Deployed
from tests.api.played_runner import answers, dies
from worker.api.auth import Tokens
from worker.core.commands import CallFigures, ReportCalls
from worker.core.task import Handler, Limits


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


@pytest.mark.parametrize("body", [b"", b"x"])
def test_a_token_of_ours_is_not_hidden_from_us_behind_another(guarded: Api, play: Play, body: bytes) -> None:
    runner = play(Deployed(guarded))
    twice = (("authorization", "Bearer x"), ("authorization", "Bearer caller"))
    length = (("content-length", "1"),) if body else ()
    answer = guarded.request("POST", "/functions/f", *twice, *length, body=body)
    assert ((400, "bad_header", "authorization"), []) == (answer.refusal, runner.calls)


def test_a_guarded_call_has_its_token_hashed_once(guarded: Api, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play(Deployed(guarded, handler=Handler("wagi", auth="token")))
    hashed: list[bytes] = []

    def sha256(data: bytes) -> Any:
        hashed.append(data)
        return hashlib.sha256(data)

    monkeypatch.setattr("worker.api.auth.sha256", sha256)
    guarded.bearer = "caller"
    assert (200, [b"caller"]) == (guarded.get("/functions/f").status, hashed)


def test_a_cookie_is_a_guests_like_any_field(api: Api, f: Deployed, play: Play) -> None:
    """The worker has none of its own, so that there is none to hide. Each that is set is a line of its own."""
    runner = play(f, answers(b"Set-Cookie: a=1; Path=/\nSet-Cookie: b=2\n\n"))
    scope = scope_of("/functions/f", (b"cookie", b"a=1"), (b"cookie", b"b=2; c=3"))
    response = api.loop.run_until_complete(api.app.calls.respond(scope, nothing_more))
    assert response is not None
    assert b"HTTP_COOKIE=a=1; b=2; c=3" in runner.calls[0].variables
    assert [b"a=1; Path=/", b"b=2"] == [value for name, value in response[1] if name == b"set-cookie"]


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
