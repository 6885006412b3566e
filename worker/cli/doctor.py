"""`galago-worker doctor`."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from runner import probe
from worker import cgroup, live
from worker.cli.server import server_options
from worker.cli.show import harmless
from worker.config import Config
from worker.errors import ExitCode

_CODES = {probe.FULL: ExitCode.OK, probe.REDUCED: ExitCode.REDUCED, probe.UNSEALED: ExitCode.UNSEALED}


@click.command(short_help="Say which layers of the seal this machine gives.")
@click.option("--json", is_flag=True, help="for programs")
@click.option(
    "--cgroup", "directory", default="", metavar="DIR", help="the delegated cgroup v2 directory, as for serve"
)
@click.option("--live", "running", is_flag=True, help="ask a running worker whether all is where it should be")
@server_options
def doctor(json: bool, directory: str, running: bool, url: str | None, token_file: Path | None) -> int:
    """Say which layers of the seal this machine gives; with --live, what a running worker knows and isn't so.

    Exit codes: 0 all of them, 5 one is missing, 77 one is missing that no worker runs without; with --live 0 where
    nothing differs, 6 where something does. --url and --token-file (of scope admin) are --live's.
    """
    if running:
        return _audit(url or live.DEFAULT_URL, token_file, json)
    runner_uid = Config().runner_uid_first if os.geteuid() == 0 else 0
    with tempfile.TemporaryDirectory(prefix="galago-doctor-") as root:
        findings = probe.run(Path(root), runner_uid, cgroup.to_try(directory))
    level = probe.level(findings)
    if json:
        layers = {name: dataclasses.asdict(finding) for name, finding in findings.items()}
        click.echo(jsonlib.dumps({"level": level, "layers": layers}, indent=2))
    else:
        _explain(level, findings)
    return _CODES[level]


def _audit(url: str, token_file: Path | None, json: bool) -> int:
    token = live.read_token(str(token_file)) if token_file is not None else os.environ.get("GALAGO_TOKEN")
    audit = live.audit(url, token)
    if json:
        click.echo(jsonlib.dumps(audit, indent=2))
    else:
        counts = [f"{what} {count}" for what, count in audit["checked"].items() if count is not None]
        click.echo(f"checked: {', '.join(counts)}")
        for one in audit["differences"]:
            click.echo(harmless(f"{one['kind']}: {one['detail']}"))
        click.echo("these differ" if audit["differences"] else "nothing differs")
    return ExitCode.DIFFERENT if audit["differences"] else ExitCode.OK


def _explain(level: str, findings: Mapping[str, probe.Finding]) -> None:
    click.echo(f"seal: {level}")
    width = max(map(len, findings))
    for name, finding in findings.items():
        told = "yes" if finding.ok else f"no: {finding.why_not}\n{'':<{width}}  to get it: {finding.how_to_get}"
        click.echo(f"{name:<{width}}  {told}")
    if level == probe.UNSEALED:
        click.echo("a worker does not start here, unless told --allow-unsealed")
