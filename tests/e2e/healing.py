"""What is true again after processes of a worker were struck: they are gone, others are there, and a job runs."""

from __future__ import annotations

import httpx
import psutil

from tests.e2e.harness import HELLO, Worker, await_dead, strays, wait_for, wasm

# Who is there, and how many, while nothing happens.
ROLES = {"api": 2, "master": 1, "coordinator": 1, "zygote": 1}


def runs(worker: Worker, digest: str) -> bool:
    """Whether a job can be posted and run, now."""
    try:
        answer = worker.post(wait_s=60, module={"digest": digest})
    except httpx.TransportError:  # one that took the connection died
        return False
    return answer.status_code == 201 and answer.json()["state"] == "completed"


def await_all_there(worker: Worker) -> None:
    wait_for(lambda: all(count == len(worker.role(role)) for role, count in ROLES.items()), "all are there")
    assert [] == strays(worker), "somebody was orphaned"


def await_healed(worker: Worker, *struck: psutil.Process) -> None:
    """Those who were struck are gone, others have their roles, the worker is ready, runs a job, and is whole."""
    await_dead(struck, "they were struck")
    wait_for(lambda: all(worker.role(role) for role in ROLES), "there is somebody of each role")
    worker.await_ready()
    hello = worker.upload(wasm(HELLO))
    wait_for(lambda: runs(worker, hello), "a job runs")
    await_all_there(worker)
