"""The variables of a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api import cgi
from worker.api.problems import Problem

Headers = list[tuple[bytes, bytes]]


def scope(**changes: object) -> dict[str, object]:
    return {
        "method": "GET",
        "http_version": "1.1",
        "query_string": b"",
        "server": ("10.0.0.1", 8470),
        "client": ("10.0.0.9", 5),
        **changes,
    }


def variables(headers: Headers, body_bytes: int | None = None, **changes: object) -> list[tuple[bytes, bytes]]:
    """Names and values, as a guest would see them; never one more than the message says."""
    path = cgi.Path(b"/functions/f/r/%20", b"/functions/f/r", b"/ ")
    block, count = path.variables(scope(**changes), cgi.read_fields(headers), body_bytes)
    assert block.endswith(b"\0")
    found = [(name, value) for name, _, value in [each.partition(b"=") for each in block[:-1].split(b"\0")]]
    assert count == len(found)
    return found


def of_header(headers: Headers) -> dict[bytes, bytes]:
    return {name: value for name, value in variables(headers) if name.startswith((b"HTTP_", b"CONTENT_", b"TRACE"))}


def test_without_a_header_there_is_what_there_always_is() -> None:
    assert [
        (b"GATEWAY_INTERFACE", b"CGI/1.1"),
        (b"SERVER_PROTOCOL", b"HTTP/1.0"),
        (b"SERVER_NAME", b"10.0.0.1"),
        (b"SERVER_PORT", b"8470"),
        (b"REQUEST_METHOD", b"PUT"),
        (b"SCRIPT_NAME", b"/functions/f/r"),
        (b"PATH_INFO", b"/ "),
        (b"REMOTE_ADDR", b"10.0.0.9"),
        (b"REQUEST_URI", b"/functions/f/r/%20?q"),
        (b"QUERY_STRING", b"q"),
        (b"CONTENT_LENGTH", b"0"),
    ] == [
        variable
        for variable in variables([], 0, http_version="1.0", method="PUT", query_string=b"q")
        if variable[0] != b"SERVER_SOFTWARE"
    ]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"x.example", b"x.example"),
        (b"x.example:99", b"x.example"),
        (b"[::1]:99", b"[::1]"),
        (b"10.1.1.1", b"10.1.1.1"),
        (b"", b"10.0.0.1"),
        (b"a b", b"10.0.0.1"),
        (b"x.example/evil", b"10.0.0.1"),
        (b"h" * 300, b"h" * 300),
    ],
)
def test_the_server_is_called_as_the_client_calls_it(host: bytes, name: bytes) -> None:
    assert (name, b"8470") == tuple(dict(variables([(b"host", host)]))[key] for key in (b"SERVER_NAME", b"SERVER_PORT"))


@pytest.mark.parametrize(
    "name",
    [
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"expect", b"proxy", b"content-length"),
        *(b"x-galago-retry", b"x-galago-limit-fuel", b"x-galago-anything", b"x_y", b"_", b"http_host"),
    ],
)
def test_some_fields_are_no_guests(name: bytes) -> None:
    assert {} == of_header([(name, b"x")])


def test_fields_become_variables() -> None:
    assert {
        b"HTTP_ACCEPT": b"a, b",
        b"HTTP_COOKIE": b"a=1; b=2",
        b"CONTENT_TYPE": b"text/plain",
        b"HTTP_AUTHORIZATION": b"Bearer x",
        b"HTTP_TRACEPARENT": b"00-1",
        b"TRACEPARENT": b"00-1",
        b"HTTP_X_EMPTY": b"",
        b"HTTP_X": b"a=b\r \xff",
    } == of_header(
        [
            (b"accept", b"a"),
            (b"cookie", b"a=1"),
            (b"accept", b"b"),
            (b"content-type", b"text/plain"),
            (b"authorization", b"Bearer x"),
            (b"traceparent", b"00-1"),
            (b"x-empty", b""),
            (b"cookie", b"b=2"),
            (b"x", b"a=b\r \xff"),
        ]
    )


@pytest.mark.parametrize("name", [b"authorization", b"content-length", b"content-type", b"host"])
def test_what_two_could_read_in_two_ways_comes_once(name: bytes) -> None:
    with pytest.raises(Problem) as refused:
        variables([(name, b"a"), (b"x", b"1"), (name, b"a")])
    assert ("bad_header", name.decode(), "no") == (refused.value.code, refused.value.field, refused.value.executed)


def test_clients_share_what_is_kept_of_a_path() -> None:
    path = cgi.Path(b"/functions/f", b"/functions/f", b"")
    for number in range(100):
        block, _ = path.variables(scope(client=(f"10.0.0.{number}", 5)), {b"host": b"x"}, None)
        assert f"\0REMOTE_ADDR=10.0.0.{number}\0".encode() in block
    assert 1 == len(path._blocks)
    for number in range(100):
        block, _ = path.variables(scope(), {b"host": b"x%d" % number}, None)
        assert b"\0SERVER_NAME=x%d\0" % number in block
    assert len(path._blocks) <= cgi._MAX_PATH_BLOCKS


def test_a_value_with_a_nul_would_be_two() -> None:
    with pytest.raises(Problem) as refused:
        variables([(b"x", b"a\0HTTP_Y=b")])
    assert ("bad_header", "no") == (refused.value.code, refused.value.executed)


def test_more_names_than_are_kept_are_all_handed_on() -> None:
    for number in range(cgi._MAX_KEPT + 100):
        name = b"x-%d" % number
        assert {b"HTTP_X_%d" % number: b"1"} == of_header([(name, b"1")])
    assert {b"HTTP_" + b"X" * 300: b"1", b"HTTP_Y": b"2"} == of_header([(b"x" * 300, b"1"), (b"y", b"2")])
    assert len(cgi._prefixes) <= cgi._MAX_KEPT


@given(
    st.lists(
        st.tuples(
            st.text("abcdefgh-_", min_size=1, max_size=6), st.binary(max_size=8).filter(lambda raw: b"\0" not in raw)
        ),
        max_size=12,
    )
)
def test_every_variable_comes_once_and_nothing_is_made_up(headers: list[tuple[str, bytes]]) -> None:
    names = [name for name, _ in variables([(name.encode(), value) for name, value in headers])]
    assert len(set(names)) == len(names)
    expected = {b"HTTP_" + name.upper().replace("-", "_").encode() for name, _ in headers if "_" not in name}
    assert expected == {name for name in names if name.startswith(b"HTTP_")}
