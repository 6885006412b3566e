"""`galago-worker repair`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from worker import datadir
from worker import repair as repairs
from worker.config_values import TABLE_NAME
from worker.errors import DataDirectoryError, ExitCode


@click.command(short_help="Make a new table of a damaged one.")
@click.option(
    "--data-dir",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="the stopped worker's data directory",
)
def repair(data_dir: Path) -> int:
    """Make a new task table of what can be read of a damaged one."""
    if not data_dir.is_dir():
        raise DataDirectoryError(f"{data_dir} isn't a directory: name the data directory of a worker")
    lock = datadir.lock(data_dir)
    try:
        salvage = repairs.repair(data_dir / TABLE_NAME)
    finally:
        os.close(lock)
    for table, kept in salvage.kept.items():
        lost = salvage.unreadable[table]
        click.echo(f"{table:<12} {kept} rows kept" + (f", {lost} places could not be read" if lost else ""))
    for digest in salvage.modules_admitted:
        click.echo(f"module {digest} was admitted again from its file")
    for task_id in salvage.dropped_tasks:
        click.echo(f"task {task_id} was dropped: what is left of it makes no sense")
    click.echo(f"the damaged table is {salvage.damaged}")
    return ExitCode.OK
