"""`doctor --live` as a client: what it sends, and what it makes of answers that are none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from worker import cli, live
from worker.errors import ExitCode, LiveError

AUDIT = {
    "differences": [{"kind": "zombie", "detail": "pid 7"}],
    "checked": {"children": 2, "cgroup": None},
}


class Played(HTTPServer):
    """A worker that gives one answer and remembers what it was asked."""

    status = 200
    body = json.dumps(AUDIT).encode()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Played

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("authorization")))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def played() -> Iterator[Played]:
    server = Played()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_audit_is_asked_for_with_the_token_if_there_is_one(played: Played) -> None:
    assert AUDIT == live.audit(played.url)
    assert AUDIT == live.audit(played.url + "/", "secret")
    assert [("/debug/audit", None), ("/debug/audit", "Bearer secret")] == played.asked


def test_differences_are_told_a_line_each(
    played: Played, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALAGO_URL", played.url)
    monkeypatch.setenv("GALAGO_TOKEN", "secret")
    assert ExitCode.DIFFERENT == cli.main(["doctor", "--live"])
    assert "checked: children 2\nzombie: pid 7\nthese differ\n" == capsys.readouterr().out
    assert [("/debug/audit", "Bearer secret")] == played.asked


def test_the_token_may_be_in_a_file_and_the_answer_json(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("of-a-file\n")
    options = ["--url", played.url, "--token-file", str(tmp_path / "token"), "--json"]
    assert ExitCode.DIFFERENT == cli.main(["doctor", "--live", *options])
    assert AUDIT == json.loads(capsys.readouterr().out)
    assert [("/debug/audit", "Bearer of-a-file")] == played.asked


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (403, b'{"code": "forbidden"}', "answered 403.*forbidden"),
        (200, b"hello", "no audit"),
        (200, b'{"differences": [1], "checked": {}}', "no audit"),
        (200, b"[]", "no audit"),
    ],
)
def test_another_answer_is_told(played: Played, status: int, body: bytes, told: str) -> None:
    played.status, played.body = status, body
    with pytest.raises(LiveError, match=told):
        live.audit(played.url)


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://", "http://127.0.0.1:99999"])
def test_a_url_of_no_worker_is_refused(url: str) -> None:
    with pytest.raises(LiveError, match=r"no URL of a worker|can't be asked"):
        live.audit(url)


def test_a_token_that_is_none_is_not_sent(played: Played, tmp_path: Path) -> None:
    with pytest.raises(LiveError, match="no token has"):
        live.audit(played.url, "sha256:ab read")
    with pytest.raises(LiveError, match="can't be read"):
        live.read_token(str(tmp_path / "absent"))
    assert [] == played.asked
