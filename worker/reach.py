"""Whether another user can load our code: the interpreter, its library, the packages."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Mapping

from worker.errors import SpawnError
from worker.spawn import Identity, Program, spawn

_TRY = "import ctypes, gunicorn, runner, worker"
_TIMEOUT_MS = 10_000


def can_load(identity: Identity, env: Mapping[str, str]) -> bool:
    """Tried by doing it, since modes alone don't tell (mount options, access lists, security modules)."""
    with open(os.devnull, "wb") as null:
        quiet = f"import os; os.dup2(3, 2); {_TRY}"
        argv = (sys.executable, "-s", "-P", "-c", quiet)
        try:
            process = spawn(Program(argv, env=env, fds={"null": null.fileno()}, identity=identity))
        except SpawnError:
            return False
    try:
        poll = select.poll()
        poll.register(process.pidfd, select.POLLIN)
        if not poll.poll(_TIMEOUT_MS):
            process.send(signal.SIGKILL)
        result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
        return result is not None and result.si_code == os.CLD_EXITED and result.si_status == 0
    finally:
        os.close(process.pidfd)
