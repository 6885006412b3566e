"""The application as the server makes it, from a configuration and the page alone."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.api.api_client import FakePage
from worker.api.app import create_app
from worker.config import Config
from worker.errors import ConfigError


async def lifespan_and_get(app: Any, target: str) -> int:
    """Start it up, ask once, shut it down; the status."""
    events = asyncio.Queue[dict[str, Any]]()
    said: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []

    async def say(message: dict[str, Any]) -> None:
        said.append(message)

    async def give(message: dict[str, Any]) -> None:
        answered.append(message)

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    life = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, events.get, say))
    await events.put({"type": "lifespan.startup"})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": target,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, nothing, give)
    await events.put({"type": "lifespan.shutdown"})
    await life
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == [message["type"] for message in said]
    status: int = answered[0]["status"]
    return status


@pytest.mark.parametrize(
    ("target", "ready", "status"),
    [("/livez", False, 200), ("/readyz", False, 503), ("/tasks", False, 503), ("/tasks", True, 500)],
)
def test_it_answers_before_there_is_a_table(tmp_path: Path, target: str, ready: bool, status: int) -> None:
    app = create_app(Config(data_dir=str(tmp_path)), FakePage(ready=ready))
    assert status == asyncio.run(lifespan_and_get(app, target))


def test_a_wrong_token_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("secret read")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="line 1"):
        create_app(Config(data_dir=str(tmp_path), token_file=str(path)), FakePage())
    path.write_text(f"sha256:{hashlib.sha256(b'a').hexdigest()} read")
    app = create_app(Config(data_dir=str(tmp_path), token_file=str(path)), FakePage())
    assert 401 == asyncio.run(lifespan_and_get(app, "/tasks"))
