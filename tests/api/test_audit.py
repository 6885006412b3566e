"""`/debug/audit`: the coordinator's document, for administrators."""

from __future__ import annotations

from collections.abc import Callable

from tests.api.api_client import Api
from tests.api.test_codes import tokens
from worker.core.commands import Done, ReadAudit
from worker.errors import NoAnswer

Make = Callable[..., Api]
DOCUMENT = b'{"differences":[{"kind":"zombie","detail":"pid 7"}],"checked":{"children":3}}'


def test_the_document_is_passed_on_as_it_is(api: Api) -> None:
    api.coordinator.script.append(Done(body=DOCUMENT))
    answer = api.get("/debug/audit")
    assert (200, DOCUMENT, "application/json") == (answer.status, answer.body, answer.headers["content-type"])
    assert (200, [ReadAudit()]) == (api.get("/debug/audit").status, api.coordinator.asked[1:])


def test_it_is_for_administrators(make_api: Make) -> None:
    api = make_api(tokens=tokens(("reader", "read,run,call"), ("root", "admin")))
    answers = []
    for api.bearer in (None, "reader", "root"):
        answers.append(api.get("/debug/audit").status)
    assert [401, 403, 200] == answers


def test_a_coordinator_that_does_not_answer_is_told(api: Api) -> None:
    api.coordinator.script.append(NoAnswer("gone"))
    assert (503, "coordinator_unavailable", None) == api.get("/debug/audit").refusal
    assert (422, "field_unknown", "x") == api.get("/debug/audit?x=1").refusal
