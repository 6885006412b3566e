"""Modules by URL: from files and from http, what is refused when it is posted, and what fails when it is fetched."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guests
from tests.e2e.harness import HELLO, Worker, fields, running, wasm

MAX_MODULE_BYTES = 64 * 1024
EMPTY = b"\0asm\1\0\0\0"
OPTIONS = (f"--max-module-bytes={MAX_MODULE_BYTES}", "--fetch-allow=127.0.0.1", "--fetch-timeout-s=20")


@pytest.fixture(scope="module")
def files(place: Path) -> Path:
    """The directory that `file:` URLs may lie below."""
    path = place / "modules"
    path.mkdir(mode=0o755)
    (path / "below").mkdir(mode=0o755)
    (place / "outside.wasm").write_bytes(wasm(HELLO))
    return path


@pytest.fixture(scope="module")
def worker(place: Path, files: Path) -> Iterator[Worker]:
    with running(place / "data", *OPTIONS, f"--file-dir={files}") as worker:
        yield worker


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Site(ThreadingHTTPServer):
    """Serves `modules` by path, sends `/moved/...` on by `redirects`, and has nothing else."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.modules: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("location", self.server.redirects[self.path])
            self.send_header("content-length", "0")
            self.end_headers()
            return
        body = self.server.modules.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


def run_url(worker: Worker, url: str, digest: str | None = None, **task: Any) -> dict[str, Any]:
    module = {"url": url, **({"digest": digest} if digest else {})}
    answer = worker.post(wait_s=60, module=module, **task)
    assert 201 == answer.status_code, answer.text
    ended: dict[str, Any] = answer.json()
    return ended


def test_a_module_below_an_allowed_directory_is_fetched_and_kept(worker: Worker, files: Path) -> None:
    module = wasm(HELLO)
    (files / "below" / "hello world.wasm").write_bytes(module)
    url = f"file://{files}/below/hello%20world.wasm"
    task = run_url(worker, url)
    assert ("completed", b"hello world\n") == (task["state"], worker.stdout(task["id"]))
    assert {"url": url, "digest": digest_of(module)} == task["module"]
    assert ["accepted", "module_fetched"] == [event["event"] for event in task["events"]][:2]
    assert 200 == worker.http.get(f"/modules/{digest_of(module)}").status_code


def test_a_module_is_fetched_by_http_and_its_params_are_typed_then(worker: Worker, site: Site) -> None:
    module = wasm(guests.NUMBERS)
    site.modules["/m.wasm?v=1"] = module
    entry = {"export": "all", "params": [1, "2", 3.5, "NaN"]}
    task = run_url(worker, f"{site.url}/m.wasm?v=1", digest_of(module), entry=entry)
    assert ("completed", ["NaN", 3.5, 2, 1], ["/m.wasm?v=1"]) == (task["state"], task["result"], site.asked)


def test_a_module_that_is_here_is_not_fetched_again(worker: Worker, site: Site) -> None:
    digest = worker.upload(wasm(HELLO))
    task = run_url(worker, f"{site.url}/never-asked.wasm", digest)
    assert ("completed", []) == (task["state"], site.asked)


def test_a_redirect_is_followed_where_it_may_be(worker: Worker, site: Site) -> None:
    site.modules["/m.wasm"] = wasm(HELLO)
    site.redirects["/moved"] = "/m.wasm"
    task = run_url(worker, f"{site.url}/moved")
    assert ("completed", ["/moved", "/m.wasm"]) == (task["state"], site.asked)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/m.wasm", "http://[::1]:{port}/m.wasm", "file:///etc/passwd"]
)
def test_a_redirect_to_where_nobody_may_fetch_is_not_followed(worker: Worker, site: Site, target: str) -> None:
    site.modules["/m.wasm"] = wasm(HELLO)
    site.redirects["/moved"] = target.format(port=site.server_address[1])
    task = run_url(worker, f"{site.url}/moved")
    assert ("failed", "fetch_failed", ["/moved"]) == (task["state"], task["reason"], site.asked)
    assert "url_refused" in task["detail"]


def test_another_digest_than_the_tasks_ends_it(worker: Worker, site: Site) -> None:
    site.modules["/m.wasm"] = wasm(guests.unique(30))
    task = run_url(worker, f"{site.url}/m.wasm", digest_of(b"another"))
    assert ("failed", "fetch_failed", None) == (task["state"], task["reason"], task["started_at"])
    assert digest_of(b"another") in task["detail"]
    assert (404, "module_unknown") == worker.refused(worker.http.get(f"/modules/{digest_of(b'another')}"))


@pytest.mark.parametrize(
    "body",
    [b"<html>not found</html>", b"", HELLO.encode(), EMPTY + bytes(MAX_MODULE_BYTES)],
    ids=["html", "empty", "text", "too large"],
)
def test_what_comes_by_url_is_admitted_like_an_upload(worker: Worker, site: Site, body: bytes) -> None:
    site.modules["/m.wasm"] = body
    task = run_url(worker, f"{site.url}/m.wasm")
    assert ("failed", "fetch_failed") == (task["state"], task["reason"])


def test_what_does_not_fit_the_fetched_module_is_a_failed_link(worker: Worker, site: Site) -> None:
    site.modules["/m.wasm"] = wasm(guests.LACKING)
    assert "link_failed" == run_url(worker, f"{site.url}/m.wasm", entry={"export": "ask"})["reason"]
    assert "link_failed" == run_url(worker, f"{site.url}/m.wasm", entry={"export": "none"})["reason"]
    task = run_url(worker, f"{site.url}/m.wasm", entry={"export": "ask"}, unknown_imports="stub")
    assert [5] == task["result"]


def test_a_site_that_has_nothing_and_a_port_where_nobody_listens(worker: Worker, site: Site) -> None:
    assert "fetch_failed" == run_url(worker, f"{site.url}/absent.wasm")["reason"]
    assert "fetch_failed" == run_url(worker, "http://127.0.0.1:1/m.wasm")["reason"]


@pytest.mark.root
def test_a_fetcher_has_a_uid_of_its_own_and_its_death_ends_its_task_alone(worker: Worker, site: Site) -> None:
    site.modules["/m.wasm"] = wasm(HELLO)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        waiting = worker.post(module={"url": f"http://127.0.0.1:{silent.getsockname()[1]}/m.wasm"}).json()["id"]
        worker.sealed_fetcher().send_signal(signal.SIGSYS)  # as its filter ends it
        ended = worker.await_end(waiting)
    assert ("failed", "fetch_failed") == fields(ended, "state", "reason")
    assert "killed by SIGSYS" in ended["detail"]
    assert "completed" == run_url(worker, f"{site.url}/m.wasm")["state"]


def test_a_missing_file_and_one_behind_a_symlink_are_not_fetched(worker: Worker, files: Path) -> None:
    (files / "link.wasm").symlink_to(files.parent / "outside.wasm")
    (files / "way-out").symlink_to(files.parent)
    for path in ("absent.wasm", "link.wasm", "way-out/outside.wasm"):
        assert ("failed", "fetch_failed") == fields(run_url(worker, f"file://{files}/{path}"), "state", "reason"), path


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/m.wasm",
        "http://10.0.0.1/m.wasm",
        "http://[::1]/m.wasm",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/m.wasm",
        "http://user:secret@127.0.0.1/m.wasm",
        "ftp://127.0.0.1/m.wasm",
        "file:///etc/passwd",
        "file://{files}/../outside.wasm",
        "file://{files}/%2e%2e/outside.wasm",
        "m.wasm",
    ],
)
def test_a_url_that_leads_nowhere_good_is_refused_when_it_is_posted(worker: Worker, files: Path, url: str) -> None:
    answer = worker.post(module={"url": url.format(files=files)})
    assert (422, "url_refused") == worker.refused(answer)
    assert "module.url" == answer.json()["field"]


def test_a_post_without_digest_and_url_or_with_an_unknown_digest_is_refused(worker: Worker) -> None:
    assert (422, "field_missing") == worker.refused(worker.post(module={}))
    assert (404, "module_unknown") == worker.refused(worker.post(module={"digest": digest_of(b"?")}))
    assert (422, "field_range") == worker.refused(worker.post(module={"digest": "sha256:ABC"}))
