"""Runs a guest with a mount in a process of its own: the engine's WASI has threads, and its stdout is the process's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runner.protocol.status import Outcome
from tests.runner.guest_host import Result

IN_A_PROCESS = """
import os, sys
from tests.runner.guest_host import Host, new_job
from runner import invoke
wasm, stdin, job = eval(sys.stdin.read())
with Host() as host:
    prepared = host.prepare(wasm)
    outcome = invoke.run(prepared, new_job(**job), stdin, 1, 2, lambda: False)
    shown = repr({field: getattr(outcome, field) for field in outcome.__slots__})
os.write(int(sys.argv[1]), shown.encode())
os._exit(0)
"""


def run_with_files(
    wasm: bytes, directory: Path, *, stdin: bytes = b"", read_only: bool = False, **job: object
) -> Result:
    """One job, with `directory`/mounted as /data."""
    folder = directory / "mounted"
    folder.mkdir(exist_ok=True)
    job["preopens"] = ((os.fsencode(folder), b"/data", read_only),)
    read_end, write_end = os.pipe()
    with (directory / "out").open("w+b") as out, (directory / "err").open("w+b") as err:
        try:
            process = subprocess.run(
                [sys.executable, "-c", IN_A_PROCESS, str(write_end)],
                input=repr((wasm, stdin, job)).encode(),
                stdout=out,
                stderr=err,
                pass_fds=(write_end,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])},
                timeout=60,
                check=False,
            )
        finally:
            os.close(write_end)
        shown = os.read(read_end, 1 << 16)
        os.close(read_end)
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read(), err.read()
    assert process.returncode == 0, stderr
    fields = eval(shown)
    return Result(Outcome(fields.pop("job_id"), fields.pop("reason"), **fields), stdout, stderr)
