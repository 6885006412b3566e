"""The soak's short form: `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.harness import running
from tests.faults.soak import OPTIONS, soak


def test_nothing_has_grown_after_some_hundred_jobs_and_some_thousand_calls(place: Path) -> None:
    with running(place / "data", *OPTIONS) as worker:
        result = soak(worker, jobs=800, calls=4_000)
    assert ({}, []) == (result.grown(), result.broken)
