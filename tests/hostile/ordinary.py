"""What follows each hostile case: an ordinary job on the same worker, and none of the worker's own processes died."""

from __future__ import annotations

import psutil

from tests.e2e.harness import HELLO, Worker, alive, fields, wait_for, wasm

# Whom no guest and no module may take down.
ROLES = ("coordinator", "zygote", "master", "api")
HELLO_WASM = wasm(HELLO)


def own_processes(worker: Worker) -> list[psutil.Process]:
    """The worker's processes that live as long as it does, once all of them are there: two of them are the API's."""
    found: list[psutil.Process] = []

    def all_there() -> bool:
        found[:] = [process for role in ROLES for process in worker.role(role)]
        return len(found) == len(ROLES) + 1

    wait_for(all_there, "all processes are there")
    return found


def assert_unharmed(worker: Worker, own: list[psutil.Process]) -> None:
    """An ordinary job is done, with what it says, and the processes are those that were there before."""
    ended = worker.run(worker.upload(HELLO_WASM))
    assert ("completed", "exit", 0, None) == fields(ended, "state", "reason", "exit_code", "detail")
    assert b"hello world\n" == worker.stdout(ended["id"])
    assert [] == [process for process in own if not alive(process)]
