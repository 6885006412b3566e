"""`galago-worker version`."""

from __future__ import annotations

import click

from worker.version import DISTRIBUTION, version_of


@click.command
def version() -> None:
    """Say which version this is (as --version)."""
    click.echo(f"{DISTRIBUTION} {version_of()}")
