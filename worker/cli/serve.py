"""`galago-worker serve`."""

from __future__ import annotations

import os
from typing import Any

import click

from worker import logs
from worker.cli.options import config_options, given
from worker.config import Config
from worker.launcher import Launcher


def _serve(**values: Any) -> int:
    options = given(values)
    warnings: list[str] = []

    def load() -> Config:
        warnings.clear()
        return Config.resolve(options, os.environ, warn=warnings.append)

    config = load()
    logs.configure(config)
    for line in warnings:
        logs.warn(line)
    return Launcher(config, load, os.environ).run()


serve = click.Command(
    "serve",
    params=config_options(),
    callback=_serve,
    short_help="Run a worker.",
    help="Run a worker until SIGTERM. Each option is also GALAGO_... in the environment and a key of --config's file.",
)
