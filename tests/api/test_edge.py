"""What is judged by path and headers alone, before a route is looked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.api_client import Api
from worker.api.ids import new_task_id
from worker.api.paths import check_path
from worker.api.problems import Problem

Make = Callable[..., Api]


@pytest.mark.parametrize(
    "path",
    [
        "//tasks",
        "/tasks//",
        "/tasks//x",
        "/tasks/a%2Fb",
        "/tasks/a%2fb",
        "/tasks/%00",
        "/tasks/.",
        "/tasks/..",
        "/./tasks",
        "/tasks/%2e",
        "/tasks/%2E%2e",
        "/tasks/.%2e/modules",
        "/tasks/%zz",
        "/tasks/%2",
        "/tasks/a b",
        "/tasks\\x",
        "/tasks/\u00e9",
        "tasks",
        "http://localhost:8470/tasks",
        "*",
        "",
        "/functions//x",
        "/functions/f//x",
        "/functions/f/../x",
        "/functions/f/%2e%2e/x",
    ],
)
def test_a_path_has_one_spelling(path: str) -> None:
    with pytest.raises(Problem) as refused:
        check_path(path.encode())
    assert "bad_path" == refused.value.code


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/tasks",
        "/tasks/",
        "/tasks/.x",
        "/tasks/...",
        "/modules/sha256:0",
        "/modules/sha256%3A0",
        "/functions/f/r/a//b/../%2F%00",  # the rest is the guest's
    ],
)
def test_a_path_with_one_spelling_passes_as_it_is(path: str) -> None:
    assert path == check_path(path.encode())


@given(st.binary(max_size=40))
def test_any_path_passes_unchanged_or_is_refused(raw: bytes) -> None:
    try:
        path = check_path(b"/" + raw)
    except Problem:
        return
    assert not any(segment in ("", ".", "..") for segment in path.split("/")[1:-1])


def test_routes_are_matched_on_the_raw_path(api: Api) -> None:
    assert "route_unknown" == api.get("/task%73").code
    assert "route_unknown" == api.get("/tasks/").code
    assert "route_unknown" == api.get("/TASKS").code


def test_a_segment_that_names_something_may_be_encoded(api: Api, digest: str) -> None:
    assert digest == api.get(f"/modules/{digest.replace(':', '%3A')}").json["digest"]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "PROPFIND"])
def test_other_methods_are_not_allowed_anywhere(api: Api, method: str) -> None:
    answer = api.request(method, "/tasks")
    assert (405, "method_not_allowed") == (answer.status, answer.code)
    assert "GET, HEAD, POST, OPTIONS" == answer.headers["allow"]
    assert 405 == api.request(method, "node.example:443").status
    assert (405, "") == (api.request(method, "/nowhere").status, api.request(method, "/nowhere").headers["allow"])


@pytest.mark.parametrize("path", ["/tasks", "/modules", "/stats", "/livez", "/readyz", "/openapi.json"])
def test_options_say_what_is_allowed(api: Api, path: str) -> None:
    answer = api.request("OPTIONS", path)
    assert (204, b"") == (answer.status, answer.body)
    assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("path", ["/tasks", "/livez", "/openapi.json", "/nowhere"])
def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    get, head = api.get(path), api.request("HEAD", path)
    assert (get.status, get.headers, b"") == (head.status, head.headers, head.body)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8470", "127.0.0.1:8470", "[::1]:8470", "10.1.2.3"])
def test_without_tokens_and_list_addresses_and_localhost_are_served(api: Api, host: str) -> None:
    assert 200 == api.get("/tasks", ("host", host)).status


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8470", "xlocalhost"])
def test_a_name_that_was_rebound_is_not(api: Api, host: str) -> None:
    assert (421, "host_refused", "host") == api.get("/tasks", ("host", host)).refusal
    assert 200 == api.get("/livez", ("host", host)).status


def test_a_list_of_hosts_is_the_whole_list(make_api: Make) -> None:
    api = make_api(allowed_hosts=("node.example", "other.example:9000"))
    assert 200 == api.get("/tasks", ("host", "Node.Example.:1234")).status
    assert 200 == api.get("/tasks", ("host", "other.example:9000")).status
    for refused in ("other.example:9001", "other.example", "localhost", "127.0.0.1"):
        assert 421 == api.get("/tasks", ("host", refused)).status


@pytest.mark.parametrize("host", ["a b", "", "a/b", "a@b", "[::1", "a:b"])
def test_a_host_that_is_none_is_a_bad_header(api: Api, host: str) -> None:
    assert (400, "bad_header", "host") == api.get("/tasks", ("host", host)).refusal


def test_a_request_has_one_host_unless_it_is_old(api: Api) -> None:
    assert 200 == api.request("GET", "/tasks", http_version="1.0").status
    twice = api.get("/tasks", ("host", "localhost"), ("host", "localhost"))
    assert (400, "bad_header", "host") == twice.refusal


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://localhost"])
def test_a_foreign_page_is_refused(make_api: Make, origin: str) -> None:
    api = make_api(allowed_origins=("https://console.example",))
    assert (403, "origin_refused", "origin") == api.get("/tasks", ("origin", origin)).refusal
    assert 403 == api.request("OPTIONS", "/tasks", ("origin", origin)).status
    assert 200 == api.get("/livez", ("origin", origin)).status


@pytest.mark.parametrize("origin", ["http://localhost:8470", "https://LOCALHOST:8470", "https://console.example"])
def test_our_own_page_and_allowed_ones_are_served(make_api: Make, origin: str) -> None:
    api = make_api(allowed_origins=("https://console.example",))
    assert 200 == api.get("/tasks", ("origin", origin)).status


@pytest.mark.parametrize(
    ("client", "status"), [("10.0.0.1", 403), ("::2", 403), ("::1", 200), ("::ffff:127.0.0.1", 200)]
)
def test_without_tokens_only_this_machine_is_served(api: Api, client: str, status: int) -> None:
    assert status == api.request("GET", "/tasks", client=client).status
    assert 200 == api.request("GET", "/livez", client=client).status


def test_query_parameters_are_known_by_name_and_come_once(api: Api) -> None:
    assert (422, "field_unknown", "colour") == api.get("/tasks?colour=red").refusal
    assert (422, "field_conflict", "limit") == api.get("/tasks?limit=1&limit=2").refusal
    assert (422, "field_range", None) == api.get("/tasks?label=%ff").refusal
    assert (422, "field_unknown", "follow") == api.get(f"/tasks/{new_task_id()}/stdout?follow=1").refusal


def test_a_query_is_short_and_ascii(api: Api) -> None:
    many = "&".join("state=pending" for _ in range(33))
    assert (422, "field_range", None) == api.get(f"/tasks?{many}").refusal
    assert (422, "field_range", None) == api.get("/tasks?label=\u00e9").refusal


@pytest.mark.parametrize("length", ["x", "-1", "1,1", ""])
def test_a_length_that_is_none_is_a_bad_header(api: Api, length: str) -> None:
    answer = api.request("POST", "/tasks", ("content-type", "application/json"), ("content-length", length), body=b"{}")
    assert (400, "bad_header", "content-length") == answer.refusal


@pytest.mark.parametrize("client", ["unix", "", None])
def test_a_peer_without_an_address_is_not_this_machine(api: Api, client: str | None) -> None:
    assert 403 == api.request("GET", "/tasks", client=client).status


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("host", "origin", "authorization", "prefer", "content-type", "content-length", "x")),
            st.text(st.characters(max_codepoint=255), max_size=30),
        ),
        max_size=6,
    ),
    st.sampled_from(("GET", "POST", "DELETE", "HEAD", "OPTIONS")),
    st.sampled_from(("/tasks", "/modules", "/tasks/x", "/livez", "/modules/sha256:0", "/x?y=z")),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_headers_make_the_worker_fail(api: Api, headers: list[tuple[str, str]], method: str, target: str) -> None:
    assert api.request(method, target, *headers, body=b"{}").status < 500


@pytest.mark.parametrize("path", ["/tasks", "/modules", "/functions", "/functions/", "/stats", "/openapi.json"])
def test_the_listener_of_calls_serves_calls_and_health_alone(api: Api, path: str) -> None:
    assert (404, "route_unknown", None) == api.request("GET", path, calls_only=True).refusal
    assert 200 == api.request("GET", "/readyz", calls_only=True).status


def test_other_protocols_are_refused(api: Api) -> None:
    async def nothing(*_: object) -> dict[str, object]:
        return {}

    with pytest.raises(NotImplementedError):
        asyncio.run(api.app({"type": "websocket"}, nothing, nothing))  # type: ignore[arg-type]
