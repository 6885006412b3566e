"""The audit of a running worker: nothing differs while all goes on, and what is put in its way is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.functions import Callers, deploy, speaker
from tests.e2e.harness import HELLO, ROOT, UID_FIRST, Worker, running, wait_for, wasm
from worker.errors import CommandExit, ExitCode
from worker.shared.blobs import Blobs

OLD_S = 1_600_000_000
# Not those of the workers of other tests, which may run beside this one: the audit would name their runners, rightly.
UIDS_FROM = UID_FIRST + 1_000


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data", "--runner-uid-first", str(UIDS_FROM)) as started:
        yield started


def kinds(worker: Worker) -> list[str]:
    return sorted(one["kind"] for one in worker.audit() or ())


def doctor(url: str) -> tuple[int, str]:
    """(exit code, last line)."""
    command = [sys.executable, "-m", "worker", "doctor", "--live", "--url", url]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()[-1]


def test_nothing_differs_while_jobs_and_calls_come_and_go(worker: Worker) -> None:
    deploy(worker, "talk", "r1", speaker("hello"))
    digest = worker.upload(wasm(HELLO))
    held = worker.hold()
    with Callers(worker, "/functions/talk", 3) as callers:
        for isolation in ("process", "instance") * 4:
            worker.start_task(digest, isolation=isolation)
            assert [] == worker.audit()
        callers.await_more(100)
        assert [] == worker.audit()
    worker.order_stop(held["id"], force=True)
    worker.await_end(held["id"])
    assert [] == worker.audit_settled()


def test_it_tells_how_much_it_compared(worker: Worker) -> None:
    checked = worker.http.get("/debug/audit").json()["checked"]
    assert (worker.max_runners, True, True) == (
        checked["slots"],
        checked["children"] >= 1,
        checked["descriptors"] >= 20,
    )


def test_a_socket_that_nobody_listens_on_is_named(worker: Worker) -> None:
    stray = worker.data_dir / "run" / "calls" / "stray"
    stray.touch()
    try:
        assert ["listener_left"] == kinds(worker)
        assert (ExitCode.DIFFERENT, "these differ") == doctor(worker.url)
    finally:
        stray.unlink()
    assert (ExitCode.OK, "nothing differs") == doctor(worker.url)


def test_a_temporary_blob_is_named_once_nobody_holds_it(worker: Worker) -> None:
    with Blobs(worker.data_dir).new_temporary() as blob:
        path = Blobs(worker.data_dir).temporary_path(blob.name)
        path.chmod(0o644)
        os.utime(path, (OLD_S, OLD_S))
        assert [] == kinds(worker)
    path.touch(0o644)
    os.utime(path, (OLD_S, OLD_S))
    try:
        assert ["blob_left"] == kinds(worker)
    finally:
        path.unlink()
    assert [] == kinds(worker)


@pytest.mark.root
def test_a_process_that_has_a_runners_uid_and_is_none_is_named(worker: Worker) -> None:
    uid = UIDS_FROM + worker.max_runners - 1
    intruder = subprocess.Popen(["/bin/sleep", "60"], user=uid, group=uid, extra_groups=[])
    try:
        wait_for(lambda: ["uid_foreign"] == kinds(worker), "it is seen")
    finally:
        intruder.kill()
        intruder.wait()
    assert [] == kinds(worker)


def test_a_killed_runner_and_a_killed_zygote_leave_nothing(worker: Worker) -> None:
    held = worker.hold()
    worker.one("zygote").kill()
    worker.kill_runner(held)
    assert "crashed" == worker.await_end(held["id"])["reason"]
    worker.run(worker.upload(wasm(HELLO)))
    assert [] == worker.audit_settled()


def test_a_worker_that_is_not_there_is_said_to_be_so() -> None:
    code, told = doctor("http://127.0.0.1:9")
    assert CommandExit.UNREACHABLE == code
    assert "does the worker run" in told
