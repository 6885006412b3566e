"""What the tests of commands share: a command that speaks to the one worker, and what it said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.functions import EXPORTS, speaker
from worker.cli import main
from worker.client import Client


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """A table's lines, split at blanks."""
        return [line.split() for line in self.out.splitlines()]


Command = Callable[..., Said]


@pytest.fixture
def plain(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command with no worker named in its environment."""
    for name in ("GALAGO_URL", "GALAGO_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def command(*argv: str) -> Said:
        code = main(argv)
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return command


@pytest.fixture
def command(plain: Command, served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command that speaks to the worker."""
    monkeypatch.setenv("GALAGO_URL", served[0])
    monkeypatch.setenv("GALAGO_TOKEN", served[1])
    return plain


@pytest.fixture
def client(served: tuple[str, str]) -> Iterator[Client]:
    with Client(served[0], token=served[1]) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A function's, that no other test has."""
    return f"f{uuid4().hex}"


@pytest.fixture(scope="session")
def hi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handler that answers `hi` to everything."""
    path = tmp_path_factory.mktemp("modules") / "hi.wasm"
    path.write_bytes(speaker("hi\n"))
    return path


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions of numbers: `add` and others."""
    path = tmp_path_factory.mktemp("modules") / "exports.wasm"
    path.write_bytes(EXPORTS)
    return path
