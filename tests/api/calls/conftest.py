"""One application for the tests of calls, and runners that are played."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.api_client import Api
from tests.api.calls.scopes import Play
from tests.api.deployed import Deployed
from tests.api.played_runner import Act, PlayedRunner
from worker.core.changes import SetDefault
from worker.core.task import State, Status


@pytest.fixture
def play() -> Iterator[Play]:
    """Plays the runners of a revision."""
    made: list[PlayedRunner] = []

    def start(deployed: Deployed, *acts: Act, queue: int = 16) -> PlayedRunner:
        made.append(PlayedRunner(deployed.socket, *acts, queue=queue))
        return made[-1]

    yield start
    for runner in made:
        runner.close()


@pytest.fixture(scope="module")
def one_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    made = Api(tmp_path_factory.mktemp("calls"))
    yield made
    made.close()


@pytest.fixture
def api(one_api: Api) -> Iterator[Api]:
    """One for all tests; each finds it without a revision."""
    one_api.coordinator.asked.clear()
    yield one_api
    one_api.page.draining = False
    functions, routes = one_api.reader.routes()
    for route in routes:
        task = one_api.reader.task(route.task_id)
        assert task is not None
        one_api.coordinator.finish(task.id, Status(State.COMPLETED))
    for row in functions:
        one_api.writer.apply([SetDefault(row.name, None, row.generation + 1)])
    one_api.page.route_generation += 1


@pytest.fixture
def f(api: Api) -> Deployed:
    return Deployed(api)
