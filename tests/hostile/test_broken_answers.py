"""A runner that answers a call with what is no answer: the API says so, and the coordinator ends exactly that one."""

from __future__ import annotations

import sys

import httpx

from tests.e2e.functions import deploy, refusal
from tests.e2e.harness import EXPORTS, Worker, running, scratch, wait_for, wasm
from tests.hostile.played_worker import PLAYED

BREAKS = 0xBAD  # tests/hostile/played_runner.py
ADD = {"abi": "export", "export": "add"}


def add(worker: Worker, *params: int) -> httpx.Response:
    return worker.http.post("/functions/add", json={"params": params})


def pids(worker: Worker) -> set[int]:
    """Of those that serve, once both do and the compiler has ended."""
    found: set[int] = wait_for(
        lambda: len(forks := {process.pid for process in worker.role("fork")}) == 2 and forks, "two runners serve"
    )
    return found


def test_a_broken_answer_costs_its_runner_and_no_other() -> None:
    with scratch() as place, running(place / "data", "--api-workers", "1", python=(sys.executable, PLAYED)) as worker:
        deploy(worker, "add", "r1", wasm(EXPORTS), handler=ADD, scale={"min": 2, "max": 2})
        before = pids(worker)
        assert {"result": [42]} == add(worker, 19, 23).json()
        assert (502, "runner_died", "maybe") == refusal(add(worker, BREAKS, 0))
        wait_for(lambda: before - pids(worker), "it is gone, and another has taken its place")
        assert 1 == len(before & pids(worker))
        assert {"result": [42]} == add(worker, 19, 23).json()
        wait_for(lambda: errors(worker) == {"runner_died": 1}, "the API has reported it")


def errors(worker: Worker) -> dict[str, int]:
    found: dict[str, int] = worker.http.get("/revisions/add").json()["revisions"][0]["errors"]
    return found
