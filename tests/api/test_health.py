"""Health: alive, and ready or why not. Also the statistics, which are the coordinator's."""

from __future__ import annotations

import pytest

from tests.api.api_client import Api
from worker.core.commands import Done, ReadStats
from worker.errors import NoAnswer, TableError


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_a_process_that_answers_is_alive_whatever_the_rest_does(api: Api, path: str) -> None:
    api.page.draining, api.page.ready = True, False
    answer = api.get(f"{path}?probe=1")
    assert (200, {"status": "ok"}) == (answer.status, answer.json)


def test_a_worker_that_takes_work_is_ready_and_says_how_full_it_is(api: Api, digest: str) -> None:
    assert 201 == api.post({"kind": "job", "module": {"digest": digest}}).status
    api.page.runners_free, api.page.queued_tasks, api.page.waiting_calls = 5, 1, 7
    answer = api.get("/readyz")
    expected = {
        "ready": True,
        "state": "ready",
        "tasks_waiting": 1,
        "tasks_running": 0,
        "tasks_queued": 1,
        "calls_waiting": 7,
        "runners_total": 8,
        "runners_free": 5,
        "max_queued": api.config.max_queued,
        "max_runners": api.config.max_runners,
    }
    assert (200, expected) == (answer.status, answer.json)


def test_a_full_worker_is_ready(make_api: object, api: Api, digest: str) -> None:
    object.__setattr__(api.config, "max_queued", 0)
    assert 200 == api.get("/readyz").status


def test_a_draining_worker_is_not(api: Api) -> None:
    api.page.draining = True
    answer = api.get("/readyz")
    assert (503, "draining", "draining") == (answer.status, answer.code, answer.json["state"])
    assert (False, 0, 8) == (answer.json["ready"], answer.json["tasks_waiting"], answer.json["runners_free"])


def test_a_starting_one_is_not(api: Api) -> None:
    api.page.ready = False
    answer = api.get("/readyz")
    assert (503, "coordinator_unavailable", "starting") == (answer.status, answer.code, answer.json["state"])


def test_what_a_coordinator_that_is_gone_left_on_the_page_is_not_told(api: Api) -> None:
    api.page.ready = False
    api.page.runners_free = 3
    figures = api.get("/readyz").json
    assert 0 == figures["tasks_waiting"]
    assert set() == figures.keys() & {"runners_total", "runners_free", "tasks_queued", "calls_waiting"}


def test_one_whose_coordinator_is_silent_is_not(api: Api) -> None:
    now_us = api.services.clock.monotonic_us()
    api.page.coordinator_beat_us = now_us - 1_000_000
    assert 200 == api.get("/readyz").status
    api.page.coordinator_beat_us = now_us - 2_100_000
    answer = api.get("/readyz")
    assert (503, "no_coordinator", "no") == (answer.status, answer.json["state"], answer.json["executed"])


def test_readiness_does_not_hang_on_the_table(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise TableError("gone")

    monkeypatch.setattr(api.reader, "counts", fail)
    answer = api.get("/readyz")
    assert (200, True, 8) == (answer.status, answer.json["ready"], answer.json["runners_free"])
    assert set() == answer.json.keys() & {"tasks_waiting", "tasks_running"}


def test_statistics_are_passed_on_as_they_are(api: Api) -> None:
    api.coordinator.script.append(Done(body=b'{"node": {"cores": 2}}'))
    answer = api.get("/stats")
    assert (200, b'{"node": {"cores": 2}}', "application/json") == (
        answer.status,
        answer.body,
        answer.headers["content-type"],
    )
    assert [ReadStats()] == api.coordinator.asked


def test_statistics_need_a_coordinator(api: Api) -> None:
    api.coordinator.script.append(NoAnswer("x"))
    answer = api.get("/stats")
    assert (503, "coordinator_unavailable", "/stats") == (answer.status, answer.code, answer.headers["location"])
