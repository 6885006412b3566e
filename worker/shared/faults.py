"""Fault injection, for tests: points that a process passes by name, and what a test has put there.

Off unless the hidden option `--fault-dir` names a directory. A file in it that has a point's name says what happens to
whoever passes that point:

    kill [N]          SIGKILL at its N-th passing (the first), once: the file goes before
    sleep MS          it takes so much longer, for as long as the file is there
    raise ERRNO [N]   OSError, for as long as the file is there, or N times in one process
    then POINT        nothing, once; from there on POINT kills

Whoever passes is told by a callable (`Fault`) that every part with points of its own takes, and that does nothing by
default; a test of one part gives its own. Points stand between two steps of which a crash may leave the first alone:

    table.begun .updated .written .synced .committed    a transaction: BEGIN, a task's next row, all rows and blobs,
                                                        files, COMMIT
    commit.taken .announcing .routed .acknowledging .acknowledged
                                                        a batch: out of the queue, on disk, its events and routes on the
                                                        page, page bumped, the loop told
    blob.created .written .synced .renamed              a file below `blobs/`, temporary until it is renamed
    artifact.written                                    an artifact that hasn't its name yet
    fork.asking .asked .answered                        the zygote is asked, has been, and its child isn't known yet
    listener.bound .listening                           a service's socket
    reply.sending .sent                                 the coordinator's answer to a command
    command.sending .sent .answered                     an API worker's command; its reply is read
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[str], None]


def no_fault(_point: str) -> None:
    """What every part takes by default."""


def faults_of(directory: str | None) -> Fault:
    """What the option says: None is off."""
    return no_fault if directory is None else FaultDirectory(Path(directory))


class FaultDirectory:
    """Looks for the point's file at each passing. To be called from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._passed: Counter[str] = Counter()

    def __call__(self, point: str) -> None:
        path = self._directory / point
        try:
            action, *words = path.read_text().split()
        except OSError:  # it isn't there, or there is no descriptor to look with
            self._passed.pop(point, None)
            return
        self._passed[point] += 1
        if action == "kill":
            if self._passed[point] >= int(words[0] if words else 1):
                path.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        elif action == "sleep":
            time.sleep(int(words[0]) / 1000)
        elif action == "raise":
            if len(words) == 1 or self._passed[point] <= int(words[1]):
                number = getattr(errno, words[0])
                raise OSError(number, os.strerror(number))
        elif action == "then":
            path.with_name(words[0]).write_text("kill")
            path.unlink()
        else:
            raise ValueError(f"{path} says kill, sleep, raise or then, not {action!r}")
