"""What a file of hostile cases asks for by `pytestmark`: after each of its tests an ordinary job must succeed."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.conftest import place
from tests.e2e.harness import Worker
from tests.hostile.ordinary import assert_unharmed, own_processes

__all__ = ["place"]


@pytest.fixture(scope="module")
def own(worker: Worker) -> list[psutil.Process]:
    """The processes of the file's worker, as they were when its first case began."""
    return own_processes(worker)


@pytest.fixture
def an_ordinary_job_follows(worker: Worker, own: list[psutil.Process]) -> Iterator[None]:
    """`worker` is the file's own; no case of a file that is marked can forget the job that follows it."""
    yield
    assert_unharmed(worker, own)
