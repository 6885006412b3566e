"""Functions that share a node which is too small for all of them: who is given a runner, who gives one up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.functions import Callers, deploy, deploy_export, refusal, speaker
from tests.e2e.harness import Worker, running, wait_for
from tests.guests.build import guest

RUNNERS = 4
MEMORY_MIB = 320  # four times the 64 MiB that a guest has unless told, and what the runners have beside them
OWNER = 45_678
BUSY = {"wall_ms": 30_000, "fuel": 10**15}


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    volume = place / "volume"
    volume.mkdir(mode=0o755)
    os.chown(volume, OWNER if os.geteuid() == 0 else -1, -1)
    memory = ("--max-runners-memory-bytes", f"{MEMORY_MIB}MiB", "--max-memory-bytes", "256MiB")
    options = ("--max-runners", str(RUNNERS), *memory, "--volume", f"files={volume}")
    with running(place / "data", *options) as started:
        yield started


def told(worker: Worker, function: str) -> dict[str, Any]:
    """What is told of a function's only revision."""
    (found,) = worker.http.get(f"/revisions/{function}").json()["revisions"]
    assert isinstance(found, dict)
    return found


def runners(worker: Worker, *functions: str) -> list[tuple[int, int]]:
    """(idle, busy) of each."""
    of = [told(worker, function)["runners"] or {} for function in functions]
    return [(each.get("idle", -1), each.get("busy", -1)) for each in of]


def end(worker: Worker, *tasks: dict[str, Any]) -> None:
    for task in tasks:
        worker.order_stop(task["id"], force=True)
    for task in tasks:
        worker.await_end(task["id"])


def test_a_hundred_functions_are_all_called_on_four_runners(worker: Worker) -> None:
    names = [f"f{number}" for number in range(100)]
    digest = worker.upload(guest("handler"))
    handler = {"abi": "wagi"}
    started = [
        worker.start_task(
            digest,
            kind="service",
            function={"name": name, "revision": "r1", "default": True},
            handler=handler,
            args=[f"of {name}"],
        )
        for name in names
    ]
    for task_id in started:
        worker.await_state(task_id, "running")
    for name in names:
        answer = worker.http.get(f"/functions/{name}?tell")
        assert (200, f"argument of {name}") == (answer.status_code, answer.text.partition("\n")[0]), answer.text
    assert RUNNERS >= len(worker.role("runner"))
    listed = worker.http.get("/functions?limit=500").json()["functions"]
    assert set(names) <= {function["function"] for function in listed if function["default"] == "r1"}
    end(worker, *({"id": task_id} for task_id in started))


def test_the_runner_that_idles_longest_is_given_up_first_and_a_minimum_last(worker: Worker) -> None:
    kept = deploy(worker, "kept", "r1", speaker("kept"), scale={"min": 1})
    old = deploy(worker, "old", "r1", speaker("old"))
    young = deploy(worker, "young", "r1", speaker("young"))
    busy = deploy_export(worker, "busy", "forever", limits=BUSY)
    with Callers(worker, "/functions/busy", 1) as caller:
        everybody = ("kept", "old", "young", "busy")
        wait_for(lambda: runners(worker, *everybody) == [(1, 0), (1, 0), (1, 0), (0, 1)], "every slot is taken")
        new = deploy(worker, "new", "r1", speaker("new"))
        assert [(1, 0), (0, 0), (1, 0), (0, 1)] == runners(worker, *everybody)
        assert b"old" == worker.http.get("/functions/old").content  # in its turn
        wait_for(lambda: runners(worker, *everybody, "new") == [(1, 0), (1, 0), (0, 0), (0, 1), (1, 0)], "young gave")
        assert [] == caller.answers
        end(worker, busy)
    assert 502 == caller.answers[0][0]  # its runner was killed
    end(worker, kept, old, young, new)


def test_a_large_function_is_given_the_memory_of_idle_ones(worker: Worker) -> None:
    small = [deploy(worker, f"small-{number}", "r1", speaker("small")) for number in range(3)]
    everybody = ("small-0", "small-1", "small-2", "large")
    large = deploy(worker, "large", "r1", speaker("large"), limits={"memory_bytes": 200 << 20})
    wait_for(lambda: runners(worker, *everybody) == [(0, 0), (0, 0), (1, 0), (1, 0)], "two of three gave theirs")
    assert [b"small", b"large"] == [worker.http.get(f"/functions/{name}").content for name in ("small-0", "large")]
    wait_for(lambda: runners(worker, *everybody) == [(1, 0), (0, 0), (0, 0), (1, 0)], "the third gave its own")
    end(worker, *small, large)


@pytest.mark.root
def test_a_revision_whose_runners_cannot_start_backs_off_says_why_and_starves_nobody(
    worker: Worker, place: Path
) -> None:
    directory = place / "volume" / "in"
    directory.mkdir(mode=0o755)
    os.chown(directory, OWNER, OWNER)
    mounts = [{"volume": "files", "path": "in", "guest": "/data", "mode": "ro"}]
    broken = deploy(worker, "broken", "r1", guest("handler"), mounts=mounts, scale={"idle_ms": 1})
    wait_for(lambda: runners(worker, "broken") == [(0, 0)], "its idle runner is given up")
    directory.rename(place / "volume" / "away")
    assert (503, "runner_backoff", "no") == refusal(worker.http.get("/functions/broken"))
    others = [deploy(worker, f"other-{number}", "r1", speaker("well")) for number in range(RUNNERS + 1)]
    with Callers(worker, "/functions/broken", 4) as callers:
        for _ in range(4):
            for number in range(RUNNERS + 1):
                assert b"well" == worker.http.get(f"/functions/other-{number}").content
        callers.await_more(1)
    assert {503} == {status for status, _ in callers.answers}
    wait_for(lambda: told(worker, "broken")["errors"].get("runner_backoff"), "its refusals are counted")
    found = told(worker, "broken")
    assert "mount 'files:in'" in found["trouble"]
    answer = worker.http.get("/functions/broken")
    assert found["trouble"] in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    assert "running" == worker.task(broken["id"])["state"]
    (place / "volume" / "away").rename(directory)
    wait_for(lambda: worker.http.get("/functions/broken").status_code == 200, "it starts again by itself")
    wait_for(lambda: told(worker, "broken")["trouble"] is None, "its trouble is over")
    end(worker, broken, *others)
