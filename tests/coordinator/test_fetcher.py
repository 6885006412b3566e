"""Modules by URL: the fetcher's own work, done in this process."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.module_caps import Caps
from tests.coordinator import web as w
from tests.coordinator.fetching import DIGEST, EXPECTED, MAX_BYTES, WASM, failure, fetched, request_for
from worker.coordinator import fetcher, memfd
from worker.coordinator.fetch_wire import FetchFailed


@pytest.fixture
def site() -> Iterator[w.Web]:
    with w.serving() as web:
        web.routes["/m.wasm"] = w.answer(200, WASM)
        yield web


# -- over http ---------------------------------------------------------------------------------------------------------


def test_a_module_is_fetched_hashed_and_admitted(site: w.Web) -> None:
    assert (EXPECTED, WASM) == fetched(request_for(site.url("/m.wasm")))
    assert fetched(request_for(site.url("/m.wasm"), digest=DIGEST))[0] == EXPECTED


def test_the_request_carries_the_name_and_asks_for_no_compression(site: w.Web) -> None:
    names = {"modules.example": ["127.0.0.1"]}
    assert fetched(request_for(site.url("/m.wasm", "modules.example")), names)[0] == EXPECTED
    first, *fields = site.heads[0].decode().rstrip().split("\r\n")
    assert "GET /m.wasm HTTP/1.1" == first
    assert {f"Host: modules.example:{site.port}", "Accept-Encoding: identity", "Connection: close"} <= set(fields)


def test_the_query_is_sent_as_it_stands(site: w.Web) -> None:
    site.routes["/a%2Fb?x=%20&y"] = w.answer(200, WASM)
    assert fetched(request_for(site.url("/a%2Fb?x=%20&y")))[0] == EXPECTED


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + WASM,
        b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + WASM,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(WASM), WASM),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(WASM), WASM),
    ],
)
def test_every_framing_of_http_is_understood_and_the_type_is_not_looked_at(site: w.Web, answer: bytes) -> None:
    site.routes["/m"] = w.raw(answer)
    assert (EXPECTED, WASM) == fetched(request_for(site.url("/m")))


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "bad_answer", "answers 404 where 200 is needed"),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 1\r\n\r\na", "bad_answer", "answers 206"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + WASM, "bad_answer", f"after {len(WASM)} of 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + WASM, "bad_answer", "Content-Length isn't a number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + WASM, "bad_answer", "Content-Length isn't a number"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + WASM, "bad_answer", "'gzip' where no compression"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "bad_answer", "is cut short"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", "bad_answer", "chunks are malformed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "bad_answer", "HTTP as it should"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "bad_answer", "HTTP as it should"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_answer", "HTTP as it should"),
        (b"", "", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n", "module_too_large", "has 10,001 bytes, at most 10,000"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(10_001), "module_too_large", "has more bytes, at most 10,000"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "module_malformed", "an empty file"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "module_malformed", "starts with 00 61 73 6d"),
        (b"HTTP/1.1 200 OK\r\n\r\n(module)", "module_text", "text format"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "bad_answer", "without saying where to"),
    ],
)
def test_an_answer_that_is_no_module_fails_with_why(site: w.Web, answer: bytes, code: str, said: str) -> None:
    site.routes["/m"] = w.raw(answer)
    got, detail = failure(request_for(site.url("/m")))
    if not answer:  # a closed connection is told in two ways, by how far the request had come
        assert got in ("bad_answer", "unreachable")
    else:
        assert (code, True) == (got, said in detail), detail


def test_the_file_never_gets_more_than_the_cap(site: w.Web) -> None:
    site.routes["/m"] = w.raw(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(10 * MAX_BYTES))
    _, written = fetched(request_for(site.url("/m")))
    assert len(written) <= MAX_BYTES


def test_what_came_must_have_the_digest_that_was_named(site: w.Web) -> None:
    code, detail = failure(request_for(site.url("/m.wasm"), digest="sha256:" + "0" * 64))
    assert ("digest_mismatch", True) == (code, DIGEST in detail)


def test_the_caps_hold_for_what_came(site: w.Web) -> None:
    code, detail = failure(request_for(site.url("/m.wasm"), caps=Caps(max_exports=0)))
    assert ("module_limit", "the module has 1 exports, at most 0 are allowed") == (code, detail)


def test_nobody_listening_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, detail = failure(request_for(f"http://127.0.0.1:{port}/"))
    assert ("unreachable", True) == (code, "refused" in detail)


def test_a_second_address_is_tried_where_the_first_does_not_answer(site: w.Web) -> None:
    names = {"modules.example": ["127.0.0.2", "127.0.0.1"]}
    request = request_for(site.url("/m.wasm", "modules.example"), fetch_allow=("127.0.0.0/8",))
    assert EXPECTED == fetched(request, names)[0]


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    def no_such_name(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    fd = memfd.create("module")
    answer = fetcher.fetch(request_for("http://no.such.example/"), fd, no_such_name)
    os.close(fd)
    assert FetchFailed("unreachable", "no.such.example can't be resolved: Name or service not known") == answer


def test_a_server_that_says_nothing_is_given_up(site: w.Web) -> None:
    site.routes["/m"] = lambda connection, _: site.stopping.wait(10) and None
    assert "timed_out" == failure(request_for(site.url("/m"), timeout_s=0.2))[0]


def test_a_server_that_drips_is_given_up_after_the_whole_time(site: w.Web) -> None:
    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not site.stopping.wait(0.02):
            connection.sendall(b"a")

    site.routes["/m"] = drip
    code, detail = failure(request_for(site.url("/m"), timeout_s=0.5))
    assert ("timed_out", True) == (code, "longer than 0.5 s" in detail)


def test_a_server_that_drips_its_head_is_given_up_after_the_whole_time(site: w.Web) -> None:
    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not site.stopping.wait(0.02):
            connection.sendall(b"a")

    site.routes["/m"] = drip
    assert "timed_out" == failure(request_for(site.url("/m"), timeout_s=0.5))[0]


# -- where a name leads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1"])
def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(site: w.Web, address: str) -> None:
    request = request_for(site.url("/m.wasm", "evil.example"), fetch_allow=())
    code, detail = failure(request, {"evil.example": [address]})
    assert ("url_refused", True, []) == (code, f"leads to {address}" in detail, site.heads)


def test_a_name_with_one_address_inside_is_refused(site: w.Web) -> None:
    request = request_for(site.url("/m.wasm", "evil.example"), fetch_allow=())
    assert "url_refused" == failure(request, {"evil.example": ["8.8.8.8", "127.0.0.1"]})[0]


def test_a_name_is_resolved_once_and_connected_to_as_resolved(site: w.Web) -> None:
    # The second answer of this name would fail the test: `fetched` gives one answer a name.
    names = {"modules.example": ["127.0.0.1"]}
    assert EXPECTED == fetched(request_for(site.url("/m.wasm", "modules.example")), names)[0]


def test_proxies_of_the_environment_are_not_used(site: w.Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert EXPECTED == fetched(request_for(site.url("/m.wasm")))[0]


# -- redirects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(site: w.Web, status: int) -> None:
    site.routes["/a"] = w.answer(status, b"", "Location: m.wasm#part")
    assert EXPECTED == fetched(request_for(site.url("/a")))[0]


def test_three_redirects_are_followed_and_no_fourth(site: w.Web) -> None:
    for step in range(4):
        site.routes[f"/{step}"] = w.answer(302, b"", f"Location: {f'/{step - 1}' if step else '/m.wasm'}")
    assert EXPECTED == fetched(request_for(site.url("/2")))[0]
    assert ("bad_answer", "the server redirects more than 3 times") == failure(request_for(site.url("/3")))


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://10.0.0.1/m.wasm", "isn't a global address"),
        ("http://[::ffff:169.254.169.254]/", "isn't a global address"),
        ("//192.168.1.1/m.wasm", "isn't a global address"),
        ("http://inside.example/", "leads to 10.0.0.1"),
        ("http://user:pw@127.0.0.1/", "no user and no password"),
        ("file:///etc/passwd", "may not redirect to a file"),
        ("ftp://example.com/", "not by ftp"),
        ("http://0x7f.1/", "four decimal numbers"),
        ("/caf\xe9", "visible ASCII"),
    ],
)
def test_a_redirect_is_checked_like_the_url_itself(site: w.Web, location: str, said: str) -> None:
    site.routes["/a"] = w.raw(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode("latin-1"))
    request = request_for(site.url("/a"), file_dirs=("/etc",))
    code, detail = failure(request, {"inside.example": ["10.0.0.1"]})
    assert ("url_refused", True) == (code, said in detail), detail


# -- https -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return w.certificate(tmp_path_factory.mktemp("tls"), "modules.example")


@pytest.fixture
def secure_site(pem: Path) -> Iterator[w.Web]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with w.serving(context) as web:
        web.routes["/m.wasm"] = w.answer(200, WASM)
        yield web


def test_https_says_the_name_and_verifies_it(secure_site: w.Web, pem: Path) -> None:
    request = request_for(secure_site.url("/m.wasm", "modules.example"), ca_file=str(pem))
    assert EXPECTED == fetched(request, {"modules.example": ["127.0.0.1"]})[0]
    assert (["modules.example"], True) == (
        secure_site.names,
        f"Host: modules.example:{secure_site.port}".encode() in secure_site.heads[0],
    )


def test_https_with_another_name_or_an_unknown_authority_is_refused(secure_site: w.Web, pem: Path) -> None:
    other = request_for(secure_site.url("/m.wasm", "other.example"), ca_file=str(pem))
    unknown = request_for(secure_site.url("/m.wasm", "modules.example"))
    for request in (other, unknown):
        names = {"other.example": ["127.0.0.1"], "modules.example": ["127.0.0.1"]}
        code, detail = failure(request, names)
        assert ("unreachable", True) == (code, "certificate isn't good" in detail), detail
    assert [] == secure_site.heads


def test_https_to_a_server_without_tls_fails(site: w.Web, pem: Path) -> None:
    url = site.url("/m.wasm").replace("http:", "https:")
    assert "unreachable" == failure(request_for(url, ca_file=str(pem)))[0]


def test_a_redirect_from_https_to_http_is_refused(secure_site: w.Web, site: w.Web, pem: Path) -> None:
    secure_site.routes["/a"] = w.answer(302, b"", f"Location: {site.url('/m.wasm')}")
    request = request_for(secure_site.url("/a", "modules.example"), ca_file=str(pem))
    code, detail = failure(request, {"modules.example": ["127.0.0.1"]})
    assert ("url_refused", "a redirect may not lead from https to http") == (code, detail)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    directory = tmp_path / "shelf"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "m.wasm").write_bytes(WASM)
    (tmp_path / "outside.wasm").write_bytes(WASM)
    (directory / "link.wasm").symlink_to(directory / "deep" / "m.wasm")
    (directory / "linked").symlink_to(tmp_path)
    os.mkfifo(directory / "fifo")
    (directory / "large").write_bytes(bytes(MAX_BYTES + 1))
    return directory


def test_a_file_below_an_allowed_directory_is_read(shelf: Path) -> None:
    request = request_for(f"file://{shelf}/deep/m.wasm", file_dirs=(str(shelf),))
    assert (EXPECTED, WASM) == fetched(request)


def test_the_allowed_directory_itself_may_be_reached_by_a_link(shelf: Path) -> None:
    through = shelf / "linked" / "shelf"
    assert EXPECTED == fetched(request_for(f"file://{through}/deep/m.wasm", file_dirs=(str(through),)))[0]


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("none.wasm", "unreachable", "No such file"),
        ("link.wasm", "bad_answer", "isn't a regular file"),
        ("linked/outside.wasm", "unreachable", "links aren't followed"),
        ("deep", "bad_answer", "isn't a regular file"),
        ("fifo", "bad_answer", "isn't a regular file"),
        ("deep/m.wasm/x", "unreachable", "Not a directory"),
        ("../outside.wasm", "url_refused", "without empty parts"),
        ("large", "module_too_large", "has 10,001 bytes"),
    ],
)
def test_a_file_that_is_not_a_regular_one_below_it_fails(shelf: Path, path: str, code: str, said: str) -> None:
    got, detail = failure(request_for(f"file://{shelf}/{path}", file_dirs=(str(shelf),)))
    assert (code, True) == (got, said in detail), detail


def test_a_full_disk_is_told(site: w.Web) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    answer = fetcher.fetch(request_for(site.url("/m.wasm")), full)
    os.close(full)
    assert FetchFailed("storage_full", "the module can't be kept: No space left on device") == answer
