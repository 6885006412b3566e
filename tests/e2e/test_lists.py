"""Lists of tasks, by filter and by page, and the Idempotency-Key, which makes sure that there is one task in them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import guests
from tests.e2e.harness import HELLO, Worker, full, running, wasm


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data", "--max-runners", "1") as worker:
        yield worker


@pytest.fixture(scope="module")
def hello(worker: Worker) -> str:
    return worker.upload(wasm(HELLO))


# -- lists ---------------------------------------------------------------------------------------------------------


def listed(worker: Worker, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    answer = worker.http.get("/tasks", params=query)
    assert 200 == answer.status_code, answer.text
    document = answer.json()
    assert {"tasks", "next"} == document.keys()
    return document["tasks"], document["next"]


def test_a_list_is_newest_first_and_paged_without_gaps(worker: Worker, hello: str) -> None:
    label = {"case": "paging"}
    ids = [worker.run(hello, labels=label)["id"] for _ in range(7)]
    found: list[str] = []
    query: dict[str, Any] = {"label": "case=paging", "limit": 3}
    sizes = []
    while True:
        page, after = listed(worker, **query)
        sizes.append(len(page))
        found += [task["id"] for task in page]
        if after is None:
            break
        query["after"] = after
        if len(sizes) == 1:  # what comes meanwhile moves nothing
            worker.run(hello, labels=label)
    assert ids[::-1] == found
    assert [3, 3, 1] == sizes


def test_lists_are_filtered_by_state_kind_and_label(worker: Worker, hello: str) -> None:
    label = {"case": "filters", "team": "a"}
    done = worker.run(hello, labels=label)["id"]
    sleeper = worker.upload(wasm(guests.SLEEPER))
    failed = worker.run(sleeper, entry={"export": "loop"}, limits={"fuel": 1000}, labels={**label, "team": "b"})["id"]
    with full(worker) as held:
        waits = worker.start_task(hello, labels=label)
        expected = {
            ("completed", "case=filters"): [done],
            ("failed", "case=filters"): [failed],
            ("pending", "case=filters"): [waits],
            ("running", "case=filters"): [],
            (None, "case=filters"): [waits, failed, done],
            (None, "team=b"): [failed],
            (None, "team=c"): [],
        }
        found = {
            (state, label): [
                task["id"] for task in listed(worker, label=label, **({"state": state} if state else {}))[0]
            ]
            for state, label in expected
        }
        assert expected == found
        assert [held["id"]] == [task["id"] for task in listed(worker, state="running")[0]]
        assert ([waits, failed, done], []) == (
            [task["id"] for task in listed(worker, kind="job", label="case=filters")[0]],
            listed(worker, kind="service")[0],
        )
    worker.await_end(waits)


def test_a_listed_task_is_the_task_without_its_story(worker: Worker, hello: str) -> None:
    task = worker.run(hello, labels={"case": "listed"})
    del task["events"]
    assert [task] == listed(worker, label="case=listed")[0]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"state": "done"}, "field_range"),
        ({"kind": "x"}, "field_range"),
        ({"limit": "0"}, "field_range"),
        ({"limit": "501"}, "field_range"),
        ({"limit": "many"}, "field_type"),
        ({"after": "nonsense"}, "field_range"),
        ({"label": "nonsense"}, "field_range"),
        ({"colour": "blue"}, "field_unknown"),
    ],
)
def test_a_query_that_is_none_is_refused_by_name(worker: Worker, query: dict[str, str], code: str) -> None:
    answer = worker.http.get("/tasks", params=query)
    assert (422, code) == worker.refused(answer)
    assert next(iter(query)) == answer.json()["field"]


def test_labels_come_back_as_they_were_given(worker: Worker, hello: str) -> None:
    labels = {"team": "a", "Größe": "klein", "galago.dev/x": "", "n": "=1"}
    assert labels == worker.run(hello, labels=labels)["labels"]
    assert (422, "field_range") == worker.refused(
        worker.post(module={"digest": hello}, labels={str(n): "" for n in range(33)})
    )


# -- Idempotency-Key -----------------------------------------------------------------------------------------------


def test_a_repeated_key_gives_the_same_task_and_makes_none(worker: Worker, hello: str) -> None:
    task: dict[str, Any] = {"module": {"digest": hello}, "labels": {"case": "replay"}}
    headers = {"idempotency-key": "replay-1"}
    first = worker.post(headers=headers, wait_s=60, **task)
    again = worker.post(headers=headers, **task)
    assert (201, 200) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"] == f"/tasks/{first.json()['id']}"
    assert 1 == len(listed(worker, label="case=replay")[0])


def test_a_repeated_key_with_another_body_is_refused(worker: Worker, hello: str) -> None:
    headers = {"idempotency-key": "mismatch-1"}
    assert 201 == worker.post(headers=headers, wait_s=60, module={"digest": hello}).status_code
    answer = worker.post(headers=headers, module={"digest": hello}, name="another")
    assert (422, "idempotency_mismatch") == worker.refused(answer)


def test_a_key_that_was_refused_can_be_used_again(worker: Worker, hello: str) -> None:
    headers = {"idempotency-key": "refused-1"}
    assert 422 == worker.post(headers=headers, module={"digest": hello}, priority=10).status_code
    assert 201 == worker.post(headers=headers, wait_s=60, module={"digest": hello}).status_code


@pytest.mark.parametrize("key", ["", "a b", "käse".encode(), "x" * 256])
def test_a_key_that_is_none_is_refused(worker: Worker, hello: str, key: Any) -> None:
    answer = worker.post(headers={"idempotency-key": key}, module={"digest": hello})
    assert (400, "bad_header") == worker.refused(answer)


def test_of_concurrent_twins_one_makes_a_task(worker: Worker, hello: str) -> None:
    body = {"module": {"digest": hello}, "labels": {"case": "twins"}}
    answers = at_once(worker, 8, lambda client: post(client, body, {"idempotency-key": "twins-1"}))
    statuses = sorted(answer.status_code for answer in answers)
    assert (1, set()) == (statuses.count(201), set(statuses) - {200, 201, 409})
    assert {"idempotency_in_progress"} >= {a.json()["code"] for a in answers if a.status_code == 409}
    ids = {answer.json()["id"] for answer in answers if answer.status_code in (200, 201)}
    assert [ids] == [{task["id"] for task in listed(worker, label="case=twins")[0]}]
    worker.await_end(ids.pop())


def post(client: httpx.Client, task: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    content = json.dumps({"kind": "job", **task})
    return client.post("/tasks", content=content, headers={"content-type": "application/json", **(headers or {})})


def at_once(worker: Worker, count: int, ask: Any) -> list[httpx.Response]:
    """The answers to requests that are sent by so many threads together."""
    answers: list[httpx.Response] = []
    together = threading.Barrier(count)

    def run() -> None:
        with worker.client() as client:
            together.wait()
            answers.append(ask(client))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == len(answers)
    return answers
