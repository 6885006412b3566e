"""modules, stats, top: what a node has and how it is."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

from tests.cli.conftest import Command
from tests.e2e import guests
from tests.e2e.harness import wasm
from worker.cli.top import _rates
from worker.client import Client, Stats
from worker.errors import CommandExit


def test_modules_are_listed_shown_and_deleted(command: Command, client: Client) -> None:
    module = client.upload(wasm(guests.unique(uuid4().int % 10**6)))
    short = module.digest.removeprefix("sha256:")[:12]
    assert short in [row[0] for row in command("modules").rows]
    assert module.digest in [found["digest"] for found in command("modules", "--json").document["modules"]]
    shown = command("modules", short)
    assert ["digest", module.digest] == shown.rows[0]
    assert "_start: () -> ()" in shown.out
    assert module.document == command("modules", module.digest, "--json").document
    assert f"{module.digest} is deleted\n" == command("modules", short, "--delete").out
    gone = command("modules", short)
    assert (CommandExit.REFUSED, True) == (gone.code, f"no modules begin with {short}" in gone.err)
    assert CommandExit.USAGE == command("modules", "--delete").code


def test_stats_say_what_runs_and_what_is_free(command: Command, client: Client, exports: Path, name: str) -> None:
    assert 0 == command("deploy", str(exports), "-f", name, "-r", "r1", "--export", "add", "--min", "1").code
    said = command("stats")
    assert re.search(r"^runners +\[[#.]{20}\] \d+ of \d+$", said.out, re.M)
    assert name in [row[0] for row in said.rows if row]
    assert client.stats().document.keys() == command("stats", "--json").document.keys()


def test_top_shows_it_again_and_again_with_calls_per_second(command: Command, exports: Path, name: str) -> None:
    assert 0 == command("deploy", str(exports), "-f", name, "-r", "r1", "--export", "add", "--min", "1").code
    said = command("top", "--count", "2", "--interval", "0.1")
    assert 0 == said.code
    assert 2 == said.out.count("\nrunners ")
    assert 1 == said.out.count("CALLS/S"), "the first look knows no rate"


def test_rates_are_what_came_between_two_looks() -> None:
    def stats(**calls: int) -> Stats:
        functions = {name: {"calls": count} for name, count in calls.items()}
        total = {"calls": sum(calls.values())}
        return Stats(node={}, uptime_s=1, tasks={}, queue={}, runners={}, running=[], calls=total, functions=functions)

    assert {"": 6.0, "a": 5.0, "b": 1.0} == _rates(stats(a=10), stats(a=20, b=2), 2)
    assert {"": 0, "a": 0} == _rates(stats(a=10), stats(a=3), 2), "a worker that started anew counts from none"
