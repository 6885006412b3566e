"""What a command line names: files, variables, labels, numbers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from worker.cli.server import CommandFailed
from worker.errors import CommandExit

STDIN = "-"


def read_file(path: Path) -> bytes:
    """A whole file, or stdin where it is named `-`. Raises: CommandFailed."""
    try:
        return sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except OSError as exc:
        raise CommandFailed(f"{path} can't be read: {exc.strerror}", CommandExit.NO_INPUT) from exc


def read_variables(words: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` with the value that it has here."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and name not in os.environ:
            raise click.BadParameter(f"{name} has no value here; give it as {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def read_labels(words: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE`, each."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{word!r} is no KEY=VALUE")
        found[key] = value
    return found


def read_numbers(words: tuple[str, ...]) -> list[Any]:
    """Parameters of an export, as the API takes them: numbers, and what JSON has no number for as text."""
    found = []
    for word in words:
        try:
            found.append(json.loads(word))
        except ValueError:
            found.append(word)
    return found
