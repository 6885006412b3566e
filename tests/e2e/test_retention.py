"""Retention over REST: what is too old or too much goes by itself, and nobody who reads or works is disturbed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import EXPORTS, HELLO, Worker, running, wait_for, wasm
from worker.core.changes import Applied, InsertModule
from worker.core.module import Module
from worker.shared.blobs import Blobs
from worker.shared.table import TableWriter

KEPT = 5
OLD_US = 1_600_000_000_000_000
OLD_DIGEST = "sha256:" + "ab" * 32
BIG_BYTES = 32 * 1024 * 1024
MODULE_BYTES = 2000


def seed(data_dir: Path) -> None:
    """A data directory with a module that nobody used for years, and the output of a task that there isn't."""
    data_dir.mkdir()
    writer = TableWriter(data_dir / "table.sqlite", "normal", reserve_bytes=0)
    blobs = Blobs(data_dir)
    with blobs.new_temporary() as blob:
        blob.write(bytes(MODULE_BYTES))
        module = Module(OLD_DIGEST, MODULE_BYTES, (), (), OLD_US)
        assert [Applied()] == writer.apply([InsertModule(module, blob.finish())])
    orphan(blobs).touch()
    writer.close()
    for path in (data_dir, *data_dir.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, 65_534, 65_534)


def orphan(blobs: Blobs) -> Path:
    return blobs.output_paths("01890000-0000-7000-8000-0000000000ff")[0]


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    seed(place / "data")
    options = ("--retention-tasks", str(KEPT), "--retention-module-bytes", "1000", "--artifact-store-bytes", "0")
    with running(place / "data", *options) as started:
        yield started


def status(worker: Worker, path: str) -> int:
    return worker.http.get(path).status_code


def run_some(worker: Worker, count: int = KEPT) -> list[str]:
    digest = worker.upload(wasm(HELLO))
    return [worker.run(digest)["id"] for _ in range(count)]


def test_the_last_ended_are_kept_and_the_others_go_with_their_output(worker: Worker) -> None:
    gone, kept = run_some(worker, 3), run_some(worker)
    wait_for(lambda: [404] * 3 == [status(worker, f"/tasks/{task_id}") for task_id in gone], "the first three go")
    assert [b"hello world\n"] * KEPT == [worker.stdout(task_id) for task_id in kept]
    assert [404] * 3 == [status(worker, f"/tasks/{task_id}/stdout") for task_id in gone]
    assert kept[::-1] == [task["id"] for task in worker.http.get("/tasks").json()["tasks"]]
    assert KEPT == worker.http.get("/stats").json()["tasks"]["completed"]
    blobs = Blobs(worker.data_dir)
    wait_for(lambda: not any(path.exists() for task_id in gone for path in blobs.output_paths(task_id)), "files go")


def test_who_reads_an_output_reads_it_to_the_end_though_its_task_goes(worker: Worker) -> None:
    (task_id,) = run_some(worker, 1)
    Blobs(worker.data_dir).output_paths(task_id)[0].write_bytes(b"x" * BIG_BYTES)
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as reading:
        request = f"GET /tasks/{task_id}/stdout HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        reading.sendall(request.encode())
        head = reading.recv(4096)
        assert head.startswith(b"HTTP/1.1 200")
        run_some(worker)
        wait_for(lambda: 404 == status(worker, f"/tasks/{task_id}/stdout"), "the task goes")
        whole = head + b"".join(iter(lambda: reading.recv(1 << 20), b""))
    assert BIG_BYTES == len(whole.partition(b"\r\n\r\n")[2])


def test_a_task_that_runs_is_kept_however_many_end(worker: Worker) -> None:
    held = worker.hold()
    run_some(worker, KEPT + 1)
    first = run_some(worker, 1)[0]
    run_some(worker)
    wait_for(lambda: 404 == status(worker, f"/tasks/{first}"), "those that ended go")
    assert "running" == worker.task(held["id"])["state"]
    worker.order_stop(held["id"], force=True)
    assert "stopped" == worker.await_end(held["id"])["reason"]


def test_an_idempotency_key_of_a_task_that_went_makes_a_new_one(worker: Worker) -> None:
    digest = worker.upload(wasm(HELLO))
    key = {"idempotency-key": "again"}
    first = worker.post(headers=key, wait_s=60, module={"digest": digest})
    assert 201 == first.status_code
    run_some(worker)
    wait_for(lambda: 404 == status(worker, f"/tasks/{first.json()['id']}"), "the task goes")
    second = worker.post(headers=key, wait_s=60, module={"digest": digest})
    assert 201 == second.status_code
    assert first.json()["id"] != second.json()["id"]


def test_a_module_that_nobody_used_for_long_goes_and_one_just_used_stays(worker: Worker) -> None:
    digest = worker.upload(wasm(EXPORTS))
    wait_for(lambda: 404 == status(worker, f"/modules/{OLD_DIGEST}"), "the old module goes")
    wait_for(lambda: not Blobs(worker.data_dir).module_path(OLD_DIGEST).exists(), "and its bytes")
    assert 200 == status(worker, f"/modules/{digest}")


def test_artifacts_are_kept_on_disk_to_the_bytes_that_they_may_take(worker: Worker) -> None:
    digest = worker.upload(wasm(EXPORTS))
    assert ["42"] == [str(value) for value in worker.run(digest, entry={"export": "add", "params": [40, 2]})["result"]]
    wait_for(lambda: not list((worker.data_dir / "artifacts").iterdir()), "the store is empty")
    assert [3] == worker.run(digest, entry={"export": "add", "params": [1, 2]})["result"]


def test_output_of_no_task_was_swept(worker: Worker) -> None:
    wait_for(lambda: not orphan(Blobs(worker.data_dir)).exists(), "the orphan goes")


def test_age_alone_makes_them_go(place: Path) -> None:
    with running(place / "aged", "--retention-days", "0") as worker:
        (task_id,) = run_some(worker, 1)
        wait_for(lambda: 404 == status(worker, f"/tasks/{task_id}"), "the task goes")
