"""worker.cli: the command, from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.probe import Finding
from worker import cli
from worker.errors import ExitCode

ROOT = Path(__file__).resolve().parents[1]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_version_is_said() -> None:
    ended = run("version")
    assert (ended.returncode, ended.stdout) == (0, f"galago-worker {cli.version_text()}\n")


def test_without_a_command_it_says_how_it_is_used() -> None:
    ended = run()
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith("usage: galago-worker")


def test_serve_lists_its_options() -> None:
    ended = run("serve", "--help")
    assert ended.returncode == 0
    assert "--max-runners N" in ended.stdout


def test_a_wrong_option_ends_with_one_line_and_its_exit_code() -> None:
    ended = run("serve", "--data-dir", "/tmp/d", "--api-workers", "none")
    assert ended.returncode == ExitCode.CONFIG
    expected = "galago-worker: --api-workers: 'none' is not right; it must be a whole number from 1 to 64\n"
    assert ended.stderr == expected


def test_doctor_explains_what_is_missing_as_a_table_and_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"seccomp": Finding(True), "uid": Finding(False, "not permitted", "run as root")}
    monkeypatch.setattr(cli.probe, "run", lambda _root, _uid: found)
    assert cli.main(["doctor"]) == ExitCode.REDUCED
    assert (
        capsys.readouterr().out
        == "seal: reduced\nseccomp  yes\nuid      no: not permitted\n         to get it: run as root\n"
    )
    assert cli.main(["doctor", "--json"]) == ExitCode.REDUCED
    told = json.loads(capsys.readouterr().out)
    assert ("reduced", True, "run as root") == (
        told["level"],
        told["layers"]["seccomp"]["ok"],
        told["layers"]["uid"]["how_to_get"],
    )


def test_doctor_tries_this_machine() -> None:
    ended = run("doctor", "--json")
    told = json.loads(ended.stdout)
    assert {"full": ExitCode.OK, "reduced": ExitCode.REDUCED}[told["level"]] == ended.returncode
    assert told["layers"]["no_new_privs"]["ok"]
