"""Processes of every kind are killed and stopped at random under load: every task that was accepted is accounted for.

`GALAGO_CHAOS=<seed>:<strikes>` makes it another one, and longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.e2e import guests
from tests.e2e.functions import Callers, deploy, speaker
from tests.e2e.harness import EXPORTS, HELLO, Worker, running, strays, wait_for, wasm
from tests.e2e.healing import await_all_there
from tests.faults.load import Jobs, ended

SEED, STRIKES = map(int, os.environ.get("GALAGO_CHAOS", "1:14").split(":"))
# A launcher that is stopped judges nobody and is judged by nobody: it is only killed. Runners and whoever makes them
# are the most, and so is what is struck.
DEADLY = (signal.SIGKILL, signal.SIGSTOP)
ROLES = ("coordinator", "zygote", "master", "api", "fork", "fork", "fork")
TARGETS = (*((role, number) for role in ROLES for number in DEADLY), ("launcher", signal.SIGKILL))
PAUSE_S = (0.05, 0.6)
# What a job may end with whose own runner, coordinator or worker was struck. All others end as they would have.
STRUCK = {"crashed", "killed_deadline", "lost", "compile_failed", "init_failed"}
ANSWERED = {200, 429, 502, 503, 504}


def job(digests: dict[str, str], call: str) -> dict[str, Any]:
    """What the post of this name asks for."""
    kind = random.Random(call).randrange(4)
    if kind == 0:
        return {"module": {"digest": digests["hello"]}}
    if kind == 1:
        entry = {"export": "add", "params": [19, 23]}
        return {"module": {"digest": digests["exports"]}, "entry": entry, "isolation": "instance"}
    nap: dict[str, Any] = {
        "module": {"digest": digests["sleeper"]},
        "entry": {"export": "nap", "params": [150]},
        "limits": {"wall_ms": 2000},
    }
    return nap if kind == 2 else {**nap, "retry": {"max": 2}}


class Striker:
    """Strikes one process after the other, and counts whom."""

    def __init__(self, worker: Worker, seed: int) -> None:
        self._worker = worker
        self._random = random.Random(seed)
        self.strikes: Counter[str] = Counter()

    def strike(self) -> None:
        """One process, after a pause."""
        time.sleep(self._random.uniform(*PAUSE_S))
        role, number = self._random.choice(TARGETS)
        processes: list[psutil.Process] = wait_for(lambda: self._worker.role(role), f"there is a {role}")
        with contextlib.suppress(psutil.NoSuchProcess):
            self._random.choice(processes).send_signal(number)
            self.strikes[f"{role} {number.name}"] += 1
        if role == "launcher":
            self._restart()

    def _restart(self) -> None:
        assert self._worker.process is not None
        self._worker.process.wait()
        wait_for(lambda: not strays(self._worker), "nobody outlives the launcher")
        self._worker.start()


def test_whatever_dies_every_task_ends_once_with_a_true_reason_and_nothing_is_left(place: Path) -> None:
    # Here and not in a fixture: another launcher takes the place of one that was killed.
    with running(place / "data", "--max-runners", "6") as worker:
        texts = {"hello": HELLO, "exports": EXPORTS, "sleeper": guests.SLEEPER}
        digests = {name: worker.upload(wasm(text)) for name, text in texts.items()}
        deploy(worker, "talk", "r1", speaker("hello"))
        jobs = Jobs(worker, 4, lambda call: job(digests, call), "chaos", wait_s=1)
        callers = Callers(worker, "/functions/talk", 2)
        striker = Striker(worker, SEED)
        with jobs, callers:
            for _ in range(STRIKES):
                striker.strike()
            worker.await_ready()
            jobs.await_more(5)
            callers.await_more(5)
        told = f"{dict(striker.strikes)}: {len(jobs.accepted)} accepted, {len(jobs.untold)} not told"
        assert_accounted_for(worker, jobs, told)
        assert_answered(worker, callers)
        await_all_there(worker)
        assert [] == worker.audit_settled(), told
        assert [] == list((worker.data_dir / "blobs" / "tmp").iterdir()), told


def assert_accounted_for(worker: Worker, jobs: Jobs, told: str) -> None:
    recorded = jobs.recorded()
    assert [] == [(call, jobs.refused[call], recorded[call]) for call in jobs.refused if call in recorded], (
        f"refused, and there: {told}"
    )
    accepted = {**jobs.accepted, **jobs.claim_untold()}
    assert {call: [task_id] for call, task_id in accepted.items()} == jobs.recorded(), told
    tasks = ended(worker, list(accepted.values()))
    for task in tasks:
        assert_true_story(worker, task)
    assert "exit" in {task["reason"] for task in tasks}, told


def assert_answered(worker: Worker, callers: Callers) -> None:
    assert ANSWERED >= {status for status, _ in callers.answers}
    assert {b"hello"} == {body for status, body in callers.answers if status == 200}
    wait_for(lambda: worker.http.get("/functions/talk").text == "hello", "the function answers")


def assert_true_story(worker: Worker, task: dict[str, Any]) -> None:
    """It ended once, ran no more often than it may, and its reason is what its events tell."""
    events = Counter(event["event"] for event in task["events"])
    assert 1 == events["ended"], task
    assert "ended" == task["events"][-1]["event"], task
    assert task["attempts"] <= task["retry"]["max"] + 1, task
    assert events["runner_started"] <= task["attempts"], task
    if task["reason"] == "exit":
        assert events["runner_started"], task
        expected = {"_start": b"hello world\n", "nap": b"before\nafter\n", "add": b""}
        assert expected[(task["entry"] or {"export": "_start"})["export"]] == worker.stdout(task["id"]), task
    else:
        assert task["reason"] in STRUCK, task
        assert task["detail"], task
