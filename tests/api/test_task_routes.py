"""Tasks over HTTP: added once, listed in pages, shown whole, waited for, stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.api.api_client import JSON, NOW_US, Answer, Api
from worker.api.ids import is_task_id, new_task_id
from worker.api.prefer import read_wait
from worker.api.problems import Problem
from worker.api.render import rfc3339
from worker.core.commands import AddTask, Refused, StopTask, WatchTask
from worker.core.task import Reason, RunnerInfo, State, Status, Usage
from worker.errors import NoAnswer, NotSent

EXITED = Status(State.COMPLETED, State.RUNNING, Reason.EXIT, exit_code=0, finished_at_us=NOW_US + 1)


def post(api: Api, digest: str, *headers: tuple[str, str], **task: Any) -> Answer:
    return api.post({"kind": "job", "module": {"digest": digest}, **task}, *headers)


def asked(api: Api, kind: type) -> list[Any]:
    return [command for command in api.coordinator.asked if isinstance(command, kind)]


# -- one task ----------------------------------------------------------------------------------------------------------


def test_a_task_is_answered_as_it_is_shown(api: Api, digest: str) -> None:
    posted = post(api, digest)
    shown = api.get(posted.headers["location"])
    assert (200, posted.json) == (shown.status, shown.json)


def test_everything_that_is_known_is_shown(api: Api, digest: str) -> None:
    task_id = post(api, digest).json["id"]
    usage = Usage(fuel_used=1, wall_us=2, queue_us=3, init_us=4, run_us=5, cpu_us=6, peak_memory_bytes=7)
    status = Status(
        State.RUNNING,
        State.SCHEDULED,
        usage=usage,
        attempts=2,
        runner=RunnerInfo(10, 60_001, ("uid", "seccomp")),
        scheduled_at_us=NOW_US + 1,
        started_at_us=NOW_US + 2,
    )
    api.coordinator.finish(task_id, status)
    expected = {
        "state": "running",
        "previous_state": "scheduled",
        "reason": None,
        "trap_code": None,
        "fuel_used": 1,
        "wall_us": 2,
        "queue_us": 3,
        "init_us": 4,
        "run_us": 5,
        "cpu_us": 6,
        "peak_memory_bytes": 7,
        "attempts": 2,
        "runner": {"pid": 10, "uid": 60_001, "layers": ["uid", "seccomp"]},
        "created_at": "2023-11-14T22:13:20.123456Z",
        "scheduled_at": "2023-11-14T22:13:20.123457Z",
        "started_at": "2023-11-14T22:13:20.123458Z",
        "finished_at": None,
    }
    shown = api.get(f"/tasks/{task_id}").json
    assert expected == {name: shown[name] for name in expected}


def test_how_it_ended_is_shown(api: Api, digest: str) -> None:
    task_id = post(api, digest).json["id"]
    results = (("i32", 0xFFFFFFFF), ("i64", 2**63), ("f64", 0x7FF8000000000000))
    status = replace(EXITED, result=results, detail="a\x1bb", truncated=True, trap_code="interrupt", signal="SIGSEGV")
    api.coordinator.finish(task_id, status)
    shown = api.get(f"/tasks/{task_id}").json
    assert ([-1, "-9223372036854775808", "NaN"], "a\x1bb", True) == (
        shown["result"],
        shown["detail"],
        shown["truncated"],
    )
    ended = {"at": rfc3339(NOW_US + 1), "event": "ended", "state": "completed", "reason": "exit", "detail": "a\x1bb"}
    assert ended == shown["events"][-1]


@pytest.mark.parametrize("task_id", ["x", "..x", "01890000-0000-7000-8000-00000000000A", "%0a", "%ff", "a%3Ab"])
def test_an_id_that_is_none_is_unknown(api: Api, task_id: str) -> None:
    assert (404, "task_unknown", None) == api.get(f"/tasks/{task_id}").refusal
    assert (404, "task_unknown", None) == api.delete(f"/tasks/{task_id}").refusal
    assert (404, "task_unknown", None) == api.get(f"/tasks/{task_id}/stderr").refusal


def test_ids_sort_by_time_and_never_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for milliseconds in range(1, 100):
        monkeypatch.setattr("time.time_ns", lambda ms=milliseconds: ms * 2**20 * 1_000_000)
        ids += sorted(new_task_id() for _ in range(10))
    assert sorted(set(ids)) == ids
    assert all(is_task_id(task_id) and task_id[14] == "7" and task_id[19] in "89ab" for task_id in ids)


# -- lists -------------------------------------------------------------------------------------------------------------


def test_lists_are_pages_newest_first(api: Api, digest: str) -> None:
    made = [post(api, digest, name=f"job-{number}").json["id"] for number in range(5)]
    seen: list[str] = []
    target = "/tasks?limit=2"
    while True:
        page = api.get(target).json
        seen += [task["id"] for task in page["tasks"]]
        if page["next"] is None:
            break
        assert len(page["tasks"]) == 2
        target = f"/tasks?limit=2&after={page['next']}"
    assert sorted(made, reverse=True) == seen


def test_lists_are_filtered(api: Api, digest: str) -> None:
    first = post(api, digest, labels={"team": "a=b", "x": ""}).json["id"]
    second = post(api, digest, labels={"team": "c"}).json["id"]
    api.coordinator.finish(first, EXITED)

    def ids(query: str) -> list[str]:
        return [task["id"] for task in api.get(f"/tasks?{query}").json["tasks"]]

    assert [first] == ids("state=completed")
    assert [second] == ids("state=pending&kind=job")
    assert [] == ids("kind=service")
    assert [] == ids("function=f")
    assert [first] == ids("label=team=a%3Db")
    assert [first] == ids("label=x=")
    assert [second] == ids("label=team%3Dc&state=pending")


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("state=done", "field_range", "state"),
        ("kind=cron", "field_range", "kind"),
        ("function=F", "field_range", "function"),
        ("label=team", "field_range", "label"),
        ("label==a", "field_range", "label"),
        ("limit=0", "field_range", "limit"),
        ("limit=501", "field_range", "limit"),
        ("limit=-1", "field_range", "limit"),
        ("limit=99999999999999999999", "field_range", "limit"),
        ("limit=ten", "field_type", "limit"),
        ("limit=", "field_type", "limit"),
        ("limit=%D9%A1", "field_type", "limit"),
        ("after=x", "field_range", "after"),
        ("after=", "field_range", "after"),
        ("offset=1", "field_unknown", "offset"),
    ],
)
def test_a_wrong_filter_is_refused_by_name(shared_api: Api, query: str, code: str, field: str) -> None:
    assert (422, code, field) == shared_api.get(f"/tasks?{query}").refusal


def test_a_list_shows_what_a_task_shows_but_its_events(api: Api, digest: str) -> None:
    shown = post(api, digest, env={"A": "secret"}).json
    del shown["events"]
    assert {"tasks": [shown], "next": None} == api.get("/tasks?limit=500").json


# -- waiting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=0", 0),
        ("wait=60", 60),
        ('respond-async, Wait="5"; x=y', 5),
        ('wait=" 5 " ;', 5),
        ("wait = 7", 7),
        ("wait=1, wait=2", 1),
        ("respond-async", None),
        ("waiting=7", None),
        ("", None),
    ],
)
def test_a_wait_is_read_from_the_preferences(prefer: str, seconds: int | None) -> None:
    assert seconds == read_wait(prefer.encode())


@pytest.mark.parametrize(
    "prefer",
    [
        *(
            "wait=61",
            "wait=-1",
            "wait=1.5",
            "wait=",
            "wait",
            "wait=x",
            "wait=\u00b2",
            'wait="5',
            "wait=5x",
            "wait = ;5",
        ),
        "wait=" + " " * 60_000 + '"',
        'wait="' + " " * 60_000 + "x",
        "wait" + "\t" * 60_000 + "x=5, wait=5.",
    ],
    ids=lambda text: text[:12],
)
def test_a_wait_that_is_none_is_refused(prefer: str) -> None:
    with pytest.raises(Problem, match="0 to 60"):
        read_wait(prefer.encode("latin-1"))


def test_a_post_may_wait_for_the_end(api: Api, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.api.tasks.new_task_id", lambda: "01890000-0000-7000-8000-000000000001")
    api.coordinator.on_watch["01890000-0000-7000-8000-000000000001"] = EXITED
    answer = post(api, digest, ("prefer", "wait=10"))
    assert (201, "completed", "wait=10") == (
        answer.status,
        answer.json["state"],
        answer.headers["preference-applied"],
    )
    (watch,) = asked(api, WatchTask)
    assert 9_000_000 < watch.until_us - api.services.clock.monotonic_us() <= 10_000_000


def test_a_get_may_wait_and_is_answered_when_it_is_over_anyway(api: Api, digest: str) -> None:
    location = post(api, digest).headers["location"]
    answer = api.get(location, ("prefer", "wait=1"))
    assert (200, "pending", "wait=1") == (answer.status, answer.json["state"], answer.headers["preference-applied"])
    api.coordinator.finish(answer.json["id"], EXITED)
    asked_before = len(api.coordinator.asked)
    answer = api.get(location, ("prefer", "wait=60"))
    assert ("completed", "wait=60") == (answer.json["state"], answer.headers["preference-applied"])
    assert asked_before == len(api.coordinator.asked), "a final task needs no coordinator"


@pytest.mark.parametrize("failure", [NotSent("x"), NoAnswer("x")])
def test_without_a_coordinator_a_wait_is_not_applied(api: Api, digest: str, failure: Exception) -> None:
    location = post(api, digest).headers["location"]
    api.coordinator.script.append(failure)
    answer = api.get(location, ("prefer", "wait=1"))
    assert (200, "pending", False) == (answer.status, answer.json["state"], "preference-applied" in answer.headers)


def test_a_story_and_a_state_are_of_one_moment(api: Api, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = post(api, digest).json["id"]
    read = api.reader.task

    def read_then_finish(wanted: str) -> Any:
        task = read(wanted)
        monkeypatch.setattr(api.reader, "task", read)
        api.coordinator.finish(task_id, EXITED)
        return task

    monkeypatch.setattr(api.reader, "task", read_then_finish)
    shown = api.get(f"/tasks/{task_id}").json
    assert ("completed", "completed") == (shown["state"], shown["events"][-1]["state"])


# -- once --------------------------------------------------------------------------------------------------------------


def test_a_key_makes_one_task_however_often_it_is_posted(api: Api, digest: str) -> None:
    key = ("idempotency-key", "k" * 255)
    first, second = post(api, digest, key, stdin="x"), post(api, digest, key, stdin="x")
    assert (201, 200) == (first.status, second.status)
    assert (first.json, first.headers["location"]) == (second.json, second.headers["location"])
    assert 1 == len(asked(api, AddTask)), "a replay needs no coordinator"
    assert 201 == post(api, digest, ("idempotency-key", "other"), stdin="x").status


def test_a_replay_that_only_the_coordinator_saw_is_one_too(
    api: Api, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = post(api, digest, ("idempotency-key", "k"))
    monkeypatch.setattr(api.reader, "replay", lambda token, key: None)
    second = post(api, digest, ("idempotency-key", "k"))
    assert (200, first.json) == (second.status, second.json)
    assert (422, "idempotency_mismatch", "idempotency-key") == post(
        api, digest, ("idempotency-key", "k"), name="x"
    ).refusal


def test_a_replay_is_answered_while_draining_and_without_a_coordinator(api: Api, digest: str) -> None:
    first = post(api, digest, ("idempotency-key", "k"))
    api.page.draining = True
    api.coordinator.script.append(NotSent("gone"))
    assert (200, first.json) == ((again := post(api, digest, ("idempotency-key", "k"))).status, again.json)


def test_a_key_is_for_the_bytes_of_a_body(api: Api, digest: str) -> None:
    body = b'{"kind":"job","module":{"digest":"%s"}}' % digest.encode()
    key = ("idempotency-key", "k")
    assert 201 == api.request("POST", "/tasks", JSON, key, body=body).status
    assert (422, "idempotency_mismatch", "idempotency-key") == api.request(
        "POST", "/tasks", JSON, key, body=body + b" "
    ).refusal


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "\u00e9", "a\tb"])
def test_a_key_that_is_none_is_a_bad_header(shared_api: Api, key: str) -> None:
    answer = shared_api.request("POST", "/tasks", JSON, ("idempotency-key", key), body=b"{}")
    assert (400, "bad_header", "idempotency-key") == answer.refusal


def test_a_client_that_was_left_in_doubt_finds_its_task_by_the_location(api: Api, digest: str) -> None:
    api.coordinator.script.append(NoAnswer("it broke"))
    answer = post(api, digest)
    (command,) = asked(api, AddTask)
    assert (503, "coordinator_unavailable", "maybe") == (answer.status, answer.code, answer.json["executed"])
    assert f"/tasks/{command.task_id}" == answer.headers["location"]


# -- stop --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "force"), [("", False), ("?force=1", True), ("?force=true", True), ("?force=0", False)]
)
def test_stopping_is_ordered_with_or_without_graces(api: Api, digest: str, query: str, force: bool) -> None:
    task_id = post(api, digest).json["id"]
    answer = api.delete(f"/tasks/{task_id}{query}")
    assert (204, b"") == (answer.status, answer.body)
    assert [StopTask(task_id, force)] == asked(api, StopTask)


def test_stopping_what_is_final_does_nothing(api: Api, digest: str) -> None:
    task_id = post(api, digest).json["id"]
    api.coordinator.finish(task_id, EXITED)
    before = api.get(f"/tasks/{task_id}").json
    assert 204 == api.delete(f"/tasks/{task_id}").status
    assert ([], before) == (asked(api, StopTask), api.get(f"/tasks/{task_id}").json)


def test_a_stop_that_nobody_took_is_told(api: Api, digest: str) -> None:
    task_id = post(api, digest).json["id"]
    api.coordinator.script += [NotSent("x"), NoAnswer("x"), Refused("storage_full", "full")]
    answers = [api.delete(f"/tasks/{task_id}") for _ in range(3)]
    assert [(503, "no"), (503, "maybe"), (507, "no")] == [(a.status, a.json["executed"]) for a in answers]
    assert f"/tasks/{task_id}" == answers[1].headers["location"]
    assert (422, "field_range", "force") == api.delete(f"/tasks/{task_id}?force=yes").refusal


def test_clients_do_not_wait_for_each_other(api: Api, digest: str) -> None:
    """A slow body and a quick request on one loop."""

    async def both() -> tuple[Answer, Answer]:
        slow = asyncio.ensure_future(api.call("POST", "/tasks", JSON, body=[b"{", 30.0]))
        await asyncio.sleep(0)
        quick = await api.call("GET", "/tasks")
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        return quick, quick

    assert 200 == api.loop.run_until_complete(both())[0].status
