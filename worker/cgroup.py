"""One cgroup (v2) for everything that the zygote forks, with limits for all of it together; the operator delegates it.

    PATH            `--cgroup`: ours to make cgroups in; its processes move, for one with controllers below has none
    ├─ worker       the launcher, and what it starts
    └─ runners      zygote, runners, compilers: memory.max, memory.swap.max, pids.max

The zygote joins once and its children are born there, which costs a fork nothing; a join of each would be 0.2 to 30 ms.
Whose memory was too much the counters of a shared cgroup don't prove, so no task ends `oom_kernel` by it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from runner.seal import FILES_NPROC
from worker.config import Config
from worker.errors import ConfigError
from worker.spawn import Identity

_log = logging.getLogger("launcher")
_RIGHT = "a cgroup v2 directory that is the worker's to make cgroups in, without other processes (Delegate=yes)"
CONTROLLERS = ("memory", "pids")
# The zygote itself, and what the kernel counts for page tables and sockets.
SLACK_BYTES = 64 * 1024 * 1024


def runners_path(path: str | None) -> str:
    """Where the zygote joins, "" without a cgroup."""
    return str(Path(path) / "runners") if path else ""


def to_try(path: str) -> str:
    """Which cgroup shows by a join whether `path` can be had: below one that a worker uses none is free to join."""
    runners = runners_path(path)
    return runners if Path(runners).is_dir() else path


def limits(config: Config) -> dict[str, int]:
    """What all runners and compilers may use together, by the files' names.

    Memory: what runners are given at once (`--max-runners-memory-bytes`), what each compiler may take, and the zygote.
    A runner's rlimits allow it more than the share that it counts for; this is what holds then. Tasks: one a compiler,
    and the threads of as many runners with mounts and a uid of their own.
    """
    compilers_bytes = config.max_compilers * config.compile_memory_bytes
    return {
        # A runner's share of the first is its guest's memory and what it has beside that.
        "memory.max": config.max_runners_memory_bytes + compilers_bytes + SLACK_BYTES,
        "memory.swap.max": 0,
        "pids.max": 1 + config.max_compilers + config.max_runners * FILES_NPROC,
    }


def prepare(config: Config, identity: Identity | None) -> tuple[str, ...]:
    """Make both cgroups below `config.cgroup`, move this process into its own, limit the other.

    Args:
        identity: whom the zygote runs as: it gets the right to move itself within.

    Returns:
        The controllers that can't be had there, whose limits are not set.

    Raises:
        ConfigError: the directory isn't one, or the kernel refuses.
    """
    assert config.cgroup is not None
    above = Path(config.cgroup)
    try:
        given = (above / "cgroup.controllers").read_text().split()
        own, runners = above / "worker", above / "runners"
        for directory in (own, runners):
            directory.mkdir(exist_ok=True)
        _write(own / "cgroup.procs", "0")
        had = [name for name in CONTROLLERS if name in given]
        if had:
            _write(above / "cgroup.subtree_control", " ".join(f"+{name}" for name in had))
        _limit(runners, had, config)
        if identity is not None:
            for directory in (above, runners):  # the kernel asks for the right to both
                os.chown(directory / "cgroup.procs", identity.uid, identity.gid)
    except OSError as exc:
        raise ConfigError("--cgroup", f"{config.cgroup} ({exc.strerror})", _RIGHT) from exc
    lacking = tuple(name for name in CONTROLLERS if name not in had)
    if lacking:
        _log.warning("%s has no controller %s: that limit isn't set for runners", above, " and no ".join(lacking))
    return lacking


def _limit(runners: Path, controllers: list[str], config: Config) -> None:
    for name, value in limits(config).items():
        if name.partition(".")[0] in controllers and (runners / name).exists():  # no swap.max where there is no swap
            _write(runners / name, str(value))


def _write(path: Path, text: str) -> None:
    """Into a file of the kernel's, which is never made here."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
