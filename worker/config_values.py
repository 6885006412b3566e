"""One option's value, from the text or TOML that it was written as; and what several options must be together.

No error here says only what is wrong: each says what would be right.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.names import is_name
from worker.errors import ConfigError

if TYPE_CHECKING:
    from worker.config import Config

_SUFFIXES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d[\d_]*) ?([KMGT]iB|B)?")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
# sockaddr_un holds 108 bytes with the final NUL (unix(7)).
_MAX_SOCKET_PATH_BYTES = 107
COMMANDS_SOCKET = "run/commands.sock"
# What a runner takes of the node's memory beside its guest's.
RUNNER_OVERHEAD_BYTES = 8 * 1024 * 1024
CALLS_DIRECTORY = "run/calls"  # a listening socket for each service, named by its task's id
TABLE_NAME = "table.sqlite"
Option = Field[Any]


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that tasks may mount; `uid` and `gid` are whom a runner that writes to it runs as, None its owner."""

    name: str
    path: str
    uid: int | None = None
    gid: int | None = None


def kind_of(option: Option) -> str:
    """`str`, `int`, `float`, `bool` or `tuple`."""
    annotation = str(option.type)
    return "tuple" if annotation.startswith("tuple") else annotation.removesuffix(" | None")


def show(value: object, unit: str) -> str:
    """A figure with its unit, sizes in the largest binary unit that keeps them whole."""
    if unit == "bytes" and isinstance(value, int):
        for suffix in ("TiB", "GiB", "MiB", "KiB"):
            if value and value % _SUFFIXES[suffix] == 0:
                return f"{value // _SUFFIXES[suffix]} {suffix}"
        return f"{value} bytes"
    text = f"{value:g}" if isinstance(value, float) else ("no" if value is False else str(value))
    return f"{text} {unit}" if unit else text


def parse(option: Option, source: str, value: object) -> Any:
    """`value` as the field's type and in its range.

    Args:
        source: the option as it was written, for the error.
        value: text, or what TOML gave.

    Raises:
        ConfigError: it is something else.
    """
    match kind_of(option):
        case "bool":
            return _bool(source, value)
        case "tuple":
            return _strings(source, value)
        case "str":
            return _string(option, source, value)
        case kind:
            return _number(option, source, value, whole=kind == "int")


def _bool(source: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in _TRUE + _FALSE:
        raise ConfigError(source, value, "true or false")
    return text in _TRUE


def _strings(source: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(source, value, "a list of strings")
    return tuple(item.strip() for item in value if item.strip())


def _string(option: Option, source: str, value: object) -> str:
    choices = option.metadata["choices"]
    if not isinstance(value, str) or "\0" in value or (choices and value not in choices):
        raise ConfigError(source, value, " or ".join(choices) or "text")
    return value


def _number(option: Option, source: str, value: object, *, whole: bool) -> float:
    unit, low, high = (option.metadata[key] for key in ("unit", "low", "high"))
    what = "a size, in bytes or like 64KiB," if unit == "bytes" else ("a whole number" if whole else "a number")
    right = f"{what} from {show(low, unit)} to {show(high, unit)}"
    number = _read_number(value, unit, whole=whole)
    if number is None or not low <= number <= high:
        raise ConfigError(source, value, right)
    return number


def _read_number(value: object, unit: str, *, whole: bool) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, float):
        return None if whole else value
    if isinstance(value, int):
        return value if whole else float(value)
    if unit == "bytes":
        match = _SIZE.fullmatch(value.strip())
        return int(match[1]) * _SUFFIXES[match[2] or ""] if match else None
    try:
        return int(value) if whole else float(value)
    except ValueError:
        return None


class _Refuser:
    """Makes the error for one option, named as it was written."""

    def __init__(self, config: Config, sources: Mapping[str, str]) -> None:
        self._config = config
        self._sources = sources

    def __call__(self, name: str, right: str) -> ConfigError:
        source = self._sources.get(name, "--" + name.replace("_", "-"))
        value = getattr(self._config, name)
        return ConfigError(source, ";".join(value) if isinstance(value, tuple) else value, right)


def check(config: Config, sources: Mapping[str, str]) -> Config:
    """What concerns several options or the machine; returns `config` with paths made absolute.

    Args:
        sources: name to the option as it was written, where it was.

    Raises:
        ConfigError: names one of the options in question.
    """
    if config.data_dir:
        config = replace(config, data_dir=os.path.realpath(config.data_dir))
    refuse = _Refuser(config, sources)
    check_together(config, refuse)
    _check_directories(config, refuse)
    return config


def check_together(config: Config, refuse: _Refuser | None = None) -> None:
    """What concerns several options, and no disk.

    Raises:
        ConfigError: names one of the options in question.
    """
    refuse = refuse or _Refuser(config, {})
    _check_addresses(config, refuse)
    _check_figures(config, refuse)


def _check_addresses(config: Config, refuse: _Refuser) -> None:
    for name in ("bind", "calls_bind"):
        text = getattr(config, name)
        if text is None:
            continue
        address = split_address(text)
        if address is None:
            raise refuse(name, "HOST:PORT, with an IPv6 host in brackets and a port from 0 to 65535")
        if config.token_file is None and not is_loopback(address[0]):
            raise refuse(name, "a loopback address, unless there is a --token-file")


def _check_figures(config: Config, refuse: _Refuser) -> None:
    for name in ("fuel", "memory_bytes", "wall_ms", "output_bytes"):
        if getattr(config, f"default_{name}") > getattr(config, f"max_{name}"):
            raise refuse(f"default_{name}", f"at most --max-{name.replace('_', '-')}")
    if config.max_memory_bytes > config.max_runners_memory_bytes - RUNNER_OVERHEAD_BYTES:
        overhead = show(RUNNER_OVERHEAD_BYTES, "bytes")
        raise refuse("max_memory_bytes", f"{overhead} below --max-runners-memory-bytes, which all runners share")
    if config.deregistration_delay_s > config.drain_s:
        raise refuse("deregistration_delay_s", "at most --drain-s, of which it is a part")
    if not re.fullmatch(r"[!-~]{1,253}", config.worker_name):
        raise refuse("worker_name", "1 to 253 visible ASCII characters")


def _check_directories(config: Config, refuse: _Refuser) -> None:
    if len(os.fsencode(f"{config.data_dir}/{COMMANDS_SOCKET}")) > _MAX_SOCKET_PATH_BYTES:
        longest = _MAX_SOCKET_PATH_BYTES - len(COMMANDS_SOCKET) - 1
        raise refuse("data_dir", f"at most {longest} bytes long, for the sockets below it")
    if not all(os.path.isabs(path) for path in config.file_dirs):
        raise refuse("file_dirs", "absolute paths")
    volumes = []
    for text in config.volumes:
        volume = read_volume(text)
        if volume is None:
            raise refuse("volumes", "NAME=PATH[,uid=U,gid=G], with a directory's absolute path and no root")
        if config.data_dir and _overlap(volume.path, config.data_dir):
            raise refuse("volumes", f"apart from the data directory, and {volume.name} isn't")
        volumes.append(volume)
    if len({volume.name for volume in volumes}) != len(volumes):
        raise refuse("volumes", "named differently")


def read_volume(text: str) -> Volume | None:
    """`NAME=PATH[,uid=U,gid=G]`; None where it isn't one, or PATH is no directory."""
    name, _, rest = text.partition("=")
    path, *settings = rest.split(",")
    if not is_name(name) or not os.path.isabs(path) or not Path(path).is_dir():
        return None
    ids: dict[str, int] = {}
    for setting in settings:
        key, _, number = setting.partition("=")
        if key not in ("uid", "gid") or key in ids or not number.isdecimal() or not 0 < int(number) < 2**32 - 1:
            return None
        ids[key] = int(number)
    if settings and set(ids) != {"uid", "gid"}:
        return None
    return Volume(name, os.path.realpath(path), ids.get("uid"), ids.get("gid"))


def split_address(text: str) -> tuple[str, int] | None:
    """`HOST:PORT` or `[HOST]:PORT`; None where it is neither."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        return None
    return match[1] or match[2], int(match[3])


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _overlap(one: str, other: str) -> bool:
    paths = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])
