"""Which worker is spoken to, as whom, and what is said where that fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.client.played import problem
from worker.cli import server
from worker.client import Broken, NotAWorker, StillGoing
from worker.client.requests import refusal
from worker.errors import CommandExit


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    return path


def test_options_win_over_the_environment(
    plain: Command, served: tuple[str, str], token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file.write_text(served[1] + "\n")
    monkeypatch.setenv("GALAGO_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GALAGO_TOKEN", "wrong")
    assert 0 == plain("tasks", "--url", served[0], "--token-file", str(token_file)).code


def test_without_a_token_it_says_how_one_is_given(plain: Command, served: tuple[str, str]) -> None:
    said = plain("tasks", "--url", served[0])
    assert (CommandExit.NOT_ALLOWED, "") == (said.code, said.out)
    assert "--token-file FILE, or GALAGO_TOKEN" in said.err


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("secret", 0o644, "can be read by others: chmod 600"),
        ("sha256:" + "ab" * 32 + " read\n", 0o600, "has hashes, as `serve --token-file` takes them"),
        ("two tokens", 0o600, "must hold one token and nothing else"),
        ("", 0o600, "must hold one token and nothing else"),
        ("\u00e9", 0o600, "gives no token"),
    ],
)
def test_a_file_that_holds_no_token_of_ours_is_refused(
    plain: Command, token_file: Path, text: str, mode: int, told: str
) -> None:
    token_file.write_text(text)
    token_file.chmod(mode)
    said = plain("tasks", "--token-file", str(token_file))
    assert CommandExit.NO_INPUT == said.code
    assert told in said.err
    assert "secret" not in said.err


def test_a_token_file_that_is_not_there_is_told(plain: Command, tmp_path: Path) -> None:
    assert CommandExit.NO_INPUT == plain("tasks", "--token-file", str(tmp_path / "nowhere")).code


def test_where_nobody_serves_it_says_how_to_start_one(plain: Command) -> None:
    said = plain("stats", "--url", "http://127.0.0.1:1")
    assert (CommandExit.UNREACHABLE, "") == (said.code, said.out)
    assert "can't be reached: Connection refused\n  is a worker serving there? `galago-worker serve" in said.err


def test_what_is_no_address_is_told(plain: Command) -> None:
    said = plain("stats", "--url", "localhost:8470")
    assert (CommandExit.USAGE, True) == (said.code, "one looks like http://127.0.0.1:8470" in said.err)


@pytest.mark.parametrize("package", ["httpx", "rich"])
def test_without_its_extra_a_command_says_how_to_get_it(
    command: Command, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] == package or name.startswith("worker.client")]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delattr("worker.client", raising=False)
    said = command("tasks")
    assert (CommandExit.NOT_INSTALLED, "") == (said.code, said.out)
    assert said.err.startswith("galago-worker: this command needs ")
    assert said.err.endswith("pip install 'galago-worker[client]'\n")


def refused(status: int, code: str, executed: str, **headers: str) -> Any:
    return refusal(problem(status, code, executed, **headers))


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (refused(401, "unauthorized", "no"), CommandExit.NOT_ALLOWED, "GALAGO_TOKEN"),
        (refused(403, "forbidden", "no"), CommandExit.NOT_ALLOWED, "scopes"),
        (refused(404, "task_unknown", "no"), CommandExit.REFUSED, "`galago-worker tasks` lists them"),
        (refused(429, "queue_full", "no", retry_after="1"), CommandExit.TRY_LATER, "nothing was executed"),
        (refused(425, "draining", "no"), CommandExit.TRY_LATER, "nothing was executed"),
        (refused(502, "guest_trap", "yes"), CommandExit.FAILED, "guest_trap"),
        (refused(504, "deadline", "yes"), CommandExit.FAILED, "deadline"),
        (refused(502, "runner_died", "maybe"), CommandExit.WORKER_FAILED, "it may have been done all the same"),
        (refused(500, "internal", "maybe"), CommandExit.WORKER_FAILED, "it may have been done all the same"),
        (Broken("u", "reset"), CommandExit.WORKER_FAILED, "it may have been done all the same"),
        (NotAWorker("u", 200, "text/html"), CommandExit.WORKER_FAILED, "is a galago-worker there?"),
        (StillGoing("t1", "running", 5), CommandExit.FAILED, "`galago-worker task t1 --follow` waits on"),
    ],
)
def test_an_error_has_an_exit_code_and_says_what_to_do(error: Any, code: CommandExit, told: str) -> None:
    explained = server.explained(error)
    assert code == explained.exit_code
    assert told in str(explained)
