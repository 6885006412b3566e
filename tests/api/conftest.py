"""An application on an empty data directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.api_client import MODULE, Api, wasm


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Makes applications with settings of their own; all are closed."""
    made: list[Api] = []

    def make(**settings: Any) -> Api:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Api(directory, **settings))
        return made[-1]

    yield make
    for api in made:
        api.close()


@pytest.fixture(scope="session")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for all tests that ask it to refuse or to add, and look at nothing else; it has a volume `corpus`."""
    directory = tmp_path_factory.mktemp("shared")
    (directory / "data").mkdir()
    (directory / "volume").mkdir()
    shared = Api(directory / "data", volumes=(f"corpus={directory}/volume",))
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def shared_digest(shared_api: Api) -> str:
    """MODULE there."""
    return str(shared_api.upload(wasm(MODULE)).json["digest"])


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture
def digest(api: Api) -> str:
    """MODULE, uploaded."""
    answer = api.upload(wasm(MODULE))
    assert answer.status == 201
    return str(answer.json["digest"])
