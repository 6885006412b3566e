"""What the shell completes: commands, options, and what a worker knows."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from tests.cli.conftest import Command
from tests.e2e.harness import HELLO, wasm
from worker.cli.program import COMMANDS, PROGRAM, group
from worker.client import Client


def completed(*words: str) -> list[str]:
    """What follows the words, the last of which is incomplete."""
    return [item.value for item in ShellComplete(group, {}, PROGRAM, "_X").get_completions(list(words[:-1]), words[-1])]


def test_commands_and_their_options() -> None:
    assert list(COMMANDS) == completed("")
    assert ["task", "tasks"] == sorted(completed("task"))
    assert "--max-runners" in completed("serve", "--max-r")
    assert ["running"] == completed("tasks", "--state", "r")


def test_functions_and_revisions(command: Command, hi: Path, name: str) -> None:
    assert 0 == command("deploy", str(hi), "-f", name, "-r", "r1").code
    assert [name] == completed("call", name[:20])
    assert [f"{name}/r1"] == completed("call", f"{name}/")


def test_tasks(command: Command, client: Client) -> None:
    digest = client.upload(wasm(HELLO)).digest
    task_id = client.submit({"kind": "job", "module": {"digest": digest}}).id
    assert [task_id] == completed("task", task_id[:-1])
    assert [task_id] == completed("logs", task_id[:-1])


def test_where_no_worker_answers_nothing_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_URL", "http://127.0.0.1:1")
    assert [] == completed("call", "f")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(plain: Command, shell: str) -> None:
    said = plain("completion", shell)
    assert 0 == said.code
    assert "_GALAGO_WORKER_COMPLETE" in said.out


def test_every_command_has_help(plain: Command) -> None:
    overview = plain("--help").out
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert f"  {name} " in overview
        if name != "bench":  # its --help is that of the benchmarks
            assert plain(name, "--help").out.startswith(f"Usage: galago-worker {name}")
