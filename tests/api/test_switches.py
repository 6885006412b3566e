"""The default of a function is switched in one step, by whoever knows how it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.api_client import Answer, Api
from worker.api.if_match import read_if_match
from worker.api.problems import Problem
from worker.core.commands import Refused, SwitchDefault
from worker.errors import NoAnswer

Make = Callable[..., Api]


def put(api: Api, revision: str, switch: str, *headers: tuple[str, str], function: str = "f") -> Answer:
    return api.request("PUT", f"/revisions/{function}/{revision}/default/{switch}", *headers)


def asked(api: Api) -> list[SwitchDefault]:
    return [command for command in api.coordinator.asked if isinstance(command, SwitchDefault)]


@pytest.fixture
def two(api: Api, digest: str) -> Api:
    """A function with two running revisions, and one that is deployed."""
    api.deploy_running(digest)
    api.deploy_running(digest, "f", "v2")
    api.deploy(digest, "f", "v3")
    return api


def test_a_switch_tells_what_was_and_what_is(two: Api) -> None:
    first, second = put(two, "v1", "on"), put(two, "v2", "on")
    assert {"function": "f", "default": "v1", "previous": None, "generation": 1} == first.json
    assert {"function": "f", "default": "v2", "previous": "v1", "generation": 2} == second.json
    assert (200, '"2"', "application/json") == (
        second.status,
        second.headers["etag"],
        second.headers["content-type"],
    )
    assert '"2"' == two.get("/revisions/f").headers["etag"]
    assert [SwitchDefault("f", "v1", True), SwitchDefault("f", "v2", True)] == asked(two)


def test_off_leaves_no_default_and_flips_nothing_else(two: Api) -> None:
    put(two, "v1", "on")
    other = put(two, "v2", "off")
    assert (200, "v1", 1) == (other.status, other.json["default"], other.json["generation"])
    off = put(two, "v1", "off")
    assert {"function": "f", "default": None, "previous": "v1", "generation": 2} == off.json


def test_a_revision_that_does_not_run_can_not_be_switched_to(two: Api) -> None:
    assert (409, "revision_not_running", None) == put(two, "v3", "on").refusal


@pytest.mark.parametrize(
    ("function", "revision", "code"),
    [
        ("g", "v1", "function_unknown"),
        ("G", "v1", "function_unknown"),
        ("f", "v9", "revision_unknown"),
        ("f", "V1", "revision_unknown"),
        ("f", "%0a", "revision_unknown"),
        ("g", "V1", "function_unknown"),
    ],
)
def test_what_is_not_there_can_not_be_switched(two: Api, function: str, revision: str, code: str) -> None:
    for switch in ("on", "off"):
        assert (404, code) == put(two, revision, switch, function=function).refusal[:2]


@pytest.mark.parametrize(
    ("if_match", "known"), [('"1"', 1), ('"3", "1"', 1), ("*", None), (' "1" , W/"1"', 1), ('"one","1"', 1)]
)
def test_the_generation_that_is_there_lets_a_switch_through(two: Api, if_match: str, known: int | None) -> None:
    put(two, "v1", "on")
    assert 200 == put(two, "v2", "on", ("if-match", if_match)).status
    assert SwitchDefault("f", "v2", True, known) == asked(two)[-1]


@pytest.mark.parametrize("if_match", ['"0"', '"2"', '"0", "2"', 'W/"1"', '"01"', '""', '"one"', f'"{10**18}"'])
def test_another_generation_does_not(two: Api, if_match: str) -> None:
    put(two, "v1", "on")
    assert (412, "generation_mismatch", "if-match") == put(two, "v2", "on", ("if-match", if_match)).refusal
    assert "v1" == two.get("/revisions/f").json["default"]


@pytest.mark.parametrize("if_match", ['"7"', '"7", "8"', 'W/"0"'])
def test_what_is_not_there_is_told_before_its_generation(two: Api, if_match: str) -> None:
    assert (404, "revision_unknown") == put(two, "v9", "on", ("if-match", if_match)).refusal[:2]


def test_a_precondition_on_nothing_is_about_nothing(api: Api) -> None:
    for if_match in ('"0"', '"0", "1"', 'W/"0"'):
        assert (404, "function_unknown") == put(api, "v1", "on", ("if-match", if_match)).refusal[:2]


@pytest.mark.parametrize("if_match", ["", ",", "1", '"1', '1"', '"1" "2"', '*, "1"', 'w/"1"', '"\x7f"'])
def test_what_is_no_list_of_tags_is_refused(shared_api: Api, if_match: str) -> None:
    assert (400, "bad_header", "if-match") == put(shared_api, "v1", "on", ("if-match", if_match)).refusal


def test_headers_that_come_twice_are_one_list(two: Api) -> None:
    assert 200 == put(two, "v1", "on", ("if-match", '"7"'), ("if-match", '"0"')).status


def test_a_list_is_read_by_its_members() -> None:
    assert frozenset({0, 12}) == read_if_match(b'"0",, W/"7", "12"')
    assert None is read_if_match(None)
    with pytest.raises(Problem):
        read_if_match(b"0")


def test_a_coordinator_that_does_not_answer_may_have_switched(api: Api) -> None:
    api.coordinator.script.append(NoAnswer("stopped"))
    answer = put(api, "v1", "on")
    assert (503, "maybe", "/revisions/f") == (answer.status, answer.json["executed"], answer.headers["location"])


def test_the_coordinators_refusals_are_passed_on(api: Api) -> None:
    api.coordinator.script.append(Refused("storage_full", "the disk is full"))
    assert (507, "storage_full") == put(api, "v1", "on").refusal[:2]


def test_there_is_nothing_between_on_and_off(shared_api: Api) -> None:
    assert (404, "route_unknown", None) == put(shared_api, "v1", "maybe").refusal
    assert (422, "field_unknown", "force") == put(shared_api, "v1", "on?force=1").refusal
    get = shared_api.get("/revisions/f/v1/default/on")
    assert (405, {"PUT", "OPTIONS"}) == (get.status, set(get.headers["allow"].split(", ")))
