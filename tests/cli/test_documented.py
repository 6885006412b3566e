"""What the README says of the command line and the client is so: it is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.readme import README
from worker.cli.program import COMMANDS
from worker.errors import CommandExit, ExitCode

SECTION = README.read_text().partition("## The command line")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in SECTION.splitlines() if line[:2] == "| "]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", SECTION, re.S)
    assert found is not None
    return found[1]


def test_every_command_is_documented_and_no_other() -> None:
    documented = re.findall(r"`([a-z]+)", " ".join(row[0] for row in ROWS if row[0].startswith("`")))
    assert set(COMMANDS) == set(documented) - {"zsh", "fish"}


def test_every_exit_code_that_is_documented_is_one_and_none_of_a_command_is_missing() -> None:
    documented = {int(code) for row in ROWS for code in re.findall(r"\b\d+\b", row[0]) if row[0][0].isdigit()}
    ours = {int(code) for code in (*ExitCode, *CommandExit) if code != ExitCode.INTERNAL}
    of_run = {CommandExit.TIME_UP, CommandExit.CANT_RUN, CommandExit.TRAPPED, CommandExit.OUT_OF_MEMORY}
    of_children = {ExitCode.BOOT_FAILED, ExitCode.APP_FAILED, ExitCode.PARENT_GONE, ExitCode.EXEC_FAILED}
    assert ours - of_run - of_children | {143} == documented
    assert all(f"{int(code)} " in ROWS[-1][1] for code in of_run)


@pytest.fixture
def place(hi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hello.wasm").write_bytes(hi.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_command_of_the_example_does_what_it_says(command: Command, place: Path) -> None:
    ended = {}
    for line in block("sh").splitlines():
        words = shlex.split(line.partition(" < ")[0], comments=True)
        if words[0] == "galago-worker":
            said = command(*words[1:])
            assert (0, "") == (said.code, said.err), line
            ended[words[1]] = said.out
    assert "Content-Type: text/plain\n\nhi\n" == ended["run"]
    assert "hi\n" == ended["call"]


def test_the_example_of_the_client_runs(
    served: tuple[str, str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = block("python").replace("http://127.0.0.1:8470", served[0]).replace("None", repr(served[1]))
    exec(script, {})
    assert "exit b'Content-Type: text/plain\\n\\nhi\\n'\n" == capsys.readouterr().out
