"""Modules over REST: upload, look, delete, refusals by code; compiled once, kept over a restart, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wasmtime

from tests.e2e import guests
from tests.e2e.harness import HELLO, Worker, fields, pid_of, running, wait_for, wasm

KIB = 1 << 10
MAX_MODULE_BYTES = 512 * KIB
COMPILE_WALL_S = 4
OPTIONS = (
    f"--max-module-bytes={MAX_MODULE_BYTES}",
    "--max-imports=10",
    "--max-exports=20",
    "--max-functions=9000",
    "--max-data-segments=30",
    f"--compile-wall-s={COMPILE_WALL_S}",
)


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data", *OPTIONS) as worker:
        yield worker


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def artifacts(worker: Worker) -> dict[str, int]:
    """The artifact store: name to inode, which a file doesn't share with the one that it replaces."""
    return {path.name: path.stat().st_ino for path in (worker.data_dir / "artifacts").glob("*.cwasm")}


@contextmanager
def watched_forks(worker: Worker) -> Iterator[set[int]]:
    """The pids of all runners and compilers that are seen meanwhile: each for long enough, or it isn't seen."""
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            seen.update(process.pid for process in worker.role("fork"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# -- upload, look, delete ------------------------------------------------------------------------------------------


def test_a_module_is_named_by_its_digest_and_known_the_second_time(worker: Worker) -> None:
    module = wasm(guests.unique(1))
    headers = {"content-type": "application/wasm"}
    first, again = (worker.http.post("/modules", content=module, headers=headers) for _ in range(2))
    assert (201, 200) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    document = first.json()
    assert {"digest", "size_bytes", "imports", "exports", "created_at"} == document.keys()
    assert (digest_of(module), len(module)) == (document["digest"], document["size_bytes"])
    assert f"/modules/{document['digest']}" == first.headers["location"]
    assert document == worker.http.get(f"/modules/{document['digest']}").json()


def test_imports_and_exports_are_reported_with_their_types(worker: Worker) -> None:
    document = worker.http.get(f"/modules/{worker.upload(wasm(HELLO))}").json()
    fd_write = {
        "module": "wasi_snapshot_preview1",
        "name": "fd_write",
        "kind": "func",
        "params": ["i32"] * 4,
        "results": ["i32"],
    }
    assert [fd_write] == document["imports"]
    start = {"name": "_start", "kind": "func", "params": [], "results": []}
    assert [{"name": "memory", "kind": "memory"}, start] == document["exports"]


def test_modules_are_listed_newest_first_and_paged(worker: Worker) -> None:
    digests = [worker.upload(wasm(guests.unique(n))) for n in (10, 11, 12)]
    first = worker.http.get("/modules", params={"limit": 2}).json()
    second = worker.http.get("/modules", params={"limit": 1, "after": first["next"]}).json()
    assert digests[::-1] == [module["digest"] for page in (first, second) for module in page["modules"]]


def test_a_deleted_module_is_gone_with_all_that_was_made_of_it(worker: Worker) -> None:
    before = artifacts(worker).keys()
    digest = worker.upload(wasm(guests.unique(20)))
    task = worker.run(digest)
    made = artifacts(worker).keys() - before
    assert 1 == len(made)
    assert 204 == worker.http.delete(f"/modules/{digest}").status_code
    assert (404, "module_unknown") == worker.refused(worker.http.get(f"/modules/{digest}"))
    assert (404, "module_unknown") == worker.refused(worker.http.delete(f"/modules/{digest}"))
    assert (404, "module_unknown") == worker.refused(worker.post(module={"digest": digest}))
    wait_for(lambda: not made & artifacts(worker).keys(), "its artifact is removed")
    assert not (worker.data_dir / "blobs" / "modules" / digest.removeprefix("sha256:")).exists()
    assert "completed" == worker.task(task["id"])["state"]
    assert digest == worker.upload(wasm(guests.unique(20)))
    assert "completed" == worker.run(digest)["state"]


def test_a_module_in_use_stays(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = worker.start_running(digest, entry={"export": "block"}, limits={"wall_ms": 30_000})
    answer = worker.http.delete(f"/modules/{digest}")
    assert (409, "module_in_use") == worker.refused(answer)
    worker.order_stop(task["id"], force=True)
    worker.await_end(task["id"])
    assert 204 == worker.http.delete(f"/modules/{digest}").status_code


# -- refusals ------------------------------------------------------------------------------------------------------

EMPTY = b"\0asm\1\0\0\0"
MANY_IMPORTS = "".join(f'(import "m" "f{n}" (func))' for n in range(11))
MANY_EXPORTS = "".join(f'(export "f{n}" (func 0))' for n in range(21))


def precompiled() -> bytes:
    return bytes(wasmtime.Module(wasmtime.Engine(), HELLO).serialize())


@pytest.mark.parametrize(
    ("module", "status", "code"),
    [
        (lambda: HELLO.encode(), 415, "module_text"),
        (lambda: b"  ;; a comment\n(module)\n", 415, "module_text"),
        (lambda: b"\0asm\x0d\0\1\0", 415, "module_component"),
        (precompiled, 415, "module_precompiled"),
        (lambda: b"", 422, "module_malformed"),
        (lambda: b"#!/bin/sh\n", 422, "module_malformed"),
        (lambda: EMPTY[:6], 422, "module_malformed"),
        (lambda: b"\0asm\2\0\0\0", 422, "module_malformed"),
        (lambda: EMPTY + b"\x0a\xff\xff\xff\xff\x0f", 422, "module_malformed"),
        (lambda: wasm(HELLO)[:-5], 422, "module_malformed"),
        (lambda: EMPTY + b"\1" * 100, 422, "module_malformed"),
        (lambda: wasm(f"(module {MANY_IMPORTS})"), 422, "module_limit"),
        (lambda: wasm(f"(module (func) {MANY_EXPORTS})"), 422, "module_limit"),
        (lambda: wasm("(module (memory 1) " + '(data "x")' * 31 + ")"), 422, "module_limit"),
        (lambda: wasm("(module " + "(func)" * 9001 + ")"), 422, "module_limit"),
        (lambda: EMPTY + bytes(MAX_MODULE_BYTES), 413, "module_too_large"),
    ],
)
def test_what_is_no_module_for_us_is_refused_by_its_kind(
    worker: Worker, module: Callable[[], bytes], status: int, code: str
) -> None:
    before = worker.http.get("/modules").json()
    answer = worker.http.post("/modules", content=module(), headers={"content-type": "application/wasm"})
    assert (status, code) == worker.refused(answer)
    assert "no" == answer.json()["executed"]
    assert before == worker.http.get("/modules").json()


@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/json", "text/plain", None])
def test_a_module_needs_its_media_type(worker: Worker, media_type: str | None) -> None:
    headers = {"content-type": media_type} if media_type else {}
    answer = worker.http.post("/modules", content=wasm(HELLO), headers=headers)
    assert (415, "media_type") == worker.refused(answer)


def test_a_body_without_a_length_is_cut_off_at_the_cap(worker: Worker) -> None:
    def endless() -> Iterator[bytes]:
        yield EMPTY
        for _ in range(MAX_MODULE_BYTES // KIB + 1):
            yield bytes(KIB)

    answer = worker.http.post("/modules", content=endless(), headers={"content-type": "application/wasm"})
    assert (413, "module_too_large") == worker.refused(answer)


def test_refused_uploads_leave_no_file_behind(worker: Worker) -> None:
    for body in (b"nonsense", EMPTY + bytes(MAX_MODULE_BYTES), HELLO.encode()):
        worker.http.post("/modules", content=body, headers={"content-type": "application/wasm"})
    wait_for(lambda: not list((worker.data_dir / "blobs" / "tmp").iterdir()), "no temporary file is left")


# -- compiling -----------------------------------------------------------------------------------------------------


def test_tasks_that_arrive_together_share_one_compiler(worker: Worker) -> None:
    """Compilers and runners are the zygote's forks; the runners' pids are known from the tasks."""
    text = guests.slow_to_compile(1).replace('"_start")', '"_start") (call $sleep (i64.const 300))')
    digest = worker.upload(wasm(text.replace("(module", f"(module {guests.SLEEPING}", 1)))
    before = {process.pid for process in worker.role("fork")}
    with watched_forks(worker) as seen:
        ids = [worker.start_task(digest) for _ in range(3)]
        ended = [worker.await_end(task_id) for task_id in ids]
    assert ["exit"] * 3 == [task["reason"] for task in ended]
    runners = {pid_of(task) for task in ended}
    compilers = seen - runners - before
    assert (3, 1) == (len(runners & seen), len(compilers)), "all were seen, or the watch says nothing"


def test_a_module_that_is_not_valid_ends_compile_failed(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.INVALID))
    first, again = (worker.run(digest) for _ in range(2))
    assert [("failed", "compile_failed")] * 2 == [(task["state"], task["reason"]) for task in (first, again)]
    assert (first["detail"], None) == (again["detail"], first["started_at"])
    assert first["detail"]


def test_a_module_that_takes_too_long_to_compile_ends_so_and_others_run_meanwhile(worker: Worker) -> None:
    """Of half a MB, for twice the time that it may take; the others are compiled too."""
    slow = worker.start_task(worker.upload(wasm(guests.slow_to_compile(16))))
    meanwhile = []
    while worker.task(slow)["state"] == "pending":
        meanwhile.append(worker.run(worker.upload(wasm(guests.unique(100 + len(meanwhile)))))["state"])
    assert ({"completed"}, True) == (set(meanwhile), len(meanwhile) >= 3)
    ended = worker.await_end(slow)
    assert ("failed", "compile_failed") == fields(ended, "state", "reason")
    assert f"longer than {COMPILE_WALL_S} s (compile_wall_s)" in ended["detail"]
    again = worker.await_end(worker.start_task(ended["module"]["digest"]))
    assert fields(ended, "state", "reason", "detail") == fields(again, "state", "reason", "detail")
    assert "completed" == worker.run(worker.upload(wasm(guests.unique(40))))["state"]


def test_artifacts_are_used_again_after_a_restart_and_damaged_ones_are_not(place: Path) -> None:
    data_dir = place / "restarted"
    with running(data_dir, *OPTIONS) as worker:
        digests = [worker.upload(wasm(guests.unique(n))) for n in (50, 51)]
        for digest in digests:
            worker.run(digest)
        before = artifacts(worker)
        worker.stop()
        damaged = max(before)
        path = data_dir / "artifacts" / damaged
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(len(whole) // 2)
            file.write(bytes([whole[len(whole) // 2] ^ 1]))
        assert whole != path.read_bytes()
        worker.start()
        assert ["completed"] * 2 == [worker.run(digest)["state"] for digest in digests]
        after = artifacts(worker)
    assert before.keys() == after.keys()
    assert [before[name] for name in before if name != damaged] == [after[name] for name in before if name != damaged]
    assert whole == path.read_bytes(), "it was made again, and compiling gives the same each time"


def test_a_cache_without_room_keeps_nobody_from_running(place: Path) -> None:
    """Every artifact pushes the one before it out, also while that is about to be used."""
    with running(place / "small", "--artifact-cache-bytes", "0", "--max-compilers", "4") as worker:
        digests = [worker.upload(wasm(guests.unique(60 + n))) for n in range(6)]
        ids = [worker.start_task(digest) for _ in range(3) for digest in digests]
        assert ["exit"] * 18 == [worker.await_end(task_id)["reason"] for task_id in ids]
