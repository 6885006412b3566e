"""A zygote whose runners play native code for some of their jobs, and run every other job as they should.

A job whose second argument is PLAY plays its third, Python source, where its guest would run; PLAY_EARLY: before it
says STARTED. What the source may need is imported here, since a sealed runner opens no file. Everything else is the
product's own, so that what such a runner does is what a guest could do that has escaped from the engine. One that
serves answers a call whose result is BREAKS with a byte too many, and goes on.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import os
import sys
from typing import Any, NoReturn

import played_zygote  # type: ignore[import-not-found]  # tests/runner, found by the path that the coordinator gives

from runner import asker, invoke, messages, process, zygote
from runner.protocol import status
from runner.protocol.control import Job, decode_job
from runner.protocol.status import Outcome

PLAY, PLAY_EARLY = b"--play", b"--play-early"
BREAKS = 0xBAD
# x86: `mov eax, 20; int 0x80; ret` asks for getpid by the 32-bit table.
_ENTER_32_BIT = bytes.fromhex("b814000000cd80c3")

_page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
_page.write(_ENTER_32_BIT)
_enter_32_bit = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(_page)))
_never = _thread.allocate_lock()


def _say(data: bytes) -> None:
    """All of it to the status pipe, however long that takes."""
    while data:
        data = data[os.write(4, data) :]


def _hold(seconds: float = -1) -> None:
    """Wait without a system call that the filter refuses; by default for ever."""
    _never.acquire(True, seconds)


def _scene(job: Job) -> dict[str, Any]:
    frame = status.FRAME_HEAD.pack
    return {
        "ctypes": ctypes,
        "enter_32_bit": _enter_32_bit,
        "frame": lambda kind, payload=b"", magic=b"gR", version=1: frame(magic, version, kind, len(payload)) + payload,
        "head": frame,
        "hold": _hold,
        "job": job,
        "messages": messages,
        "os": os,
        "Outcome": Outcome,
        "outcome": lambda reason="exit", **fields: status.encode_outcome(Outcome(job.job_id, reason, **fields)),
        "process": process,
        "raw": played_zygote.raw,
        "raw_number": played_zygote.raw_number,
        "result": "",
        "say": _say,
        "status": status,
        "stdin": b"",
    }


def _source(job: Job, marker: bytes) -> str | None:
    return job.args[2].decode() if len(job.args) == 3 and job.args[1] == marker else None


def _decode_job(message: bytes) -> Job:
    job = decode_job(message)
    source = _source(job, PLAY_EARLY)
    if source is not None:
        exec(source, _scene(job))
    return job


def _run(*arguments: Any) -> Outcome:
    job = arguments[1]
    source = _source(job, PLAY)
    if source is None:
        return _run_guest(*arguments)
    scene = _scene(job)
    exec(source, scene)
    return Outcome(job.job_id, "exit", exit_code=0, detail=str(scene["result"]))


def _begin_answer(self: asker.Asker, answer: bytes) -> int:
    return _begin_whole_answer(self, answer + b"x" if answer.endswith(BREAKS.to_bytes(8, "little")) else answer)


_run_guest, _begin_whole_answer = invoke.run, asker.Asker.begin_answer


def main(argv: list[str]) -> NoReturn:
    _never.acquire()
    process.decode_job = _decode_job
    invoke.run = _run
    asker.Asker.begin_answer = _begin_answer  # type: ignore[method-assign]
    zygote.main(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
