"""Tokens: their file, and what each may do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.api_client import MODULE, Api, wasm
from worker.api.auth import ANYBODY, Tokens
from worker.core.commands import AddModule
from worker.errors import ConfigError

Make = Callable[..., Api]


def line(token: str, scopes: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()} {scopes}"


@pytest.fixture
def guarded(make_api: Make) -> Api:
    text = "\n".join(("# rotated", line("reader", "read"), line("runner", "run, call"), line("all", "read,run,admin")))
    return make_api(tokens=Tokens.parse(text, "a test"))


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/tasks", "read"),
        ("HEAD", "/tasks", "read"),
        ("GET", "/modules", "read"),
        ("GET", "/stats", "read"),
        ("GET", "/tasks/x/stdout", "read"),
        ("POST", "/tasks", "run"),
        ("POST", "/modules", "run"),
        ("DELETE", "/tasks/x", "run"),
        ("DELETE", "/modules/x", "run"),
        ("GET", "/functions", "read"),
        ("GET", "/revisions/default", "read"),
        ("GET", "/revisions/f", "read"),
        ("GET", "/metrics", "read"),
        ("PUT", "/revisions/f/v1/default/on", "admin"),
        ("PUT", "/revisions/f/v1/default/off", "admin"),
    ],
)
def test_a_route_needs_its_scope(guarded: Api, method: str, path: str, scope: str) -> None:
    other = {"read": "runner", "run": "reader", "admin": "runner"}[scope]
    assert 401 == guarded.request(method, path).status
    guarded.bearer = other
    refused = guarded.request(method, path)
    assert (403, f'Bearer error="insufficient_scope", scope="{scope}"') == (
        refused.status,
        refused.headers["www-authenticate"],
    )
    for token in ({"read": "reader", "run": "runner", "admin": "all"}[scope], "all"):
        guarded.bearer = token
        assert guarded.request(method, path).status not in (401, 403)


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/openapi.json"])
def test_health_and_the_document_are_open(guarded: Api, path: str) -> None:
    assert 200 == guarded.get(path).status


def test_options_need_no_token(guarded: Api) -> None:
    assert 204 == guarded.request("OPTIONS", "/tasks").status


@pytest.mark.parametrize(
    "header", ["reader", "Basic cmVhZGVy", "Bearer", "Bearer a b", "Bearer unknown", "bearer \u00e9"]
)
def test_what_is_no_known_bearer_token_is_unauthorized(guarded: Api, header: str) -> None:
    answer = guarded.get("/tasks", ("authorization", header))
    assert (401, "unauthorized") == (answer.status, answer.code)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_scheme_is_case_insensitive(guarded: Api) -> None:
    assert 200 == guarded.get("/tasks", ("authorization", "bEARER reader")).status


def test_with_tokens_other_machines_and_names_are_served(guarded: Api) -> None:
    guarded.bearer = "reader"
    assert 200 == guarded.request("GET", "/tasks", ("host", "node7.example"), client="10.0.0.1").status


def test_a_body_is_not_read_before_its_sender_is_known(guarded: Api) -> None:
    assert 401 == guarded.request("POST", "/modules", ("content-type", "application/wasm"), body=[60.0]).status


def test_the_token_is_named_by_its_hash_to_the_coordinator(guarded: Api) -> None:
    guarded.bearer = "runner"
    assert 201 == guarded.upload(wasm(MODULE)).status
    (added,) = [command for command in guarded.coordinator.asked if isinstance(command, AddModule)]
    assert hashlib.sha256(b"runner").hexdigest()[:16] == added.token
    assert 0 < guarded.reader.usage(added.token).stored_bytes


def test_anybody_may_do_everything_under_no_name(api: Api) -> None:
    assert 201 == api.upload(wasm(MODULE)).status
    assert ANYBODY.id == api.coordinator.asked[-1].token  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "secret read",
        "sha256:" + "0" * 63 + " read",
        "sha256:" + "0" * 64,
        "sha256:" + "0" * 64 + " write",
        "sha256:" + "0" * 64 + " read,",
        line("a", "read") + "\n" + line("a", "run"),
    ],
)
def test_a_wrong_line_is_named_but_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="tokens") as refused:
        Tokens.parse(text, "tokens")
    assert "secret" not in str(refused.value)


def test_a_token_file_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", "read"))
    path.chmod(0o600)
    assert "read" in Tokens.load(str(path)).admit(b"Bearer a", "read").scopes
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        Tokens.load(str(path))
    path.chmod(0o600)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        Tokens.load(str(path))
    with pytest.raises(ConfigError, match="can be read"):
        Tokens.load(str(tmp_path / "none"))


def test_tokens_handed_over_in_memory_are_read_from_their_start() -> None:
    fd = os.memfd_create("tokens")
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, line("a", "read").encode())
        for _ in range(2):
            assert "read" in Tokens.load(f"/proc/self/fd/{fd}").admit(b"Bearer a", "read").scopes
    finally:
        os.close(fd)
