"""The command `galago-worker`: thin, everything it does is a call of something else."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner import probe
from runner.errors import RunnerError
from worker import cgroup, datadir, live, logs
from worker.config import Config, add_options
from worker.config_values import TABLE_NAME
from worker.errors import DataDirectoryError, ExitCode, WorkerError
from worker.launcher import Launcher
from worker.repair import repair
from worker.version import DISTRIBUTION, version_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments, without the program's name; the process's own by default.

    Returns:
        An ExitCode. What is wrong with the command line ends in SystemExit 2, as argparse does it.
    """
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        code: int = options.run(options)
    except WorkerError as exc:
        _say(sys.stderr, f"galago-worker: {exc}")
        return exc.exit_code
    except RunnerError as exc:
        _say(sys.stderr, f"galago-worker: {exc}")
        return ExitCode.INTERNAL
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="galago-worker", description="A node of Galago: runs tasks as Wasm runners.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run a worker", allow_abbrev=False, description="Run a worker.")
    add_options(serve)
    serve.set_defaults(run=_serve)
    doctor = commands.add_parser("doctor", help="say which layers of the seal this machine gives")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument("--cgroup", default="", metavar="DIR", help="the delegated cgroup v2 directory, as for serve")
    doctor.add_argument("--live", action="store_true", help="ask a running worker whether all is where it should be")
    doctor.add_argument("--url", metavar="URL", help=f"of that worker (GALAGO_URL; {live.DEFAULT_URL})")
    doctor.add_argument("--token-file", metavar="FILE", help="file with a token of scope admin itself (GALAGO_TOKEN)")
    doctor.set_defaults(run=_doctor)
    mend = commands.add_parser("repair", help="make a new task table of what can be read of a damaged one")
    mend.add_argument("--data-dir", required=True, metavar="DIR", help="the stopped worker's data directory")
    mend.set_defaults(run=_repair)
    version = commands.add_parser("version", help="say which version this is")
    version.set_defaults(run=_version)
    return parser


def _serve(options: argparse.Namespace) -> int:
    warnings: list[str] = []

    def load() -> Config:
        warnings.clear()
        return Config.resolve(vars(options), os.environ, warn=warnings.append)

    config = load()
    logs.configure(config)
    for line in warnings:
        logs.warn(line)
    return Launcher(config, load, os.environ).run()


def _doctor(options: argparse.Namespace) -> int:
    """Exit code OK where the seal is full, REDUCED where a layer is missing, UNSEALED where one that must be.

    With --live: OK where nothing differs, DIFFERENT where something does.
    """
    if options.live:
        return _doctor_live(options)
    runner_uid = Config().runner_uid_first if os.geteuid() == 0 else 0
    with tempfile.TemporaryDirectory(prefix="galago-doctor-") as root:
        findings = probe.run(Path(root), runner_uid, cgroup.to_try(options.cgroup))
    if options.json:
        layers = {name: dataclasses.asdict(finding) for name, finding in findings.items()}
        _say(sys.stdout, json.dumps({"level": probe.level(findings), "layers": layers}, indent=2))
    else:
        _say(sys.stdout, f"seal: {probe.level(findings)}")
        width = max(map(len, findings))
        for name, finding in findings.items():
            told = "yes" if finding.ok else f"no: {finding.why_not}\n{'':<{width}}  to get it: {finding.how_to_get}"
            _say(sys.stdout, f"{name:<{width}}  {told}")
        if probe.level(findings) == probe.UNSEALED:
            _say(sys.stdout, "a worker does not start here, unless told --allow-unsealed")
    codes = {probe.FULL: ExitCode.OK, probe.REDUCED: ExitCode.REDUCED, probe.UNSEALED: ExitCode.UNSEALED}
    return codes[probe.level(findings)]


def _doctor_live(options: argparse.Namespace) -> int:
    url = options.url or os.environ.get("GALAGO_URL") or live.DEFAULT_URL
    token = live.read_token(options.token_file) if options.token_file else os.environ.get("GALAGO_TOKEN")
    audit = live.audit(url, token)
    if options.json:
        _say(sys.stdout, json.dumps(audit, indent=2))
    else:
        counts = [f"{what} {count}" for what, count in audit["checked"].items() if count is not None]
        _say(sys.stdout, f"checked: {', '.join(counts)}")
        for one in audit["differences"]:
            _say(sys.stdout, f"{one['kind']}: {one['detail']}")
        _say(sys.stdout, "these differ" if audit["differences"] else "nothing differs")
    return ExitCode.DIFFERENT if audit["differences"] else ExitCode.OK


def _repair(options: argparse.Namespace) -> int:
    data_dir = Path(options.data_dir)
    if not data_dir.is_dir():
        raise DataDirectoryError(f"{data_dir} isn't a directory: name the data directory of a worker")
    lock = datadir.lock(data_dir)
    try:
        salvage = repair(data_dir / TABLE_NAME)
    finally:
        os.close(lock)
    for table, kept in salvage.kept.items():
        lost = salvage.unreadable[table]
        _say(sys.stdout, f"{table:<12} {kept} rows kept" + (f", {lost} places could not be read" if lost else ""))
    for digest in salvage.modules_admitted:
        _say(sys.stdout, f"module {digest} was admitted again from its file")
    for task_id in salvage.dropped_tasks:
        _say(sys.stdout, f"task {task_id} was dropped: what is left of it makes no sense")
    _say(sys.stdout, f"the damaged table is {salvage.damaged}")
    return ExitCode.OK


def _version(_: argparse.Namespace) -> int:
    _say(sys.stdout, f"{DISTRIBUTION} {version_of()}")
    return ExitCode.OK


def _say(stream: Any, text: str) -> None:
    stream.write(text + "\n")
