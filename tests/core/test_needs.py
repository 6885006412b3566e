"""Needs: each fetch and each artifact is asked for once, and called off when nobody waits for it."""

from __future__ import annotations

import pytest

from tests.core.core_builders import DIGEST, OTHER_DIGEST, URL, make_task
from worker.core.effects import CancelArtifact, CancelFetch, Effect, PrepareArtifact, StartFetch
from worker.core.needs import Needs
from worker.core.task import Task


@pytest.fixture
def effects() -> list[Effect]:
    return []


@pytest.fixture
def needs(effects: list[Effect]) -> Needs:
    return Needs(effects, {DIGEST})


@pytest.mark.parametrize(
    ("task", "fetches"),
    [
        (make_task(), False),
        (make_task(url=URL), False),
        (make_task(digest=OTHER_DIGEST), False),
        (make_task(digest=OTHER_DIGEST, url=URL), True),
        (make_task(digest=None, url=URL), True),
    ],
)
def test_a_module_is_fetched_where_it_is_not_here_and_has_a_url(
    needs: Needs, effects: list[Effect], task: Task, fetches: bool
) -> None:
    assert (fetches, fetches) == (needs.fetch(task), needs.fetched(task.id))
    assert ([StartFetch(task)] if fetches else []) == effects


def test_a_fetch_is_over_once(needs: Needs) -> None:
    needs.fetch(make_task(digest=None, url=URL))
    assert (1, True, False, 0) == (len(needs), needs.fetched("t1"), needs.fetched("t1"), len(needs))


def test_an_artifact_is_asked_for_once_however_many_wait(needs: Needs, effects: list[Effect]) -> None:
    assert [False, False] == [needs.prepare("t1", DIGEST), needs.prepare("t2", DIGEST)]
    assert ([PrepareArtifact(DIGEST)], 2) == (effects, len(needs))
    assert ({"t1", "t2"}, set(), 0) == (needs.prepared(DIGEST), needs.prepared(DIGEST), len(needs))


def test_nobody_waits_for_an_artifact_that_is_at_hand(needs: Needs, effects: list[Effect]) -> None:
    needs.artifacts.add(DIGEST)
    assert (True, [], 0) == (needs.prepare("t1", DIGEST), effects, len(needs))


def test_a_fetch_is_called_off_with_its_task(needs: Needs, effects: list[Effect]) -> None:
    task = make_task(digest=None, url=URL)
    needs.fetch(task)
    needs.forget(task)
    assert [StartFetch(task), CancelFetch("t1")] == effects
    needs.forget(task)
    assert 2 == len(effects)


def test_an_artifact_is_called_off_with_the_last_that_waits(needs: Needs, effects: list[Effect]) -> None:
    for task_id in ("t1", "t2"):
        needs.prepare(task_id, DIGEST)
    needs.forget(make_task("t1"))
    needs.forget(make_task("t3"))
    assert [PrepareArtifact(DIGEST)] == effects
    needs.forget(make_task("t2"))
    assert [PrepareArtifact(DIGEST), CancelArtifact(DIGEST)] == effects
    needs.forget(make_task("t2"))
    assert (2, 0) == (len(effects), len(needs))
