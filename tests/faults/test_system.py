"""What the system may lack, for a while or for good: room on the disk, descriptors, processes, a whole table.

What is lacking for a while costs time and no task; what stays is told with what to do.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import guests
from tests.e2e.anybody import NOBODY, env_of, python_of_anybody
from tests.e2e.harness import FINAL, HELLO, ROOT, Worker, fields, running, scratch, wait_for, wasm
from tests.faults.injecting import Injected, injecting
from worker.errors import ExitCode

INIT_MS = 1500
SMALL_BYTES = 40 * 1024 * 1024


@pytest.fixture(scope="module")
def injected() -> Iterator[Injected]:
    options = ("--max-runners", "2", "--api-workers", "1", "--init-ms", str(INIT_MS))
    with injecting(*options) as made:
        made.worker.run(made.worker.upload(wasm(HELLO)))
        yield made


@contextlib.contextmanager
def limited(process: psutil.Process, name: str, most: int) -> Iterator[None]:
    """The living process may have no more than `most` of something, within."""
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    soft = next(line.split()[3] for line in limits if line.startswith(LIMITS[name]))
    limit_to(process, name, str(most))
    try:
        yield
    finally:
        limit_to(process, name, soft)


LIMITS = {"nofile": "Max open files", "nproc": "Max processes"}


def limit_to(process: psutil.Process, name: str, soft: str) -> None:
    """As its own user: root in a container may not."""
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        who = {"user": process.uids().real, "group": process.gids().real, "extra_groups": []}
    subprocess.run(["prlimit", f"--pid={process.pid}", f"--{name}={soft}:"], check=True, **who)


def without_descriptors(process: psutil.Process) -> contextlib.AbstractContextManager[None]:
    """It can open nothing any more; what it has stays open."""
    return limited(process, "nofile", 3)


def ended_well(worker: Worker, task_ids: list[str]) -> None:
    assert [("completed", "exit", 1)] * len(task_ids) == [
        fields(worker.await_end(task_id), "state", "reason", "attempts") for task_id in task_ids
    ]
    assert {b"hello world\n"} == {worker.stdout(task_id) for task_id in task_ids}


# -- descriptors ---------------------------------------------------------------------------------------------------


def test_a_coordinator_without_descriptors_lets_its_tasks_wait(injected: Injected) -> None:
    worker = injected.worker
    coordinator, digest = worker.one("coordinator"), worker.upload(wasm(HELLO))
    fresh = worker.upload(wasm(guests.unique(1)))  # has to be compiled, for which it takes descriptors too
    with without_descriptors(coordinator):
        task_ids = [worker.start_task(digest) for _ in range(3)]
        compiled = worker.start_task(fresh)
        worker.await_state(task_ids[0], "scheduled")
        assert 200 == worker.http.get("/readyz").status_code
    ended_well(worker, task_ids)
    assert ("completed", 1) == fields(worker.await_end(compiled), "state", "attempts")
    assert coordinator == worker.one("coordinator")
    assert [] == worker.audit_settled()


def test_a_task_whose_runner_can_not_be_made_in_time_says_what_was_lacking(injected: Injected) -> None:
    worker = injected.worker
    coordinator, digest = worker.one("coordinator"), worker.upload(wasm(HELLO))
    with without_descriptors(coordinator):
        task_id = worker.start_task(digest)
        task = worker.await_end(task_id)
    assert ("failed", "init_failed") == fields(task, "state", "reason")
    assert "EMFILE" in task["detail"]
    assert "tried again for" in task["detail"]
    assert "completed" == worker.run(digest)["state"]
    assert coordinator == worker.one("coordinator")


def test_a_zygote_that_dies_while_there_is_no_descriptor_is_started_when_there_is(injected: Injected) -> None:
    worker = injected.worker
    coordinator, zygote = worker.one("coordinator"), worker.one("zygote")
    with without_descriptors(coordinator):
        zygote.kill()
        wait_for(lambda: zygote not in worker.role("zygote"), "it is reaped")
        task_id = worker.start_task(worker.upload(wasm(HELLO)))
        worker.await_state(task_id, "scheduled")
        assert [] == worker.role("zygote")
    ended_well(worker, [task_id])
    assert coordinator == worker.one("coordinator")
    assert [] == worker.audit_settled()


def test_an_api_worker_without_descriptors_answers_what_it_can(injected: Injected) -> None:
    worker = injected.worker
    api, digest = worker.one("api"), worker.upload(wasm(HELLO))
    headers = {"content-type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", worker.port, timeout=60)) as kept:

        def ask(method: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
            kept.request(method, path, json.dumps(body) if body else None, headers)
            answer = kept.getresponse()
            return answer.status, json.loads(answer.read())

        assert 200 == ask("GET", "/readyz")[0]
        with without_descriptors(api):
            status, told = ask("POST", "/tasks", kind="job", module={"digest": digest}, stdin="needs a file")
            assert (500, "internal", "no") == (status, told["code"], told["executed"])
            status, without_file = ask("POST", "/tasks", kind="job", module={"digest": digest})
            assert 201 == status
            assert 200 == ask("GET", f"/tasks/{without_file['id']}")[0]
        ended_well(worker, [without_file["id"], worker.start_task(digest, stdin="needs a file")])
    assert api == worker.one("api")


# -- processes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Worker]:
    """An ordinary user's: root's zygote has a capability that the limit doesn't hold for."""
    with scratch() as place:
        options = ("--max-runners", "2", "--api-workers", "1", "--init-ms", str(INIT_MS))
        how: dict[str, Any] = {}
        if os.geteuid() == 0:
            python, packages = python_of_anybody(place)
            how = {"user": NOBODY, "python": [python], "env": env_of(packages)}
        with running(place / "data", *options, **how) as worker:
            worker.run(worker.upload(wasm(HELLO)))
            yield worker


def test_a_fork_that_the_system_refuses_is_tried_again_and_ends_no_task(ordinary: Worker) -> None:
    zygote, digest = ordinary.one("zygote"), ordinary.upload(wasm(HELLO))
    fresh = ordinary.upload(wasm(guests.unique(2)))
    with limited(zygote, "nproc", 1):
        task_ids = [ordinary.start_task(digest) for _ in range(4)]
        compiled = ordinary.start_task(fresh)
        ordinary.await_state(task_ids[0], "scheduled")
        stopped = ordinary.start_task(digest)
        ordinary.order_stop(stopped)
        ordinary.order_stop(task_ids[0])
        assert ["stopped"] * 2 == [ordinary.await_end(task_id)["reason"] for task_id in (stopped, task_ids[0])]
    ended_well(ordinary, task_ids[1:])
    assert ("completed", 1) == fields(ordinary.await_end(compiled), "state", "attempts")
    assert zygote == ordinary.one("zygote")
    assert [] == ordinary.audit_settled()


def test_a_fork_that_goes_on_being_refused_is_told(ordinary: Worker) -> None:
    digest = ordinary.upload(wasm(HELLO))
    with limited(ordinary.one("zygote"), "nproc", 1):
        task = ordinary.run(digest)
    assert ("failed", "init_failed") == fields(task, "state", "reason")
    assert "fork failed at clone: Resource temporarily unavailable (EAGAIN); tried again for" in task["detail"]
    assert "completed" == ordinary.run(digest)["state"]


# -- a slow disk ---------------------------------------------------------------------------------------------------


def test_a_slow_disk_makes_those_wait_who_write_and_nobody_else(injected: Injected) -> None:
    worker = injected.worker
    digest = worker.upload(wasm(HELLO))
    worker.run(digest)
    told: list[str] = []
    posting = [threading.Thread(target=lambda: told.append(worker.start_task(digest))) for _ in range(3)]
    injected.arm("table.synced", "sleep 1500")
    try:
        for thread in posting:
            thread.start()
        for _ in range(5):  # through the loop, and by the API alone
            assert [200, 200] == [worker.http.get(path).status_code for path in ("/stats", "/readyz")]
        assert [] == told, "nobody is told before it is on disk"
    finally:
        injected.disarm("table.synced")
        for thread in posting:
            thread.join()
    ended_well(worker, told)
    assert [] == worker.audit_settled()


# -- room on the disk ----------------------------------------------------------------------------------------------


def within(mount_options: str, directory: Path) -> list[str]:
    """A Python in a mount namespace of its own, with a tmpfs at `directory`; whoever can't have that skips."""
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be had here: {tried.stderr.decode()}")
    mount = f"mount -t tmpfs -o {mount_options} none {shlex.quote(str(directory))}"
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable]


@pytest.mark.root
def test_a_full_disk_refuses_what_is_new_ends_what_runs_and_recovers_by_itself() -> None:
    with scratch() as place:
        small = place / "small"
        small.mkdir()
        python = within(f"size={SMALL_BYTES},mode=755", small)
        with running(small / "data", "--max-runners", "1", python=python) as worker:
            fill_and_free(worker, Path(f"/proc/{worker.process.pid}/root{small}/filler"))


def fill_and_free(worker: Worker, filler: Path) -> None:
    digest = worker.upload(wasm(HELLO))
    ended = worker.run(digest)
    held = worker.hold()
    waits = worker.start_task(digest)
    fill(filler)
    module = wasm(f'(module (func (export "_start")) (data "{"x" * 100_000}"))')
    full = (507, "storage_full")

    def refused() -> bool:
        answer = worker.post(module={"digest": digest}, stdin="x" * 100_000)
        assert answer.status_code in (201, 507), answer.text
        return answer.status_code == 507 and full == worker.refused(answer)

    wait_for(refused, "what needs room is refused")
    assert full == worker.refused(
        worker.http.post("/modules", content=module, headers={"content-type": "application/wasm"})
    )
    assert ended == worker.task(ended["id"])
    assert b"hello world\n" == worker.stdout(ended["id"])
    assert [200] * 4 == [worker.http.get(path).status_code for path in ("/tasks", "/stats", "/readyz", "/modules")]
    worker.order_stop(held["id"], force=True)
    assert ("completed", "stopped") == fields(worker.await_end(held["id"]), "state", "reason")
    assert ("completed", "exit") == fields(worker.await_end(waits), "state", "reason")
    filler.unlink()
    wait_for(lambda: worker.post(module={"digest": digest}).status_code == 201, "there is room again")
    assert "completed" == worker.run(worker.upload(module))["state"]
    for task in worker.http.get("/tasks?limit=500").json()["tasks"]:
        assert worker.await_end(task["id"])["state"] in FINAL


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


# -- what stays wrong ----------------------------------------------------------------------------------------------


def ended_at_once(python: list[str], data_dir: Path) -> tuple[int, str]:
    """(exit code, last line) of a worker that doesn't start."""
    command = [*python, "-m", "worker", "serve", "--bind", "127.0.0.1:0", "--data-dir", str(data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.root
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_data_directory_that_can_only_be_read_is_refused_with_what_to_do(there: bool) -> None:
    with scratch() as place:
        directory = place / "data"
        if there:
            for made in (directory, directory / "run"):
                made.mkdir(mode=0o700)
                os.chown(made, NOBODY, NOBODY)
        python = within("mode=755", place)
        remount = f"mount --bind {place} {place} && mount -o remount,ro,bind {place} && exec"
        python[-2] = f'{remount} "$0" "$@"'
        code, told = ended_at_once(python, directory)
    assert ExitCode.CANT_CREATE == code
    assert f"the data directory {directory} can't be" in told
    assert "Read-only file system" in told
    assert told.endswith("; mount its file system for writing, or choose another --data-dir")


def scribble(table: Path) -> None:
    """Over the page that every start has to read."""
    with contextlib.closing(sqlite3.connect(table)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'tasks_by_state'").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    with table.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)


def test_a_damaged_table_is_refused_with_what_to_do_and_repaired() -> None:
    with scratch() as place:
        data_dir = place / "data"
        with running(data_dir, "--max-runners", "1") as worker:
            task = worker.run(worker.upload(wasm(HELLO)))
        scribble(data_dir / "table.sqlite")
        code, told = ended_at_once([sys.executable], data_dir)
        assert (ExitCode.TABLE_REFUSED, True) == (code, "can't use the task table" in told), told
        mend = [sys.executable, "-m", "worker", "repair", "--data-dir", str(data_dir)]
        mended = subprocess.run(mend, cwd=ROOT, capture_output=True, text=True, check=False)
        assert 0 == mended.returncode, mended.stderr
        with running(data_dir, "--max-runners", "1") as worker:
            assert task == worker.task(task["id"])
            assert b"hello world\n" == worker.stdout(task["id"])
            assert "completed" == worker.run(task["module"]["digest"])["state"]
