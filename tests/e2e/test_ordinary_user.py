"""The whole worker as an ordinary user without any capability: all limits hold, the seal says what it lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guests
from tests.e2e.anybody import NOBODY, env_of, python_of_anybody
from tests.e2e.calling import call as call_service
from tests.e2e.functions import deploy
from tests.e2e.harness import HELLO, Worker, await_dead, fields, pid_of, running, strays, wait_for, wasm

FUEL = 10**15
# What takes capabilities that an ordinary user doesn't have, and what nobody may do without.
ROOTS_OWN = {"uid"}
ALWAYS = {"no_new_privs", "seccomp", "rlimits", "landlock", "pdeathsig", "nondumpable", "mdwe"}


@pytest.fixture(scope="module")
def how(place: Path) -> dict[str, Any]:
    """Keywords for an ordinary user's worker."""
    if os.geteuid() != 0:
        return {}
    python, packages = python_of_anybody(place)
    return {"user": NOBODY, "python": [python], "env": env_of(packages)}


@pytest.fixture(scope="module")
def worker(place: Path, how: dict[str, Any]) -> Iterator[Worker]:
    volume = place / "corpus"
    volume.mkdir()
    volume.chmod(0o755)
    with running(place / "data", "--max-runners", "2", "--volume", f"corpus={volume}", **how) as worker:
        yield worker


def seal_of(worker: Worker) -> dict[str, Any]:
    """What `/stats` says of the seal, once the probe has ended."""
    seal: dict[str, Any] = wait_for(
        lambda: (found := worker.http.get("/stats").json()["seal"])["layers"] and found, "the probe has ended"
    )
    return seal


def call(worker: Worker, export: str, *params: Any, **task: Any) -> dict[str, Any]:
    digest = worker.upload(wasm(guests.SLEEPER))
    return worker.run(digest, entry={"export": export, "params": list(params)}, **task)


def test_a_service_answers_calls(worker: Worker) -> None:
    task = deploy(worker, "f", "r1", wasm(HELLO))
    assert [b"hello world\n"] * 3 == [call_service(worker, task["id"]).body for _ in range(3)]
    worker.order_stop(task["id"])
    assert ("completed", "stopped") == fields(worker.await_end(task["id"]), "state", "reason")


def test_nobody_of_the_worker_has_another_uid_or_a_capability_outside_of_a_user_namespace(worker: Worker) -> None:
    """The zygote has some within its own, where the kernel lets it make one; runners have none even there."""
    job = worker.start_running(worker.upload(wasm(guests.SLEEPER)), entry={"export": "block"})
    tree = worker.tree()
    assert job["runner"]["pid"] in {process.pid for process in tree}
    uid, zygote = worker.one("launcher").uids().real, worker.one("zygote")
    assert 0 != uid == job["runner"]["uid"]
    for process in tree:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        assert [str(uid)] * 4 == status["Uid"].split()
        if process.pid == zygote.pid and namespace_of(zygote.pid) != namespace_of(tree[0].pid):
            continue
        assert ("0" * 16, "0" * 16) == (status["CapPrm"], status["CapEff"]), process
    worker.order_stop(job["id"], force=True)
    worker.await_end(job["id"])


def namespace_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/user")


@pytest.mark.parametrize("isolation", ["process", "instance"])
def test_a_command_runs(worker: Worker, isolation: str) -> None:
    task = worker.run(worker.upload(wasm(HELLO)), isolation=isolation)
    assert ("completed", "exit", b"hello world\n") == (task["state"], task["reason"], worker.stdout(task["id"]))


def test_the_seal_is_reduced_and_says_so(worker: Worker) -> None:
    job = worker.start_running(worker.upload(wasm(guests.SLEEPER)), entry={"export": "block"})
    layers = set(job["runner"]["layers"])
    worker.order_stop(job["id"], force=True)
    worker.await_end(job["id"])
    assert (set(), set()) == (ROOTS_OWN & layers, ALWAYS - layers)
    seal = seal_of(worker)
    assert ("reduced", False) == (seal["level"], seal["layers"]["uid"])


@pytest.mark.parametrize("isolation", ["process", "instance"])
def test_all_three_lines_hold(worker: Worker, isolation: str) -> None:
    ended = [
        call(worker, "loop", limits={"fuel": 100_000}, isolation=isolation),
        call(worker, "loop", limits={"fuel": FUEL, "wall_ms": 400}, isolation=isolation),
        call(worker, "block", limits={"wall_ms": 300}, isolation=isolation),
    ]
    assert ["fuel", "deadline", "killed_deadline"] == [task["reason"] for task in ended]
    assert [b"before\n"] * 3 == [worker.stdout(task["id"]) for task in ended]


def test_memory_and_output_are_capped(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.GROWER))
    assert "oom_guest" == worker.run(digest, entry={"export": "hog"}, limits={"memory_bytes": 1 << 22})["reason"]
    digest = worker.upload(wasm(guests.FLOOD))
    flood = worker.run(digest, entry={"export": "fill", "params": [1]}, limits={"output_bytes": 1000, "fuel": FUEL})
    assert ("output_limit", 1000) == (flood["reason"], len(worker.stdout(flood["id"])))


@pytest.mark.parametrize("force", [False, True])
def test_a_blocked_job_is_stopped(worker: Worker, force: bool) -> None:
    job = worker.start_running(worker.upload(wasm(guests.SLEEPER)), entry={"export": "block"})
    worker.order_stop(job["id"], force)
    ended = worker.await_end(job["id"])
    assert ("completed", "stopped", job["runner"]["pid"]) == (ended["state"], ended["reason"], pid_of(ended))


def test_a_module_that_does_not_compile_and_one_that_does(worker: Worker) -> None:
    assert "compile_failed" == worker.run(worker.upload(wasm(guests.INVALID)))["reason"]
    assert "completed" == worker.run(worker.upload(wasm(guests.unique(1))))["state"]


def test_mounts_without_the_means_are_refused_and_not_run_open(worker: Worker) -> None:
    """Whether an ordinary user has the means is the kernel's matter: `/stats` says so before any task is given."""
    ended = worker.run(worker.upload(wasm(HELLO)), mounts=[{"volume": "corpus", "guest": "/data"}])
    if seal_of(worker)["layers"]["mounts"]:
        assert ("completed", "exit", b"hello world\n") == (
            *fields(ended, "state", "reason"),
            worker.stdout(ended["id"]),
        )
    else:
        assert ("failed", "init_failed") == fields(ended, "state", "reason")
        assert ("there are no mounts" in ended["detail"], b"") == (True, worker.stdout(ended["id"])), ended["detail"]


@pytest.mark.parametrize("role", ["zygote", "coordinator", "master"])
def test_what_dies_comes_back(worker: Worker, role: str) -> None:
    struck = worker.one(role)
    struck.kill()
    await_dead([struck], "it was killed")
    wait_for(lambda: worker.role(role), f"there is a {role} again")
    worker.await_ready()
    wait_for(lambda: len(worker.role("api")) == 2, "all API workers are there")
    assert "completed" == worker.run(worker.upload(wasm(HELLO)))["state"]
    assert [] == strays(worker)


def test_the_launchers_death_ends_all(place: Path, how: dict[str, Any]) -> None:
    with running(place / "killed", **how) as worker:
        job = worker.start_running(worker.upload(wasm(guests.SLEEPER)), entry={"export": "block"})
        tree = worker.tree()
        assert job["runner"]["pid"] in {process.pid for process in tree}
        worker.kill()
        await_dead(tree, "their launcher is dead")
        assert [] == strays(worker)
        worker.start()
        assert "lost" == worker.await_end(job["id"])["reason"]
