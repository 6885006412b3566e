"""deploy, call, switch, functions, stop: a function from its file to its end."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.cli.conftest import Command
from worker.cli.call import split_target
from worker.client import Client
from worker.errors import CommandExit


def test_a_function_from_its_file_to_its_end(command: Command, hi: Path, name: str) -> None:
    said = command("deploy", str(hi), "--function", name, "--revision", "r1", "--default", "--label", "of=test")
    assert (CommandExit.OK, "") == (said.code, said.err)
    assert said.out.startswith(f"{name}/r1 runs, the default revision: task ")
    task_id = said.out.split()[6]
    assert (0, "hi\n") == ((called := command("call", name)).code, called.out)
    assert "hi\n" == command("call", f"{name}/r1/some/path?of=it", "-X", "PUT", "-d", "body", "-H", "X-A: b").out
    headings, row = command("functions", name).rows
    assert ["FUNCTION", "REVISION", "DEFAULT", "STATE"] == headings[:4]
    assert [name, "r1", "yes", "running"] == row[:4]
    assert task_id == row[-1]
    assert f"{task_id} completed: stopped\n" == command("stop", task_id, "--wait").out
    gone = command("call", f"{name}/r1")
    assert (CommandExit.REFUSED, "") == (gone.code, gone.out)
    assert "`galago-worker functions` lists them" in gone.err


def test_an_export_takes_numbers_and_its_results_are_printed(command: Command, exports: Path, name: str) -> None:
    options = ("-f", name, "-r", "r1", "--default", "--min", "1", "--max", "2", "--fuel", "100000")
    said = command("deploy", str(exports), *options, "--export", "add")
    assert (0, "") == (said.code, said.err)
    assert "42\n" == command("call", name, "40", "2").out
    assert "-3\n" == command("call", name, "--", "-5", "2").out
    assert '{"result":[3]}' == command("call", name, "-d", '{"params": [1, 2]}').out
    wrong = command("call", name, "40")
    assert CommandExit.REFUSED == wrong.code
    assert "the export takes 2 parameters" in wrong.err


def test_a_guest_that_fails_is_told_with_its_reason(command: Command, exports: Path, name: str) -> None:
    assert 0 == command("deploy", str(exports), "-f", name, "-r", "r1", "--export", "trap").code
    said = command("call", f"{name}/r1")
    assert (CommandExit.FAILED, "") == (said.code, said.out)
    assert said.err.startswith("galago-worker: guest_trap: ")


def test_the_default_goes_from_one_revision_to_another(command: Command, hi: Path, name: str) -> None:
    for revision in ("r1", "r2"):
        said = command("deploy", str(hi), "-f", name, "-r", revision)
        assert f"make it the default by `galago-worker switch {name}/{revision}`" in said.out
    nobody = command("call", name)
    assert (CommandExit.REFUSED, True) == (nobody.code, "galago-worker switch" in nobody.err)
    assert f"r1 is the default of {name}; generation 1\n" == command("switch", name, "r1").out
    assert f"r2 is the default of {name} (it was r1); generation 2\n" == command("switch", f"{name}/r2").out
    late = command("switch", name, "r1", "--generation", "1")
    assert (CommandExit.REFUSED, True) == (late.code, "generation_mismatch" in late.err)
    assert {"function": name, "default": None, "previous": "r2", "generation": 3} == command(
        "switch", name, "r2", "--off", "--json"
    ).document
    assert CommandExit.USAGE == command("switch", name).code


def test_functions_and_a_deployment_as_json(command: Command, hi: Path, name: str, client: Client) -> None:
    task = command("deploy", str(hi), "-f", name, "-r", "r1", "--json").document
    assert "running" == task["state"]
    assert client.function(name).document.keys() == command("functions", name, "--json").document.keys()
    assert name in [found["function"] for found in command("functions", "--json").document["functions"]]


def test_a_module_that_is_there_is_deployed_by_its_digest(
    command: Command, hi: Path, name: str, client: Client
) -> None:
    digest = client.upload(hi.read_bytes()).digest
    assert 0 == command("deploy", digest, "-f", name, "-r", "r1").code


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("/nowhere/a.wasm",), CommandExit.NO_INPUT, "/nowhere/a.wasm can't be read: No such file or directory"),
        (("http://127.0.0.1:1/a.wasm",), CommandExit.REFUSED, "url_refused"),
        (("{hi}", "--export", "nothing"), CommandExit.REFUSED, "entry_invalid"),
        (("{hi}", "--memory-bytes", "1"), CommandExit.REFUSED, "limits.memory_bytes must be an integer >= 65536"),
        (("{hi}", "--env", "NOT_HERE_AT_ALL"), CommandExit.USAGE, "give it as NOT_HERE_AT_ALL=VALUE"),
        (("{hi}", "--label", "none"), CommandExit.USAGE, "'none' is no KEY=VALUE"),
    ],
)
def test_what_can_not_be_deployed_says_why(
    command: Command, hi: Path, name: str, arguments: tuple[str, ...], code: CommandExit, told: str
) -> None:
    said = command("deploy", *(word.replace("{hi}", str(hi)) for word in arguments), "-f", name, "-r", "r1")
    assert (code, "") == (said.code, said.out)
    assert told in said.err


def test_a_revision_that_does_not_come_to_run_is_told(command: Command, tmp_path: Path, name: str) -> None:
    from tests.e2e.guests import with_start
    from tests.e2e.harness import wasm

    broken = tmp_path / "broken.wasm"
    broken.write_bytes(wasm(with_start("unreachable")))
    said = command("deploy", str(broken), "-f", name, "-r", "r1")
    assert (CommandExit.FAILED, "") == (said.code, said.out)
    assert said.err.startswith("galago-worker: it did not come to run: ")


def test_a_body_comes_from_a_file_too(command: Command, exports: Path, name: str, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"params": [4, 5]}')
    assert 0 == command("deploy", str(exports), "-f", name, "-r", "r1", "--export", "add").code
    said = command("call", f"{name}/r1", "-d", f"@{body}", "-i")
    assert said.out.startswith("HTTP 200\n")
    assert said.out.endswith('\n\n{"result":[9]}')
    assert CommandExit.NO_INPUT == command("call", f"{name}/r1", "-d", "@/nowhere").code
    assert CommandExit.USAGE == command("call", name, "1", "-d", "{}").code


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("f", ("f", None, "")),
        ("f?a=b", ("f", None, "?a=b")),
        ("f/r", ("f", "r", "")),
        ("f/r/", ("f", "r", "/")),
        ("f/r/p/q?a=/b", ("f", "r", "/p/q?a=/b")),
    ],
)
def test_a_target_is_a_function_a_revision_and_the_rest(target: str, expected: tuple[str, str | None, str]) -> None:
    assert expected == split_target(target)


def test_a_target_needs_a_function() -> None:
    with pytest.raises(click.BadParameter):
        split_target("/r1")
