"""A zygote whose runners play native code of the test's instead of a guest: what a guest that has escaped could do.

Everything else is the product's own: fork, seal, artifact, READY. A job's first argument is Python source; what it
leaves in `result` comes back as the outcome's detail.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, NoReturn

from runner import invoke, process, syscall_numbers, zygote
from runner.protocol.control import Job
from runner.protocol.status import Outcome

_libc = ctypes.CDLL(None, use_errno=True)


def raw(name: str, *arguments: int) -> int:
    """One system call by name, whatever the machine: its result, or minus its errno."""
    number = syscall_numbers.number_of(name)
    assert number is not None, f"this machine has no {name}"
    return raw_number(number, *arguments)


def raw_number(number: int, *arguments: int) -> int:
    values = [ctypes.c_long(value) for value in (number, *arguments, *[0] * (6 - len(arguments)))]
    result: int = _libc.syscall(*values)
    return -ctypes.get_errno() if result == -1 else result


def play(_prepared: object, job: Job, stdin: bytes, stdout_fd: int, stderr_fd: int, stopped: object) -> Outcome:
    scene: dict[str, Any] = {
        "raw": raw,
        "raw_number": raw_number,
        "ctypes": ctypes,
        "os": os,
        "process": process,
        "stdin": stdin,
        "result": "",
    }
    exec(job.args[0].decode(), scene)
    return Outcome(job.job_id, "exit", detail=str(scene["result"]))


def main(argv: list[str]) -> NoReturn:
    invoke.run = play  # type: ignore[assignment]
    zygote.main(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
