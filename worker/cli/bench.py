"""`galago-worker bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from worker.errors import NotInstalled

_SOURCE = Path(__file__).resolve().parents[2]


@click.command(
    short_help="Measure this machine.", context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> int:
    """Measure this machine: `python -m benchmarks`, with the same options."""
    if not (_SOURCE / "benchmarks" / "__main__.py").is_file():
        raise NotInstalled(
            "the benchmarks are part of the source, not of the installed package: "
            "run `make bench` in a clone of it, or this command from there after `pip install -e '.[bench]'`"
        )
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=_SOURCE, check=False).returncode  # noqa: S603 - our own module, with this caller's options
