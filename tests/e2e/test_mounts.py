"""Volumes: what a job with mounts may do in them, and that there is nothing else that it can reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import HELLO, Worker, running, wasm

pytestmark = pytest.mark.root
OWNER = 45_678

# Opens `name` below the first preopen (fd 3) for writing, creating it, or for reading, and exits with the errno of the
# call that failed, or 0. Rights: fd_read | fd_write; oflags 1 = create.
OPEN = """(module
 (import "wasi_snapshot_preview1" "path_open"
  (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "path_symlink" (func $link (param i32 i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (data (i32.const 0) "made") (data (i32.const 16) "here") (data (i32.const 32) "../escape") (data (i32.const 48) "trap")
 (data (i32.const 64) "/etc/passwd")
 (data (i32.const 128) "\\00\\00\\00\\00\\04\\00\\00\\00") ;; an iovec: the four bytes at 0
 (func $of (param $name i32) (param $length i32) (param $oflags i32) (param $rights i64) (result i32)
  (call $open (i32.const 3) (i32.const 0) (local.get $name) (local.get $length) (local.get $oflags)
   (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 200)))
 (func (export "create") (result i32) (local $errno i32)
  (local.set $errno (call $of (i32.const 0) (i32.const 4) (i32.const 1) (i64.const 66)))
  (if (local.get $errno) (then (return (local.get $errno))))
  (call $write (i32.load (i32.const 200)) (i32.const 128) (i32.const 1) (i32.const 204)))
 (func (export "read") (result i32) (local $errno i32)
  (local.set $errno (call $of (i32.const 16) (i32.const 4) (i32.const 0) (i64.const 2)))
  (if (local.get $errno) (then (return (local.get $errno))))
  (call $read (i32.load (i32.const 200)) (i32.const 128) (i32.const 1) (i32.const 204)))
 (func (export "escape") (result i32) (call $of (i32.const 32) (i32.const 9) (i32.const 0) (i64.const 2)))
 (func (export "leave_a_link") (result i32)
  (call $link (i32.const 64) (i32.const 11) (i32.const 3) (i32.const 48) (i32.const 4)))
 (func (export "follow_the_link") (result i32) (call $of (i32.const 48) (i32.const 4) (i32.const 0) (i64.const 2)))
 ;; sleeps eleven seconds (a relative timeout of the monotonic clock), by when the engine's file thread has ended
 (func (export "read_after_a_rest") (result i32)
  (i32.store8 (i32.const 264) (i32.const 0)) (i32.store (i32.const 272) (i32.const 1))
  (i64.store (i32.const 280) (i64.const 11000000000))
  (drop (call $poll (i32.const 256) (i32.const 400) (i32.const 1) (i32.const 500)))
  (call $of (i32.const 16) (i32.const 4) (i32.const 0) (i64.const 2))))"""

SUCCESS, ACCESS, NOENT, PERM, ROFS, NOTCAPABLE = 0, 2, 44, 63, 69, 76


@pytest.fixture(scope="module")
def volume(place: Path) -> Path:
    made = place / "volume"
    (made / "in").mkdir(parents=True)
    (made / "in" / "here").write_text("read me")
    (made / "out").symlink_to("/etc")
    (place / "escape").write_text("not yours")
    for path in (made, made / "in", made / "in" / "here"):
        os.chown(path, OWNER, OWNER)
    return made


@pytest.fixture(scope="module")
def worker(place: Path, volume: Path) -> Iterator[Worker]:
    with running(place / "data", "--volume", f"corpus={volume}") as started:
        yield started


@pytest.fixture(scope="module")
def opener(worker: Worker) -> str:
    return worker.upload(wasm(OPEN))


def call(worker: Worker, digest: str, export: str, mode: str = "ro", path: str = "in", **task: object) -> int:
    """The errno that the export gave."""
    mount = {"volume": "corpus", "path": path, "guest": "/data", "mode": mode}
    ended = worker.run(digest, entry={"export": export}, mounts=[mount], **task)
    assert ended["reason"] == "exit", ended
    (errno,) = ended["result"]
    return int(errno)


def test_a_read_only_mount_is_read_and_not_written(worker: Worker, opener: str, volume: Path) -> None:
    assert call(worker, opener, "read") == SUCCESS
    assert call(worker, opener, "create") in (ACCESS, PERM, ROFS, NOTCAPABLE)
    assert not (volume / "in" / "made").exists()


def test_what_is_made_in_a_volume_belongs_to_its_owner(worker: Worker, opener: str, volume: Path) -> None:
    assert call(worker, opener, "create", "rw") == SUCCESS
    made = volume / "in" / "made"
    assert (made.stat().st_uid, made.stat().st_gid, made.read_bytes()) == (OWNER, OWNER, b"made")
    made.unlink()


def test_there_is_no_way_up_from_a_mount(worker: Worker, opener: str) -> None:
    assert call(worker, opener, "escape", path=".") in (PERM, NOTCAPABLE)


def test_a_symlink_left_in_a_volume_leads_the_next_task_nowhere(worker: Worker, opener: str, volume: Path) -> None:
    call(worker, opener, "leave_a_link", "rw")
    assert call(worker, opener, "follow_the_link", "rw") in (PERM, NOENT, NOTCAPABLE)
    (volume / "in" / "trap").unlink(missing_ok=True)


def test_a_symlink_in_a_volume_is_no_path_of_a_mount(worker: Worker, opener: str) -> None:
    mount = {"volume": "corpus", "path": "out", "guest": "/data", "mode": "ro"}
    ended = worker.run(opener, entry={"export": "read"}, mounts=[mount])
    assert (ended["state"], ended["reason"]) == ("failed", "init_failed")
    assert "mount" in ended["detail"]


@pytest.mark.parametrize(
    ("mount", "code"),
    [
        ({"volume": "nothing", "guest": "/data", "mode": "ro"}, "mount_refused"),
        ({"volume": "corpus", "path": "../up", "guest": "/data", "mode": "ro"}, "field_range"),
        ({"volume": "corpus", "path": "/etc", "guest": "/data", "mode": "ro"}, "field_range"),
        ({"volume": "corpus", "guest": "/data", "mode": "rwx"}, "field_range"),
    ],
)
def test_a_mount_that_can_not_be_is_refused_when_it_is_posted(
    worker: Worker, opener: str, mount: dict[str, str], code: str
) -> None:
    answer = worker.post(module={"digest": opener}, entry={"export": "read"}, mounts=[mount])
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_job_may_rest_longer_than_the_engines_file_thread_lives(worker: Worker, opener: str) -> None:
    assert call(worker, opener, "read_after_a_rest", limits={"wall_ms": 20_000}) == SUCCESS


def test_mounts_leave_nothing_in_the_nodes_own_name_space(worker: Worker, volume: Path) -> None:
    assert str(volume) not in Path("/proc/self/mountinfo").read_text()
    assert worker.run(worker.upload(wasm(HELLO)))["reason"] == "exit"
