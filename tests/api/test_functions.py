"""What can be called: functions, their revisions and defaults, and what runs of them as far as somebody tells."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.api_client import NOW_US, Api
from worker.api import live_figures
from worker.api.render import rfc3339
from worker.core.changes import SetDefault, SetTrouble
from worker.core.commands import ReadFunctions, Refused
from worker.core.task import Reason, State, Status
from worker.errors import NoAnswer, NotSent

DURATIONS = {"p50": 100, "p90": 200, "p99": 500, "mean": 123.5}
FIGURES: dict[str, Any] = {
    "runners": {"idle": 1, "busy": 2, "starting": 0},
    "queued": 3,
    "calls": 100,
    "errors": {"guest_trap": 2},
    "cold_starts": 4,
    "fuel": 5,
    "queue_us": DURATIONS,
    "init_us": DURATIONS,
    "run_us": DURATIONS,
}
UNKNOWN = dict.fromkeys(FIGURES)


def figures_of(api: Api, revision: dict[str, Any]) -> dict[str, Any]:
    return {name: revision[name] for name in FIGURES}


def listed(api: Api) -> list[tuple[str, list[str]]]:
    functions = api.get("/functions").json["functions"]
    return [(one["function"], [revision["revision"] for revision in one["revisions"]]) for one in functions]


def test_a_worker_without_functions_has_an_empty_list(api: Api) -> None:
    assert {"functions": [], "next": None} == api.get("/functions").json
    assert {"defaults": [], "next": None} == api.get("/revisions/default").json
    assert [] == [command for command in api.coordinator.asked if isinstance(command, ReadFunctions)]


def test_a_revision_is_listed_with_all_that_is_known(api: Api, digest: str) -> None:
    task_id = api.deploy_running(digest, handler={"abi": "export", "export": "add"})
    api.writer.apply([SetDefault("f", "v1", 7), SetTrouble(task_id, "init_failed: no")])
    api.coordinator.figures = {"f": {"v1": {"task_id": task_id, "trouble": "x", **FIGURES}}}
    task = api.get(f"/tasks/{task_id}").json
    revision = {
        "revision": "v1",
        "task_id": task_id,
        "state": "running",
        "routed": True,
        "trouble": "init_failed: no",
        "module": {"digest": digest, "url": None},
        "handler": task["handler"],
        "scale": task["scale"],
        "reuse": task["reuse"],
        "created_at": rfc3339(NOW_US),
        **FIGURES,
    }
    expected = {"function": "f", "default": "v1", "generation": 7, "revisions": [revision]}
    assert {"functions": [expected], "next": None} == api.get("/functions").json
    shown = api.get("/revisions/f")
    assert (200, expected, '"7"') == (shown.status, shown.json, shown.headers["etag"])
    defaults = [{"function": "f", "default": "v1", "generation": 7}]
    assert {"defaults": defaults, "next": None} == api.get("/revisions/default").json


def test_what_is_deployed_or_stopped_is_listed_but_not_routed_to(api: Api, digest: str) -> None:
    api.deploy(digest)
    stopping = api.deploy_running(digest, "f", "v2")
    api.coordinator.finish(stopping, Status(State.RUNNING, State.SCHEDULED, stopping=True))
    revisions = api.get("/revisions/f").json["revisions"]
    expected = [("v1", "pending", False), ("v2", "running", False)]
    assert expected == [(one["revision"], one["state"], one["routed"]) for one in revisions]


def test_a_function_outlives_its_revisions_and_keeps_its_generation(api: Api, digest: str) -> None:
    task_id = api.deploy_running(digest)
    api.writer.apply([SetDefault("f", None, 3)])
    api.coordinator.finish(task_id, Status(State.COMPLETED, State.RUNNING, Reason.STOPPED))
    expected: dict[str, Any] = {"function": "f", "default": None, "generation": 3, "revisions": []}
    assert expected == api.get("/revisions/f").json


def test_lists_are_pages_by_name(api: Api, digest: str) -> None:
    for name in ("c", "a", "b"):
        for revision in ("v2", "v1"):
            api.deploy(digest, name, revision)
    assert [(name, ["v1", "v2"]) for name in "abc"] == listed(api)
    for target, member in (("/functions", "functions"), ("/revisions/default", "defaults")):
        first = api.get(f"{target}?limit=2").json
        second = api.get(f"{target}?limit=2&after={first['next']}").json
        assert ["a", "b", "c"] == [one["function"] for one in (*first[member], *second[member])]
        assert (2, None) == (len(first[member]), second["next"])


@pytest.mark.parametrize("target", ["/functions", "/revisions/default"])
@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("limit=0", "field_range", "limit"),
        ("limit=501", "field_range", "limit"),
        ("limit=x", "field_type", "limit"),
        ("after=x", "field_range", "after"),
        ("state=running", "field_unknown", "state"),
    ],
)
def test_a_wrong_query_is_refused(shared_api: Api, target: str, query: str, code: str, field: str) -> None:
    assert (422, code, field) == shared_api.get(f"{target}?{query}").refusal


@pytest.mark.parametrize("name", ["g", "F", "%0a", "a%3Ab", "x" * 64])
def test_a_function_that_is_none_is_unknown(api: Api, digest: str, name: str) -> None:
    api.deploy(digest)
    assert (404, "function_unknown", None) == api.get(f"/revisions/{name}").refusal


def test_a_head_is_like_a_get(api: Api, digest: str) -> None:
    api.deploy(digest)
    for target in ("/functions", "/revisions/default", "/revisions/f"):
        answer = api.request("HEAD", target)
        assert (200, b"") == (answer.status, answer.body)
    assert '"0"' == api.request("HEAD", "/revisions/f").headers["etag"]


@pytest.mark.parametrize("answered", [NotSent("gone"), NoAnswer("stopped"), Refused("draining", "not now")])
def test_who_tells_no_figures_takes_nothing_else_away(api: Api, digest: str, answered: Any) -> None:
    api.deploy(digest)
    for target in ("/functions", "/revisions/f"):
        api.coordinator.script.append(answered)
        shown = api.get(target)
        (function,) = shown.json["functions"] if target == "/functions" else [shown.json]
        assert (200, UNKNOWN) == (shown.status, figures_of(api, function["revisions"][0]))


def test_the_figures_of_a_task_that_had_the_name_before_are_not_its(api: Api, digest: str) -> None:
    api.deploy(digest)
    api.coordinator.figures = {"f": {"v1": {"task_id": "another", **FIGURES}}}
    assert UNKNOWN == figures_of(api, api.get("/revisions/f").json["revisions"][0])


def test_figures_are_asked_for_in_batches_until_one_is_not_answered(
    api: Api, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_figures, "BATCH_REVISIONS", 2)
    ids = {name: api.deploy(digest, name).json["id"] for name in "abcd"}
    for revision in ("v2", "v3"):
        api.deploy(digest, "b", revision)
    api.coordinator.figures = {name: {"v1": {"task_id": task_id, **FIGURES}} for name, task_id in ids.items()}
    api.coordinator.asked.clear()
    told = [one["revisions"][0]["calls"] for one in api.get("/functions").json["functions"]]
    assert [100] * 4 == told
    assert [ReadFunctions(names) for names in (("a",), ("b",), ("c", "d"))] == api.coordinator.asked
    api.coordinator.asked.clear()
    api.coordinator.script.append(NoAnswer("stopped"))
    assert [None] * 4 == [one["revisions"][0]["calls"] for one in api.get("/functions").json["functions"]]
    assert [ReadFunctions(("a",))] == api.coordinator.asked
