"""The configuration: one frozen dataclass, made once, handed over whole. Command line > environment > file > default.

Every field is the option `--kebab-case`, the variable `GALAGO_UPPER_CASE` (lists separated by `;`) and the TOML key
`snake_case`; help, unit and range stand in its metadata, from which `--help` and the README's table are made.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from worker import config_values
from worker.errors import ConfigError

_logger = logging.getLogger(__name__)

ENV_PREFIX = "GALAGO_"
# Names in the environment that are ours but aren't options.
KNOWN_ENV = frozenset({"GALAGO_CONFIG", "GALAGO_URL", "GALAGO_TOKEN"})

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
# A call's answer says its length in 32 bits (`runner.protocol.call`), and has a head, too.
MOST_OUTPUT = 4 * GiB - MiB
Option = Field[Any]


def _option(
    default: Any,
    help_text: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    reload: bool = False,
    hidden: bool = False,
) -> Any:
    """A field with what is known of it. A callable default is asked each time.

    `reload`: SIGHUP changes it. That is what API workers and launcher alone go by: a coordinator, its zygote and the
    runners' cgroup are made for one configuration, and what API workers admit has to fit theirs.
    `hidden`: for tests, it stands in neither help nor table.
    """
    metadata = {"help": help_text, "unit": unit, "low": low, "high": high, "choices": choices, "reload": reload}
    metadata["hidden"] = hidden
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _compilers() -> int:
    """Two where there are cores for it, so that one module that is hard to compile holds up no other.

    Not more: each may take compile_memory_bytes and a core, which are the running tasks' too.
    """
    return min(2, _cores())


def _memory() -> int:
    """Three quarters of the machine's; not below what lets a few small runners live."""
    return max(GiB, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 * 3)


def _hostname() -> str:
    return re.sub(r"[^!-~]", "-", socket.gethostname())[:253] or "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every figure of a worker. `Config(...)` takes values as they are; `Config.resolve` reads and checks them."""

    # Where
    bind: str = _option("127.0.0.1:8470", "address to serve on, HOST:PORT; port 0 takes a free one")
    calls_bind: str | None = _option(None, "one more address, HOST:PORT, that serves function calls and health alone")
    data_dir: str = _option("", "directory of the task table, blobs and sockets; made with mode 0700")
    user: str = _option("nobody", "whom everything but launcher and runners runs as; only as root")
    token_file: str | None = _option(
        None, "file of `sha256:<hex> scope[,scope]` lines, mode 0600; none: loopback only", reload=True
    )
    worker_name: str = _option(_hostname, "this worker's name in statistics")
    volumes: tuple[str, ...] = _option((), "directory for mounts, NAME=PATH[,uid=U,gid=G]; may be repeated")
    file_dirs: tuple[str, ...] = _option((), "directory below which `file:` module URLs may lie; may be repeated")
    fetch_allow: tuple[str, ...] = _option((), "host or address to fetch from though it isn't global; may be repeated")
    allowed_hosts: tuple[str, ...] = _option(
        (),
        "Host that control routes answer to; may be repeated; none: any with tokens, else IP addresses and localhost",
        reload=True,
    )
    allowed_origins: tuple[str, ...] = _option(
        (), "foreign Origin that control routes allow; may be repeated", reload=True
    )

    # How much at once
    api_workers: int = _option(2, "processes that parse HTTP", low=1, high=64, reload=True)
    max_runners: int = _option(lambda: 4 * _cores(), "runners at once", low=1, high=4096)
    max_runners_memory_bytes: int = _option(
        _memory, "the memory limits of all runners at once, together", unit="bytes", low=64 * MiB, high=2**60
    )
    max_compilers: int = _option(_compilers, "compilers at once", low=1, high=64)
    max_queued: int = _option(10_000, "tasks that may wait for a runner", low=0, high=10_000_000)
    max_open_tasks_per_token: int = _option(10_000, "unfinished tasks of one token", low=1, high=10_000_000)
    max_stored_bytes_per_token: int = _option(
        10 * GiB, "blobs of one token", unit="bytes", low=0, high=2**60, reload=True
    )
    # How much of what is over and unused is kept
    retention_days: float = _option(7.0, "a task is kept so long after its end", unit="days", low=0, high=36_500)
    retention_tasks: int = _option(1_000_000, "ended tasks that are kept", low=0, high=10**9)
    retention_output_bytes: int = _option(
        10 * GiB, "output of ended tasks that is kept, with its tasks", unit="bytes", low=0, high=2**60
    )
    retention_module_bytes: int = _option(
        10 * GiB,
        "modules; past it those go that were used least lately and that no task needs",
        unit="bytes",
        high=2**60,
        low=0,
    )
    artifact_store_bytes: int = _option(
        10 * GiB,
        "artifacts kept on disk; those go first that were loaded least lately",
        unit="bytes",
        low=0,
        high=2**60,
    )

    max_connections: int = _option(1_000, "connections at once, of one API worker", low=1, high=100_000, reload=True)

    # Modules
    max_module_bytes: int = _option(32 * MiB, "a module's size", unit="bytes", low=KiB, high=GiB)
    max_functions: int = _option(100_000, "functions of a module", low=1, high=1_000_000)
    max_data_segments: int = _option(50_000, "data segments of a module", low=1, high=1_000_000)
    max_imports: int = _option(1_000, "imports of a module", low=1, high=100_000)
    max_exports: int = _option(1_000, "exports of a module", low=1, high=100_000)
    compile_wall_s: int = _option(120, "time to compile a module", unit="s", low=1, high=3_600)
    compile_memory_bytes: int = _option(2 * GiB, "memory to compile a module", unit="bytes", low=64 * MiB, high=2**40)
    artifact_cache_bytes: int = _option(256 * MiB, "artifacts kept in memory", unit="bytes", low=0, high=2**40)
    fetch_timeout_s: int = _option(60, "time to fetch a module by URL", unit="s", low=1, high=3_600)

    # A task's limits: what it gets when it says nothing, and what it may ask for
    default_fuel: int = _option(10**9, "fuel of a task that names none", low=1, high=2**63 - 1, reload=True)
    default_memory_bytes: int = _option(
        64 * MiB, "memory, likewise", unit="bytes", low=64 * KiB, high=4 * GiB, reload=True
    )
    default_wall_ms: int = _option(10_000, "run time, likewise", unit="ms", low=1, high=86_400_000, reload=True)
    default_output_bytes: int = _option(
        MiB, "stdout and stderr each, likewise", unit="bytes", low=0, high=MOST_OUTPUT, reload=True
    )
    max_fuel: int = _option(2**63 - 1, "fuel that a task may ask for", low=1, high=2**63 - 1, reload=True)
    max_memory_bytes: int = _option(512 * MiB, "memory, likewise", unit="bytes", low=64 * KiB, high=4 * GiB)
    max_wall_ms: int = _option(30_000, "run time, likewise", unit="ms", low=1, high=86_400_000, reload=True)
    max_output_bytes: int = _option(64 * MiB, "stdout and stderr each, likewise", unit="bytes", low=0, high=MOST_OUTPUT)

    # Runners of functions
    recycle_calls: int = _option(100_000, "calls after which a function's runner is replaced", low=1, high=2**32 - 1)
    recycle_cpu_s: int = _option(3_600, "CPU time, likewise", unit="s", low=1, high=10**9)

    # Times
    init_ms: int = _option(5_000, "time for a runner to start", unit="ms", low=10, high=600_000)
    stop_grace_ms: int = _option(
        1_000, "from interrupt to SIGKILL when a task is stopped", unit="ms", low=0, high=600_000
    )
    service_drain_s: float = _option(
        10.0, "for calls that wait or run when a service is stopped", unit="s", low=0, high=86_400
    )
    heartbeat_timeout_ms: int = _option(2_000, "silence of a process that is death", unit="ms", low=1_000, high=600_000)
    start_timeout_ms: int = _option(
        30_000, "time for a process to its first heartbeat", unit="ms", low=1_000, high=600_000
    )
    drain_s: float = _option(30.0, "budget of an orderly stop, all phases together", unit="s", low=0, high=86_400)
    deregistration_delay_s: float = _option(
        0.0, "of it, for load balancers to notice", unit="s", low=0, high=86_400, reload=True
    )

    # HTTP
    max_body_bytes: int = _option(8 * MiB, "a request's body, modules apart", unit="bytes", low=KiB, high=GiB)
    max_header_bytes: int = _option(64 * KiB, "a request's head", unit="bytes", low=KiB, high=MiB, reload=True)
    head_timeout_s: float = _option(10.0, "time for a whole request head", unit="s", low=0.1, high=3_600, reload=True)
    body_timeout_s: float = _option(30.0, "time for a whole request body", unit="s", low=0.1, high=86_400, reload=True)
    write_timeout_s: float = _option(
        30.0, "a client that takes nothing for so long is cut", unit="s", low=0.1, high=86_400, reload=True
    )
    keepalive_s: float = _option(
        75.0, "idle connections; more than the load balancer's", unit="s", low=1, high=86_400, reload=True
    )
    reload_linger_s: float = _option(
        5.0, "on reload, for idle connections to end by themselves", unit="s", low=0, high=3_600, reload=True
    )

    # How
    durability: str = _option("full", "what a 201 survives: power loss, or a crash", choices=("full", "normal"))
    allow_unsealed: bool = _option(False, "start even without seccomp and no_new_privs")
    cgroup: str | None = _option(None, "delegated cgroup v2 directory, for a cgroup with limits around all runners")
    runner_uid_first: int = _option(60_000, "first uid of the runners' range; only as root", low=1_000, high=2**31)
    log_format: str = _option("console", "lines for people, or JSON", choices=("console", "json"))
    log_level: str = _option("info", "what is logged", choices=("debug", "info", "warning", "error"))
    fault_dir: str | None = _option(None, "directory of faults that are injected (worker.shared.faults)", hidden=True)

    @classmethod
    def resolve(
        cls,
        options: Mapping[str, Any],
        env: Mapping[str, str],
        *,
        required: Sequence[str] = ("data_dir",),
        warn: Callable[[str], None] = _logger.warning,
    ) -> Config:
        """Options, environment and the file that `--config` or GALAGO_CONFIG names, put together and checked.

        Args:
            options: from the command line, parsed: name to text, a list of texts, a bool, or None where it wasn't
                given. Other names are ignored.
            env: the environment; an unknown GALAGO_ name in it is warned about.
            required: fields that must be given somewhere.
            warn: takes one line of text.

        Raises:
            ConfigError: names the option as it was written, its value, and what would be right.
        """
        path = options.get("config") or env.get("GALAGO_CONFIG")
        found = _read_file(path) if path else {}
        found.update(_read_env(env, warn))
        for option in fields(cls):
            if options.get(option.name) is not None:
                found[option.name] = (option_flag(option.name), options[option.name])
        by_name = {option.name: option for option in fields(cls)}
        values = {name: config_values.parse(by_name[name], *source) for name, source in found.items()}
        config = cls(**values)
        for name in required:
            if not getattr(config, name):
                raise ConfigError(option_flag(name), "", "given")
        return config_values.check(config, {name: source[0] for name, source in found.items()})

    def to_bytes(self) -> bytes:
        """The whole of it as JSON, for `from_bytes` in another process of the same version."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Config:
        """The other half of `to_bytes`.

        Raises:
            ConfigError: bytes that `to_bytes` of this version did not make.
        """
        try:
            values: dict[str, Any] = json.loads(data)
            settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**settings)
        except (ValueError, TypeError, AttributeError) as exc:
            raise ConfigError("the configuration handed over", data[:50].decode("latin-1"), "to_bytes' own") from exc

    @classmethod
    def from_fd(cls, fd: int) -> Config:
        """From an inherited file (GALAGO_FD_CONFIG), read from its start; the fd stays open, to be read on SIGHUP."""
        return cls.from_bytes(os.pread(fd, os.fstat(fd).st_size, 0))

    def write_fd(self, fd: int) -> None:
        """Into a file that other processes read by `from_fd`."""
        data = self.to_bytes()
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))


_LISTS = frozenset(option.name for option in fields(Config) if config_values.kind_of(option) == "tuple")


def option_flag(name: str) -> str:
    """The option's name on the command line; one that may be repeated is in the singular there."""
    singular = name.removesuffix("s") if name in _LISTS else name
    return "--" + singular.replace("_", "-")


def option_help(option: Option) -> str:
    """What the option means, its range and its default, in one line."""
    return f"{option.metadata['help']} ({_range(option)}; {_default(option)})"


def options_table() -> str:
    """All options as a Markdown table, for the README."""
    lines = ["| option | means | range | default |", "| --- | --- | --- | --- |"]
    for option in fields(Config):
        if option.metadata["hidden"]:
            continue
        help_text = option.metadata["help"].replace("|", "\\|")
        default = _default(option).removeprefix("default ")
        lines.append(f"| `{option_flag(option.name)}` | {help_text} | {_range(option)} | {default} |")
    return "\n".join(lines) + "\n"


def restart_only(before: Config, after: Config) -> list[str]:
    """The options that differ and that a running worker can't take on: SIGHUP leaves them as they were."""
    return [
        option_flag(option.name)
        for option in fields(Config)
        if not option.metadata["reload"] and getattr(before, option.name) != getattr(after, option.name)
    ]


def _range(option: Option) -> str:
    meta = option.metadata
    if meta["choices"]:
        return " or ".join(meta["choices"])
    if meta["low"] is None:
        return "yes or no" if config_values.kind_of(option) == "bool" else "text"
    low, high = (config_values.show(value, meta["unit"]) for value in (meta["low"], meta["high"]))
    return f"{low} to {high}"


def _default(option: Option) -> str:
    factory = option.default_factory
    if factory is _hostname:
        return "default the host's name"
    if factory is _memory:
        return "default three quarters of the machine's, 1 GiB at least"
    if factory is _compilers:
        return "default 2, on one core 1"
    if callable(factory):
        return "default 4 per core"
    if option.default in (None, "", ()):
        return "no default"
    return f"default {config_values.show(option.default, option.metadata['unit'])}"


Source = tuple[str, Any]


def _read_env(env: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, Source]:
    by_variable = {ENV_PREFIX + option.name.upper(): option for option in fields(Config)}
    found: dict[str, Source] = {}
    for variable, text in env.items():
        if variable in by_variable:
            found[by_variable[variable].name] = (variable, text)
        elif variable.startswith(ENV_PREFIX) and variable not in KNOWN_ENV:
            warn(f"{variable} is no option and is ignored{_suggest(variable, by_variable)}")
    return found


def _read_file(path: str) -> dict[str, Source]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError("--config", path, f"a file that can be read ({exc.strerror})") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError("--config", path, f"valid TOML ({exc})") from exc
    names = {option.name for option in fields(Config)}
    for name, value in values.items():
        if name not in names:
            raise ConfigError(f"{path}: {name}", value, f"an option's name{_suggest(name, names)}")
    return {name: (f"{path}: {name}", value) for name, value in values.items()}


def _suggest(name: str, names: Any) -> str:
    close = get_close_matches(name, list(names), 1)
    return f"; did you mean {close[0]}?" if close else ""


def seconds_up(value: float) -> int:
    """Whole seconds, at least one, for interfaces that know no others."""
    return max(1, math.ceil(value))
