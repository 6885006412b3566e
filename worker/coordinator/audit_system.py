"""What /proc and the data directory say of the coordinator, for the audit. Reads only; takes some milliseconds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from worker.coordinator.audit import Process


def own_children() -> set[int]:
    """The children of this process, zombies too: none of them leaves the list before we reap it."""
    pids: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended
            pids.update(map(int, path.read_text().split()))
    return pids


def open_fds() -> dict[int, str]:
    """This process's descriptors and what they are, but for the one that lists them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def processes(pids: Iterable[int], uids: range) -> dict[int, Process]:
    """The processes `pids`, and all whose uid is in `uids`."""
    wanted = {*pids, *(_with_uid(uids) if uids else ())}
    found = {}
    for pid in wanted:
        process = read_process(pid)
        if process is not None:
            found[pid] = process
    return found


def read_process(pid: int) -> Process | None:
    """One process; None where there is none (any more)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    fields = dict(line.partition(":\t")[::2] for line in text.splitlines())
    return Process(int(fields["PPid"]), int(fields["Uid"].split()[0]), fields["State"][0])


def cgroup_pids(path: str) -> frozenset[int] | None:
    """Who is in the cgroup; None without one, or where it can't be read."""
    if not path:
        return None
    try:
        return frozenset(map(int, Path(path, "cgroup.procs").read_text().split()))
    except OSError:
        return None


def _with_uid(uids: range) -> Iterator[int]:
    """A runner can't be dumped, so that its directory in /proc is root's: those are looked into."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):
            owner = entry.stat().st_uid
            if owner in uids:
                yield int(entry.name)
            elif owner == 0:
                process = read_process(int(entry.name))
                if process is not None and process.uid in uids:
                    yield int(entry.name)
