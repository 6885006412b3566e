"""tasks, task, logs, stop: jobs that somebody posted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from threading import Timer
from typing import Any
from uuid import uuid4

import pytest

from tests.cli.conftest import Command
from tests.e2e import guests
from tests.e2e.harness import HELD_LIMITS, wait_for, wasm
from worker.client import Client, Task
from worker.errors import CommandExit


def job(client: Client, export: str, *params: Any, **fields: Any) -> Task:
    """A job of SLEEPER."""
    digest = client.upload(wasm(guests.SLEEPER)).digest
    entry = {"export": export, "params": params}
    return client.submit({"kind": "job", "module": {"digest": digest}, "entry": entry, "limits": HELD_LIMITS, **fields})


@pytest.fixture
def ended(client: Client) -> Task:
    """One that said something and ended."""
    return client.await_end(job(client, "nap", 1, name="short-nap", labels={"of": uuid4().hex}).id)


@pytest.fixture
def held(client: Client) -> Iterator[Task]:
    """One that runs until it is stopped."""
    task = client.await_running(job(client, "block").id)
    wait_for(lambda: client.output(task.id), "it has said its first word")
    yield task
    client.stop(task.id, force=True)
    client.await_end(task.id)


def test_tasks_are_listed_by_what_they_are(command: Command, ended: Task) -> None:
    label = f"of={ended.labels['of']}"
    headings, row = command("tasks", "--label", label).rows
    assert ["ID", "KIND", "NAME", "STATE", "REASON"] == headings[:5]
    assert [ended.id, "job", "short-nap", "completed", "exit"] == row[:5]
    found = command("tasks", "--label", label, "--state", "completed", "--kind", "job", "--json").document
    assert [ended.id] == [task["id"] for task in found["tasks"]]
    assert [] == command("tasks", "--label", label, "--state", "failed", "--all", "--json").document["tasks"]


def test_a_list_that_is_cut_says_so(command: Command, client: Client) -> None:
    label = uuid4().hex
    for _ in range(2):
        job(client, "nap", 1, labels={"of": label})
    said = command("tasks", "--label", f"of={label}", "--limit", "1")
    assert 2 == len(said.rows)
    assert "there are more than 1: --limit N or --all\n" == said.err


def test_a_task_tells_its_story(command: Command, ended: Task) -> None:
    said = command("task", ended.id)
    assert ["state", "completed"] in said.rows
    assert ["name", "short-nap"] in said.rows
    assert said.out.splitlines()[-1].endswith("ended: completed, exit")
    assert ended.id == command("task", ended.id, "--json").document["id"]


def test_a_task_is_followed_to_its_end(command: Command, client: Client, held: Task) -> None:
    timer = Timer(0.2, client.stop, (held.id,), {"force": True})
    timer.start()
    said = command("task", held.id, "--follow")
    timer.join()
    assert 0 == said.code
    happened = [line.split()[1] for line in said.out.splitlines() if line[:4].isdecimal()]
    assert ["accepted:", "slot_assigned:", "runner_started:", "stop_requested:", "ended:"] == happened
    lines = command("task", held.id, "--follow", "--json").out.splitlines()
    assert ["completed"] == [json.loads(line)["state"] for line in lines]


def test_following_one_that_fails_ends_with_1(command: Command, client: Client) -> None:
    task = job(client, "loop", limits={"fuel": 1000, "wall_ms": 1000})
    assert CommandExit.FAILED == command("task", "-f", task.id).code
    assert CommandExit.OK == command("task", task.id).code


def test_logs_keep_the_streams_apart(command: Command, ended: Task) -> None:
    said = command("logs", ended.id)
    assert ("before\nafter\n", "aside\n") == (said.out, said.err)
    assert ("", "aside\n") == ((only := command("logs", ended.id, "--stream", "stderr")).out, only.err)


def test_logs_are_followed_to_the_end(command: Command, client: Client, held: Task) -> None:
    timer = Timer(0.2, client.stop, (held.id,), {"force": True})
    timer.start()
    said = command("logs", "--follow", held.id)
    timer.join()
    assert (0, "before\n", "aside\n") == (said.code, said.out, said.err)


def test_several_are_stopped_at_once(command: Command, client: Client, ended: Task, held: Task) -> None:
    said = command("stop", held.id, ended.id, "--force", "--wait")
    assert [[held.id, "completed:", "stopped"], [ended.id, "completed:", "exit"]] == said.rows
    assert CommandExit.USAGE == command("stop").code


@pytest.mark.parametrize("name", ["task", "logs", "stop"])
def test_one_that_is_unknown_is_refused(command: Command, name: str) -> None:
    said = command(name, "no-such-task")
    assert (CommandExit.REFUSED, "") == (said.code, said.out)
    assert "`galago-worker tasks` lists them" in said.err
