"""Both clients against a worker that is played: what is sent, what is made of the answers, and what goes wrong."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable

import httpx
import pytest

from tests.client.played import MODULE, URL, Answerer, Async, Sync, answer, problem, task
from worker.client import AsyncClient, BadUrl, Broken, Client, NotAWorker, Refused, Unreachable

BOTH = pytest.mark.parametrize("client", [Sync, Async])


def in_turn(answers: Iterable[httpx.Response | Exception], seen: list[httpx.Request]) -> Answerer:
    """One answer, or what goes wrong, after the other."""
    left = iter(answers)

    def answering(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return answering


def test_both_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: [*inspect.signature(method).parameters] for name, method in found if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


@BOTH
def test_a_task_is_typed_and_what_is_new_in_it_is_kept(client: type[Sync]) -> None:
    document = task(state="completed", reason="exit", run_us=7, novel={"of": "a newer worker"})
    found = client(lambda _: answer(document)).ask("task", "t1")
    assert ("completed", "exit", 7, True) == (found.state, found.reason, found.run_us, found.final)
    assert document == found.document
    assert 2026 == found.created_at.year


@BOTH
def test_a_token_and_who_asks_are_sent(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    client(in_turn([answer(MODULE)], seen), token="secret").ask("module", MODULE["digest"])
    assert "Bearer secret" == seen[0].headers["authorization"]
    assert seen[0].headers["user-agent"].startswith("galago-worker/")
    assert f"{URL}/modules/{MODULE['digest']}" == str(seen[0].url)


@BOTH
def test_an_upload_tells_how_far_it_is_and_is_not_chunked(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    sent: list[int] = []
    module = bytes(150_000)
    found = client(in_turn([answer(MODULE, 201)], seen)).ask("upload", module, sent.append)
    assert MODULE["digest"] == found.digest
    assert [65_536, 131_072, 150_000] == sent
    assert ("150000", module) == (seen[0].headers["content-length"], seen[0].content)
    assert "transfer-encoding" not in seen[0].headers


@BOTH
def test_a_job_is_posted_and_its_end_is_waited_for(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    answers = [answer(task(), 201), answer(task(state="running")), answer(task(state="completed"))]
    ended = client(in_turn(answers, seen)).ask("run", {"kind": "job", "module": {"digest": "d"}})
    assert "completed" == ended.state
    assert {"kind": "job", "module": {"digest": "d"}} == json.loads(seen[0].content)
    assert ["POST", "GET", "GET"] == [request.method for request in seen]


@BOTH
def test_a_key_that_makes_posting_repeatable_is_sent(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    client(in_turn([answer(task(), 201)], seen)).ask("submit", {"kind": "job"}, wait_s=5, idempotency_key="k1")
    assert ("k1", "wait=5") == (seen[0].headers["idempotency-key"], seen[0].headers["prefer"])


@BOTH
def test_what_was_not_executed_is_sent_again(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    answers = [httpx.ConnectError("[Errno 111] Connection refused"), problem(425, "draining", "no"), answer(task())]
    assert "t1" == client(in_turn(answers, seen)).ask("submit", {"kind": "job"}).id
    assert 3 == len(seen)


@BOTH
@pytest.mark.parametrize("executed", ["maybe", "yes"])
def test_what_may_have_been_executed_is_not(client: type[Sync], executed: str) -> None:
    seen: list[httpx.Request] = []
    refusal = problem(503, "coordinator_unavailable", executed, retry_after="1")
    with pytest.raises(Refused) as caught:
        client(in_turn([refusal], seen)).ask("submit", {"kind": "job"})
    assert (503, "coordinator_unavailable", executed) == (caught.value.status, caught.value.code, caught.value.executed)


@BOTH
@pytest.mark.parametrize("error", [httpx.ReadError("reset"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("cut")])
def test_a_connection_that_breaks_over_a_request_is_told_and_left_at_that(client: type[Sync], error: Exception) -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(Broken) as caught:
        client(in_turn([error], seen)).ask("submit", {"kind": "job"})
    assert "maybe" == caught.value.executed
    assert 1 == len(seen)


@BOTH
def test_where_nobody_listens_nothing_was_sent(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(Unreachable, match="can't be reached: Connection refused") as caught:
        client(in_turn([httpx.ConnectError("[Errno 111] Connection refused")] * 3, seen)).ask("stats")
    assert "no" == caught.value.executed


@pytest.mark.parametrize("url", ["localhost:8470", "ftp://h", "http://", "http://[::1", ""])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(BadUrl):
        Client(url)


@BOTH
@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", b"<html>"),
        (404, "text/html", b"<html>"),
        (302, "text/html", b""),
        (200, "application/json", b"[]"),
        (200, "application/json", b'{"id": "t1"}'),
        (500, "application/problem+json", b"{"),
    ],
)
def test_what_answers_like_no_worker_is_named(client: type[Sync], status: int, kind: str, body: bytes) -> None:
    page = httpx.Response(status, content=body, headers={"content-type": kind})
    with pytest.raises(NotAWorker):
        client(lambda _: page).ask("task", "t1")


@BOTH
def test_every_page_of_a_list_is_asked_for(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    pages = [answer({"tasks": [task(id="t2")], "next": "more"}), answer({"tasks": [task(id="t1")], "next": None})]
    assert ["t2", "t1"] == [found.id for found in client(in_turn(pages, seen)).listen("every_task")]
    assert [{"limit": "500"}, {"limit": "500", "after": "more"}] == [dict(request.url.params) for request in seen]


@BOTH
def test_a_task_is_followed_by_what_is_new_of_it(client: type[Sync]) -> None:
    def told(state: str, count: int) -> httpx.Response:
        event = {"at": "2026-01-31T12:00:00Z", "event": "e", "state": state, "reason": None, "detail": None}
        return answer(task(state=state, events=[event] * count))

    answers = [told("pending", 1), told("pending", 1), told("running", 2), told("completed", 3)]
    found = client(in_turn(answers, [])).listen("follow_task", "t1")
    assert [("pending", 1), ("running", 2), ("completed", 3)] == [(known.state, len(known.events)) for known in found]


@BOTH
def test_an_output_is_followed_to_its_end_and_no_byte_comes_twice(client: type[Sync]) -> None:
    written = iter([b"", b"one\n", b"one\n", b"one\ntwo\n"])
    states = iter(["pending", "running", "running", "completed"])
    now = b""

    def answering(request: httpx.Request) -> httpx.Response:
        nonlocal now
        if request.url.path == "/tasks/t1":
            now = next(written)
            return answer(task(state=next(states)))
        length = {"content-length": str(len(now))}
        return httpx.Response(200, headers=length, content=now if request.method == "GET" else None)

    chunks = client(answering).listen("follow_output", "t1", ("stdout",))
    assert [("stdout", b"one\n"), ("stdout", b"two\n")] == [(chunk.stream, chunk.data) for chunk in chunks]


@BOTH
@pytest.mark.parametrize(
    ("arguments", "options", "path"),
    [
        (("f",), {}, "/functions/f"),
        (("f", "r1"), {}, "/functions/f/r1"),
        (("f", "r1"), {"path": "/a%2Fb?c=d"}, "/functions/f/r1/a%2Fb?c=d"),
        (("f",), {"path": "a"}, "/functions/f/default/a"),
        (("f",), {"path": "?c=d"}, "/functions/f?c=d"),
        (("../tasks",), {}, "/functions/..%2Ftasks"),
    ],
)
def test_a_call_goes_where_it_says(
    client: type[Sync], arguments: tuple[str], options: dict[str, str], path: str
) -> None:
    seen: list[httpx.Request] = []
    answered = httpx.Response(418, content=b"tea", headers={"x-galago-executed": "yes"})
    found = client(in_turn([answered], seen)).ask("call", *arguments, **options)
    assert (418, b"tea") == (found.status, found.body)
    assert path.encode() == seen[0].url.raw_path


@BOTH
def test_a_call_that_no_guest_answered_is_an_error_and_a_guest_s_own_problem_is_not(client: type[Sync]) -> None:
    with pytest.raises(Refused) as caught:
        client(lambda _: problem(502, "guest_trap", "yes", x_galago_executed="yes")).ask("call", "f")
    assert "guest_trap" == caught.value.code
    own = answer({"title": "mine"}, 400, **{"content-type": "application/problem+json", "x-galago-executed": "yes"})
    assert 400 == client(lambda _: own).ask("call", "f").status


@BOTH
def test_a_guest_s_503_is_its_answer_and_is_not_asked_for_again(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    answered = httpx.Response(503, headers={"x-galago-executed": "yes", "retry-after": "1"})
    assert 503 == client(in_turn([answered], seen)).ask("call", "f").status


@BOTH
def test_a_switch_holds_to_a_generation_where_one_is_given(client: type[Sync]) -> None:
    seen: list[httpx.Request] = []
    switched = {"function": "f", "default": "r1", "previous": None, "generation": 8}
    found = client(in_turn([answer(switched)], seen)).ask("switch", "f", "r1", generation=7)
    assert ("PUT", "/revisions/f/r1/default/on", '"7"') == (
        seen[0].method,
        seen[0].url.path,
        seen[0].headers["if-match"],
    )
    assert 8 == found.generation
