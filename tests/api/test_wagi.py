"""What a WAGI guest writes, as an answer or as none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.protocol.call import Answer
from worker.api.problems import Problem
from worker.api.wagi import MAX_FIELDS, MAX_HEAD_BYTES, Wagi, parse_head, split

Fields = list[tuple[bytes, bytes]]


def response(stdout: bytes) -> tuple[int, Fields, bytes]:
    return Wagi.response(Answer("exit", stdout))


@pytest.mark.parametrize(
    ("stdout", "expected"),
    [
        (b"Content-Type: text/plain\n\nhello", (200, [(b"content-type", b"text/plain")], b"hello")),
        (b"Content-Type: text/plain\r\n\r\nhello", (200, [(b"content-type", b"text/plain")], b"hello")),
        (b"Content-Type: text/plain\n\r\nhello", (200, [(b"content-type", b"text/plain")], b"hello")),
        (b"A:1\nB:  2 \t\n\n", (200, [(b"a", b"1"), (b"b", b"2")], b"")),
        (b"A: 1\n\n\n\nx", (200, [(b"a", b"1")], b"\n\nx")),
        (b"A:\n\n\x00\xff", (200, [(b"a", b"")], b"\x00\xff")),
        (b"Status: 404 Not Found\n\n", (404, [], b"")),
        (b"status:599\n\n", (599, [], b"")),
        (b"Status: 200\n\n", (200, [], b"")),
        (b"Status: 418 I'm: a teapot\nX-A: b\n\n", (418, [(b"x-a", b"b")], b"")),
        (b"Location: /elsewhere\n\n", (302, [(b"location", b"/elsewhere")], b"")),
        (b"Location: https://x.example/\nStatus: 201\n\n", (201, [(b"location", b"https://x.example/")], b"")),
        (b"Set-Cookie: a=1\nSet-Cookie: b=2\n\n", (200, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], b"")),
        (b"X: caf\xc3\xa9\n\n", (200, [(b"x", b"caf\xc3\xa9")], b"")),
    ],
)
def test_a_head_and_a_body_are_told_apart(stdout: bytes, expected: tuple[int, Fields, bytes]) -> None:
    assert expected == response(stdout)


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 5",
        b"Content-Length: 5\nContent-Length: 6",
        b"Transfer-Encoding: chunked",
        b"Connection: keep-alive, X-Secret",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: close",
        b"Proxy-Authenticate: Basic",
        b"TE: trailers",
        b"Trailer: x",
        b"Upgrade: websocket",
        b"Date: now",
        b"Server: mine",
        b"Server-Timing: x",
        b"X-Galago-Executed: no",
        b"x-galago-fuel: 1",
        b"X-Accel-Redirect: /etc/passwd",
        b"X-Sendfile: /etc/passwd",
        b"X-Reproxy-URL: http://10.0.0.1/",
        b"Alt-Svc: h3",
        b"Clear-Site-Data: *",
        b"Service-Worker-Allowed: /",
    ],
)
def test_what_a_guest_may_not_say_is_dropped(field: bytes) -> None:
    assert (200, [(b"a", b"1")], b"x") == response(field + b"\nA: 1\n\nx")
    assert (200, [(b"a", b"1")], b"x") == response(field.upper() + b"\r\nA: 1\r\n\r\nx")


@pytest.mark.parametrize("connection", [b"X-Secret", b"close, x-secret ,x-Other", b"x-secret\nConnection: X-Other"])
def test_what_it_says_to_be_of_the_connection_alone_is_dropped(connection: bytes) -> None:
    stdout = b"X-Secret: 1\nConnection: " + connection + b"\nA: 1\n\n"
    assert (200, [(b"a", b"1")]) == response(stdout)[:2]


def test_blanks_take_no_time() -> None:
    blanks = b" " * 60_000
    assert [(b"a", b"x" + blanks + b"y")] == response(b"A: x" + blanks + b"y\n\n")[1]
    assert [(b"a", b"x")] == response(b"A:" + blanks + b"x" + blanks[:5000] + b"\n\n")[1]
    with pytest.raises(Problem, match="control characters"):
        response(b"A:" + blanks + b"\x01\n\n")


@pytest.mark.parametrize(
    "stdout",
    [
        b"",
        b"hello",
        b"\n",
        b"\n\n",
        b"\n\nhello",
        b"\r\n\r\nhello",
        b"A: 1",
        b"A: 1\n",
        b"A: 1\nhello",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\nA: 1\n\n",
        b"A: 1\n folded\n\n",
        b"A: 1\n: 2\n\n",
        b"A : 1\n\n",
        b" A: 1\n\n",
        b"A B: 1\n\n",
        b"A\x00: 1\n\n",
        b"A: \x00\n\n",
        b"A: x\rSet-Cookie: y\n\n",
        b"A: x\r\r\n\n",
        b"A: \x0b\n\n",
        b"A: x\ty\n\n",
        b"A: \x7f\n\n",
        b"A\xff: 1\n\n",
        b"Status:\n\n",
        b"Status: 0\n\n",
        b"Status: 100\n\n",
        b"Status: 199\n\n",
        b"Status: 600\n\n",
        b"Status: 999\n\n",
        b"Status: 425\n\n",
        b"Status: 425 Too Early\n\n",
        b"Status: 20\n\n",
        b"Status: 2000\n\n",
        b"Status: 200OK\n\n",
        b"Status: -200\n\n",
        b"Status: +200\n\n",
        b"Status: \xd9\xa2\xd9\xa0\xd9\xa0\n\n",
        b"Status: 200\nStatus: 200\n\n",
        b"A: 1\n" * (MAX_FIELDS + 1) + b"\n",
        b"A: " + b"x" * MAX_HEAD_BYTES + b"\n\n",
        b"A: 1\n" * 50_000,
    ],
)
def test_what_could_be_read_in_two_ways_is_no_answer(stdout: bytes) -> None:
    with pytest.raises(Problem) as refused:
        response(stdout)
    assert ("guest_bad_response", "yes") == (refused.value.code, refused.value.executed)


def test_a_head_may_be_as_long_as_it_may() -> None:
    fields = b"A: 1\n" * MAX_FIELDS
    assert MAX_FIELDS == len(response(fields + b"\n")[1])
    longest = b"A: " + b"x" * (MAX_HEAD_BYTES - 3)
    assert [(b"a", longest[3:])] == response(longest + b"\n\nbody")[1]
    assert (longest, b"body") == split(longest + b"\r\n\r\nbody")


def test_a_head_that_came_before_is_not_changed_by_who_got_it() -> None:
    first = response(b"A: 1\n\n")
    first[1].append((b"b", b"2"))
    assert [(b"a", b"1")] == response(b"A: 1\n\n")[1]


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_a_problem(stdout: bytes) -> None:
    try:
        status, fields, body = response(stdout)
    except Problem:
        return
    assert 200 <= status < 600
    assert 425 != status
    assert stdout.endswith(body)
    for name, value in fields:
        assert not set(name + value) & {0, 10, 13}


_TOKENS = st.text("abcXYZ-_!#$%&'*+.^`|~019", min_size=1, max_size=12)
_VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@given(
    st.lists(st.tuples(_TOKENS, _VALUES), min_size=1, max_size=MAX_FIELDS),
    st.binary(max_size=50),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_what_is_written_is_what_is_read(fields: list[tuple[str, str]], body: bytes, end: bytes) -> None:
    written = [("X" + name, value) for name, value in fields]  # none of those that mean something
    head = b"".join(f"{name}: {value}".encode() + end for name, value in written)
    assert (200, [(name.lower().encode(), value.encode()) for name, value in written], body) == response(
        head + end + body
    )


@given(st.binary(max_size=100))
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    try:
        status, _ = parse_head(head)
    except Problem:
        return
    assert 200 <= status < 600
