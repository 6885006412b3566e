"""What the process tests share: a factory of started launchers, and the ordinary user that some of them run as."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.anybody import NOBODY, python_of_anybody
from tests.e2e.harness import scratch as place_for_all
from tests.process.launched import Launched


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that every user can enter: pytest's own are private to who runs it."""
    with tempfile.TemporaryDirectory(prefix="galago-test-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def launch(scratch: Path) -> Iterator[Callable[..., Launched]]:
    """Starts launchers; at the end every process of theirs is gone."""
    started: list[Launched] = []

    def start(*options: str, **keywords: object) -> Launched:
        launched = Launched(scratch / "data", *options, **keywords)  # type: ignore[arg-type]
        started.append(launched)
        return launched

    yield start
    for launched in started:
        launched.destroy()


@pytest.fixture(scope="session")
def ordinary_python() -> Iterator[tuple[str, str]]:
    with place_for_all() as place:
        yield python_of_anybody(place)


@pytest.fixture
def ordinary(request: pytest.FixtureRequest) -> dict[str, object]:
    """Keywords for `launch`, to run it as an ordinary user."""
    if os.geteuid() != 0:
        return {}
    python, packages = request.getfixturevalue("ordinary_python")
    return {"user": NOBODY, "python": python, "PYTHONPATH": packages}
