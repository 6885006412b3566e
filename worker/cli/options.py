"""The configuration's fields as options of a command, and the other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import click

from worker.config import Config, option_flag, option_help
from worker.config_values import kind_of


def config_options() -> list[click.Parameter]:
    """Every field. Values stay text: what is wrong with one is told by `Config.resolve`."""
    found: list[click.Parameter] = [
        click.Option(["--config"], metavar="FILE", help="TOML file with the same options, in snake_case")
    ]
    for option in fields(Config):
        flag, kind = option_flag(option.name), kind_of(option)
        if kind == "bool":
            names = [f"{flag}/--no-{flag.removeprefix('--')}", option.name]
            found.append(click.Option(names, default=None, help=option_help(option), hidden=option.metadata["hidden"]))
        else:
            named = [flag, option.name]
            metavar = (option.metadata["unit"] or ("N" if kind in ("int", "float") else "VALUE")).upper()
            repeated, hidden = kind == "tuple", option.metadata["hidden"]
            found.append(
                click.Option(named, metavar=metavar, multiple=repeated, help=option_help(option), hidden=hidden)
            )
    return found


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `Config.resolve` takes, of what click parsed: an option that may be repeated and wasn't given is None."""
    return {name: (list(value) or None) if isinstance(value, tuple) else value for name, value in values.items()}


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """The options of `serve` for `Config.resolve`.

    Raises:
        click.UsageError: `argv` isn't one.
    """
    command = click.Command("serve", params=config_options())
    return given(command.make_context("serve", list(argv)).params)
