"""The command, from outside: what concerns one worker's own process and machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from runner import probe
from runner.probe import Finding
from worker import datadir
from worker.cli import main
from worker.errors import CommandExit, ExitCode
from worker.shared.table import TableWriter
from worker.version import version_of

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_version_is_said() -> None:
    ended = run("version")
    assert (ended.returncode, ended.stdout) == (0, f"galago-worker {version_of()}\n")


def test_without_a_command_it_says_how_it_is_used() -> None:
    ended = run()
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith("Usage: galago-worker")


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
    monkeypatch.setattr(probe, "run", lambda *_: found)
    assert main(["doctor"]) == ExitCode.REDUCED
    assert (
        capsys.readouterr().out
        == "seal: reduced\nseccomp  yes\nuid      no: not permitted\n         to get it: run as root\n"
    )
    assert main(["doctor", "--json"]) == ExitCode.REDUCED
    told = json.loads(capsys.readouterr().out)
    assert ("reduced", True, "run as root") == (
        told["level"],
        told["layers"]["seccomp"]["ok"],
        told["layers"]["uid"]["how_to_get"],
    )


@pytest.mark.parametrize("layer", ["seccomp", "no_new_privs"])
def test_doctor_says_where_no_worker_starts(
    layer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"landlock": Finding(True), layer: Finding(False, "not permitted", "another policy")}
    monkeypatch.setattr(probe, "run", lambda *_: found)
    assert main(["doctor"]) == ExitCode.UNSEALED
    first, *_, last = capsys.readouterr().out.splitlines()
    assert ("seal: unsealed", "a worker does not start here, unless told --allow-unsealed") == (first, last)
    assert main(["doctor", "--json"]) == ExitCode.UNSEALED
    assert "unsealed" == json.loads(capsys.readouterr().out)["level"]


def test_doctor_judges_by_the_cgroup_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def run(_root: Path, _uid: int, cgroup: str) -> dict[str, Finding]:
        tried.append(cgroup)
        return {"cgroup": Finding(False, "not permitted", "delegate it", wanted=bool(cgroup))}

    monkeypatch.setattr(probe, "run", run)
    ends = [main(["doctor"]), main(["doctor", "--cgroup", str(tmp_path)])]
    assert ([ExitCode.OK, ExitCode.REDUCED], ["", str(tmp_path)]) == (ends, tried)
    assert ["seal: full", "seal: reduced"] == [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("seal")
    ]


def test_doctor_tries_this_machine() -> None:
    ended = run("doctor", "--json")
    told = json.loads(ended.stdout)
    assert {"full": ExitCode.OK, "reduced": ExitCode.REDUCED}[told["level"]] == ended.returncode
    assert told["layers"]["no_new_privs"]["ok"]


def test_repair_makes_a_new_table_and_keeps_the_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    TableWriter(tmp_path / "table.sqlite", reserve_bytes=0).close()
    with (tmp_path / "table.sqlite").open("r+b") as file:
        file.write(b"no SQLite file any more")
    assert ExitCode.OK == main(["repair", "--data-dir", str(tmp_path)])
    told = capsys.readouterr().out
    assert "tasks        0 rows kept" in told
    assert 1 == len(list(tmp_path.glob("table.sqlite.damaged-*")))
    TableWriter(tmp_path / "table.sqlite", reserve_bytes=0).close()


def test_repair_of_what_is_no_data_directory_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitCode.CANT_CREATE == main(["repair", "--data-dir", str(tmp_path / "nowhere")])
    assert "isn't a directory" in capsys.readouterr().err


def test_repair_touches_nothing_of_a_worker_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    held = datadir.lock(tmp_path)
    monkeypatch.setattr(datadir, "lock", partial(datadir.lock, patience_s=0.05))
    try:
        assert ExitCode.LOCKED == main(["repair", "--data-dir", str(tmp_path)])
    finally:
        os.close(held)
    assert "another worker" in capsys.readouterr().err


def test_bench_is_the_benchmarks_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run("bench", "--help")
    assert (0, True) == (ended.returncode, "python -m benchmarks" in ended.stdout)
    monkeypatch.setattr("worker.cli.bench._SOURCE", tmp_path)
    assert CommandExit.NOT_INSTALLED == main(["bench"])


@pytest.mark.parametrize(
    "module",
    [
        *("worker.cli.serve", "worker.cli.doctor", "worker.cli.repair", "worker.cli.version", "worker.launcher"),
        *("worker.coordinator.loop", "worker.api.server", "runner.zygote"),
    ],
)
def test_what_runs_on_a_node_loads_nothing_of_the_client(module: str) -> None:
    loaded = "{name.split('.')[0] for name in sys.modules}"
    script = f"import sys, {module}; print(*{loaded} & {{'httpx', 'rich', 'click'}})"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("click\n" if module.startswith("worker.cli.") else "\n") == told
