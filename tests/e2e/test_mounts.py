"""Volumes: what a job with mounts may do in them, and that there is nothing else that it can reach."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.seal import FILES_NPROC
from tests.e2e import guests
from tests.e2e.harness import HELD_LIMITS, ROOT, UID_FIRST, Worker, fields, free_port, running, strays, wait_for, wasm
from tests.guests.build import guest

pytestmark = pytest.mark.root

OWNER, OTHER = 45_678, 45_679
NAMED_UID, NAMED_GID = 45_680, 45_681
MAX_RUNNERS = 16
FUEL = 10**15

# Works on names below the first preopen (fd 3) and returns the errno of the call that failed, or 0.
# Rights: fd_read | fd_write; oflags 1 = create.
OPEN = """(module
 (import "wasi_snapshot_preview1" "path_open"
  (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
 (import "wasi_snapshot_preview1" "path_symlink" (func $link (param i32 i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (data (i32.const 0) "made") (data (i32.const 16) "here") (data (i32.const 32) "../escape")
 (data (i32.const 48) "trap/passwd") (data (i32.const 64) "/etc/passwd")
 (data (i32.const 128) "\\00\\00\\00\\00\\04\\00\\00\\00") ;; an iovec: the four bytes at 0
 (func $of (param $name i32) (param $length i32) (param $oflags i32) (param $rights i64) (result i32)
  (call $open (i32.const 3) (i32.const 1) (local.get $name) (local.get $length) (local.get $oflags)
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
 (func (export "link_a_file") (result i32)
  (call $link (i32.const 64) (i32.const 11) (i32.const 3) (i32.const 48) (i32.const 4)))
 (func (export "link_a_directory") (result i32)
  (call $link (i32.const 64) (i32.const 4) (i32.const 3) (i32.const 48) (i32.const 4)))
 (func (export "follow_to_the_file") (result i32) (call $of (i32.const 48) (i32.const 4) (i32.const 0) (i64.const 2)))
 (func (export "follow_through") (result i32) (call $of (i32.const 48) (i32.const 11) (i32.const 0) (i64.const 2))))"""

SUCCESS, ACCESS, NOENT, PERM, ROFS, NOTCAPABLE = 0, 2, 44, 63, 69, 76
DENIED = (ACCESS, PERM, ROFS, NOTCAPABLE)


def owned(directory: Path, owner: int) -> Path:
    directory.mkdir(mode=0o755)
    os.chown(directory, owner, owner)
    return directory


@pytest.fixture(scope="module")
def volume(place: Path) -> Path:
    """`corpus`: a volume of OWNER's, with directories `in` and `other` and links that lead elsewhere."""
    made = owned(place / "volume", OWNER)
    for name in ("in", "in/deep", "other"):
        owned(made / name, OWNER)
    (made / "in" / "here").write_text("read me")
    (made / "out").symlink_to("/etc")
    (made / "in" / "up").symlink_to("../other")
    (place / "escape").write_text("not yours")
    return made


@pytest.fixture(scope="module")
def worker(place: Path, volume: Path) -> Iterator[Worker]:
    """With `corpus`, `second` of OTHER's, `roots` of root's, and `named` of root's with another for its writer."""
    volumes = [f"corpus={volume}", f"second={owned(place / 'second', OTHER)}"]
    for name, suffix in (("roots", ""), ("named", f",uid={NAMED_UID},gid={NAMED_GID}")):
        owned(place / name, 0).chmod(0o777)
        volumes.append(f"{name}={place / name}{suffix}")
    options = [word for text in volumes for word in ("--volume", text)]
    with running(place / "data", "--max-runners", str(MAX_RUNNERS), *options) as started:
        yield started


@pytest.fixture(scope="module")
def opener(worker: Worker) -> str:
    return worker.upload(wasm(OPEN))


def mount(path: str = "in", mode: str = "ro", guest: str = "/data", volume: str = "corpus") -> dict[str, str]:
    return {"volume": volume, "path": path, "guest": guest, "mode": mode}


def call(worker: Worker, digest: str, export: str, *mounts: dict[str, str]) -> int:
    """The errno that the export gave."""
    ended = worker.run(digest, entry={"export": export}, mounts=list(mounts))
    assert ended["reason"] == "exit", ended
    (errno,) = ended["result"]
    return int(errno)


def said(worker: Worker, program: str, /, *args: str, mounts: list[dict[str, str]], **task: Any) -> list[str]:
    """What a compiled guest that ends by itself wrote, line by line."""
    ended = worker.run(worker.upload(guest(program)), args=list(args), mounts=mounts, **task)
    assert ended["reason"] == "exit", ended
    return worker.stdout(ended["id"]).decode().splitlines()


def refusal(worker: Worker, digest: str, *mounts: dict[str, str]) -> str:
    """Why a job could not start."""
    ended = worker.run(digest, entry={"export": "read"}, mounts=list(mounts))
    assert ("failed", "init_failed") == fields(ended, "state", "reason")
    return str(ended["detail"])


# -- reading and writing -------------------------------------------------------------------------------------------


def test_a_read_only_mount_is_read_and_not_written(worker: Worker, opener: str, volume: Path) -> None:
    assert SUCCESS == call(worker, opener, "read", mount())
    assert call(worker, opener, "create", mount()) in DENIED
    assert not (volume / "in" / "made").exists()


def test_a_mount_is_read_only_unless_the_task_says_more(worker: Worker, opener: str, volume: Path) -> None:
    assert call(worker, opener, "create", {"volume": "corpus", "path": "in", "guest": "/data"}) in DENIED
    assert not (volume / "in" / "made").exists()


def test_what_is_made_in_a_volume_belongs_to_its_owner(worker: Worker, opener: str, volume: Path) -> None:
    assert SUCCESS == call(worker, opener, "create", mount(mode="rw"))
    made = volume / "in" / "made"
    assert (OWNER, OWNER, b"made") == (made.stat().st_uid, made.stat().st_gid, made.read_bytes())
    made.unlink()


def test_what_one_job_writes_can_be_read_by_the_next_whose_uid_is_another(worker: Worker, volume: Path) -> None:
    said(worker, "listing", "/data", "0", mounts=[mount("other", "rw")])
    assert 0o40755 == (volume / "other" / "directory").stat().st_mode
    said(worker, "stamps", "/data", mounts=[mount("other/directory", "rw")])
    assert 0o100644 == (volume / "other" / "directory" / "file").stat().st_mode
    assert ["x", "x"] == said(worker, "idle", "/data/file", "0", mounts=[mount("other/directory")])


def test_a_path_leads_to_a_part_of_a_volume_and_to_nothing_beside_it(worker: Worker, opener: str) -> None:
    assert SUCCESS == call(worker, opener, "read", mount("./in/"))
    assert NOENT == call(worker, opener, "read", mount("in/deep"))
    assert NOENT == call(worker, opener, "read", mount("."))


def test_two_mounts_have_each_their_mode(worker: Worker, volume: Path) -> None:
    (volume / "in" / "a").write_text("from one to the other")
    mounts = [mount("in", guest="/from"), mount("other", "rw", guest="/deep/down/to")]
    steps = said(worker, "across", "/from", "/deep/down/to", mounts=mounts)
    assert "copy 0" in steps
    assert not {"link 0", "rename 0", "unlink 0"} & set(steps)
    assert (b"from one to the other", OWNER) == (
        (volume / "other" / "a").read_bytes(),
        (volume / "other" / "a").stat().st_uid,
    )
    (volume / "in" / "a").unlink()


def test_nothing_is_linked_or_moved_from_one_mount_to_another(worker: Worker, volume: Path) -> None:
    """Each is a file system of its own to the guest, as two volumes may well be."""
    source = volume / "in" / "deep" / "a"
    source.write_text("moved by hand")
    os.chown(source, OWNER, OWNER)
    mounts = [mount("in/deep", "rw", guest="/from"), mount(".", "rw", guest="/to")]
    steps = said(worker, "across", "/from", "/to", mounts=mounts)
    assert ["copy 0", "unlink 0"] == steps[2:]
    assert not {"link 0", "rename 0"} & set(steps)
    assert (False, "moved by hand") == (source.exists(), (volume / "a").read_text())
    (volume / "a").unlink()


@pytest.mark.parametrize("at", [".", "data", "deep/data"])
def test_a_guests_path_may_be_relative(worker: Worker, at: str) -> None:
    assert ["read me"] * 2 == said(worker, "idle", f"{at}/here", "0", mounts=[mount(guest=at)])
    if at == ".":
        assert ["read me"] * 2 == said(worker, "idle", "here", "0", mounts=[mount(guest=at)])


def test_the_streams_of_a_job_with_mounts_are_its_own(worker: Worker) -> None:
    given = "line\n" * 100_000
    ended = worker.run(worker.upload(guest("cat")), args=["both"], stdin=given, mounts=[mount()])
    assert ("exit", given.encode()) == (ended["reason"], worker.stdout(ended["id"]))
    assert given == worker.http.get(f"/tasks/{ended['id']}/stderr").text


# -- no way out ----------------------------------------------------------------------------------------------------


def test_there_is_no_way_up_from_a_mount(worker: Worker, opener: str) -> None:
    assert call(worker, opener, "escape", mount(".")) in DENIED


def test_a_symlink_to_a_file_leads_the_next_task_nowhere(worker: Worker, opener: str, volume: Path) -> None:
    assert call(worker, opener, "link_a_file", mount("other", "rw")) in (SUCCESS, *DENIED)
    (volume / "other" / "trap").unlink(missing_ok=True)  # the engine refuses a link to an absolute path
    (volume / "other" / "trap").symlink_to("/etc/passwd")
    assert call(worker, opener, "follow_to_the_file", mount("other", "rw")) in (NOENT, *DENIED)
    assert call(worker, opener, "follow_to_the_file", mount("other")) in (NOENT, *DENIED)
    (volume / "other" / "trap").unlink()


def test_a_symlink_to_a_directory_leads_neither_a_guest_nor_the_next_mount(
    worker: Worker, opener: str, volume: Path
) -> None:
    assert call(worker, opener, "link_a_directory", mount("other", "rw")) in (SUCCESS, *DENIED)
    (volume / "other" / "trap").unlink(missing_ok=True)
    (volume / "other" / "trap").symlink_to("/etc")
    assert call(worker, opener, "follow_through", mount("other", "rw")) in (NOENT, *DENIED)
    assert "symbolic links" in refusal(worker, opener, mount("other/trap"))
    (volume / "other" / "trap").unlink()


@pytest.mark.parametrize("path", ["out", "out/ssl", "in/up", "in/up/deep"])
@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_symlink_is_no_part_of_a_mounts_path(worker: Worker, opener: str, path: str, mode: str) -> None:
    detail = refusal(worker, opener, mount(path, mode))
    assert f"corpus:{path}" in detail
    assert "symbolic links" in detail


@pytest.mark.parametrize(("path", "why"), [("gone", "No such file"), ("in/here", "Not a directory")])
def test_what_is_no_directory_of_the_volume_can_not_be_mounted(
    worker: Worker, opener: str, path: str, why: str
) -> None:
    detail = refusal(worker, opener, mount(path))
    assert f"corpus:{path}" in detail
    assert why in detail


def test_a_mount_opens_nothing_that_its_runner_could_not_reach(worker: Worker, opener: str, volume: Path) -> None:
    private = owned(volume / "private", OTHER)
    owned(private / "within", OTHER)
    private.chmod(0o700)
    for mode in ("ro", "rw"):
        assert "Permission denied" in refusal(worker, opener, mount("private/within", mode))


@pytest.mark.parametrize(
    ("mounts", "code", "field"),
    [
        ([mount(volume="nothing")], "mount_refused", "mounts[0].volume"),
        ([mount(), mount(guest="/b", volume="nothing")], "mount_refused", "mounts[1].volume"),
        ([mount("../up")], "field_range", "mounts[0].path"),
        ([mount("in/../../up")], "field_range", "mounts[0].path"),
        ([mount("..")], "field_range", "mounts[0].path"),
        ([mount("/etc")], "field_range", "mounts[0].path"),
        ([mount(mode="rwx")], "field_range", "mounts[0].mode"),
        ([mount(), mount("other")], "field_range", "mounts[1].guest"),
    ],
)
def test_a_mount_that_can_not_be_is_refused_when_it_is_posted(
    worker: Worker, opener: str, mounts: list[dict[str, str]], code: str, field: str
) -> None:
    answer = worker.post(module={"digest": opener}, entry={"export": "read"}, mounts=mounts)
    assert (422, code) == worker.refused(answer)
    assert field == answer.json()["field"]


def test_a_warm_runner_has_no_mounts(worker: Worker, opener: str) -> None:
    answer = worker.post(module={"digest": opener}, entry={"export": "read"}, mounts=[mount()], isolation="instance")
    assert (422, "field_conflict") == worker.refused(answer)


@pytest.mark.parametrize("volume", ["{data}", "{data}/blobs", "{place}", "{place}/link"])
def test_a_volume_that_overlaps_the_data_directory_is_refused_at_start(place: Path, volume: str) -> None:
    data = place / "untouched"
    (data / "blobs").mkdir(parents=True, exist_ok=True)
    if not (place / "link").is_symlink():
        (place / "link").symlink_to("untouched")
    text = "v=" + volume.format(data=data, place=place)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "worker", "serve", "--bind", address, "--data-dir", str(data), "--volume", text]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "volume" in ended.stderr
    assert "apart from the data directory" in ended.stderr
    assert ["blobs"] == os.listdir(data)


# -- who the runner is ---------------------------------------------------------------------------------------------


def identity(worker: Worker, *mounts: dict[str, str]) -> tuple[int, int, int]:
    """(uid by the task's own account, uid, gid) of a runner that runs."""
    held = worker.hold(mounts=list(mounts))
    lines = Path(f"/proc/{held['runner']['pid']}/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines)
    worker.order_stop(held["id"], force=True)
    worker.await_end(held["id"])
    return held["runner"]["uid"], *(int(found[name].split()[0]) for name in ("Uid", "Gid"))


def test_a_writer_is_the_volumes_owner_or_whom_the_operator_named(worker: Worker) -> None:
    assert (OWNER,) * 3 == identity(worker, mount(mode="rw"))
    assert (NAMED_UID, NAMED_UID, NAMED_GID) == identity(worker, mount(".", "rw", volume="named"))


def test_a_writer_is_never_root(worker: Worker) -> None:
    told, uid, gid = identity(worker, mount(".", "rw", volume="roots"))
    assert (told, gid) == (uid, uid)
    assert uid > UID_FIRST + MAX_RUNNERS


def test_a_reader_is_nobody_but_itself(worker: Worker) -> None:
    told, uid, gid = identity(worker, mount(), mount(".", guest="/b", volume="second"))
    assert (told, gid) == (uid, uid)
    assert UID_FIRST <= uid < UID_FIRST + MAX_RUNNERS


def test_one_runner_can_not_write_for_two_owners(worker: Worker, opener: str) -> None:
    assert "second:." in refusal(worker, opener, mount(mode="rw"), mount(".", "rw", "/b", "second"))
    assert SUCCESS == call(worker, opener, "read", mount(mode="rw"), mount(".", "ro", "/b", "second"))


def test_writers_of_one_volume_do_not_take_threads_from_each_other(worker: Worker) -> None:
    """The kernel counts threads by uid, which they share with each other and with the owner's own processes."""
    crowd = (
        "import os, sys, threading\n"
        f"os.setgroups([]); os.setresgid({OWNER}, {OWNER}, {OWNER}); os.setresuid({OWNER}, {OWNER}, {OWNER})\n"
        f"for _ in range({FILES_NPROC}): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(flush=True); sys.stdin.read()"
    )
    # It ends with its stdin, which the block's end closes.
    command = [sys.executable, "-c", crowd]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert b"\n" == owner.stdout.readline()
        with concurrent.futures.ThreadPoolExecutor(MAX_RUNNERS) as pool:
            jobs = [
                pool.submit(said, worker, "idle", "/data/here", "300", mounts=[mount(mode="rw")])
                for _ in range(MAX_RUNNERS)
            ]
            assert [["read me"] * 2] * MAX_RUNNERS == [job.result() for job in jobs]


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", ["fill", "exact"])
@pytest.mark.parametrize("fd", [1, 2])
def test_output_ends_at_its_limit_with_mounts_too(worker: Worker, export: str, fd: int) -> None:
    """Where the guest goes on for ever, and where it ends by itself before it is looked at."""
    params = {"fill": [fd], "exact": [100]}[export]
    limits = {"output_bytes": 1000, "fuel": FUEL}
    entry = {"export": export, "params": params}
    ended = worker.run(worker.upload(wasm(guests.FLOOD)), entry=entry, mounts=[mount()], limits=limits)
    assert ("failed", "output_limit", True, None) == fields(ended, "state", "reason", "truncated", "result")
    stream = "stdout" if export == "exact" else ("stdout", "stderr")[fd - 1]
    assert b"a" * 600 + b"b" * 400 == worker.http.get(f"/tasks/{ended['id']}/{stream}").content


def test_all_three_lines_hold_with_mounts(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    ended = [
        worker.run(digest, entry={"export": export}, mounts=[mount()], limits=limits)
        for export, limits in (
            ("loop", {"fuel": 100_000}),
            ("loop", {"fuel": FUEL, "wall_ms": 300}),
            ("block", {"wall_ms": 300}),
        )
    ]
    assert ["fuel", "deadline", "killed_deadline"] == [task["reason"] for task in ended]
    assert [b"before\n"] * 3 == [worker.stdout(task["id"]) for task in ended]


@pytest.mark.parametrize("export", ["loop", "block"])
def test_a_job_with_mounts_is_stopped(worker: Worker, export: str) -> None:
    held = worker.hold(export, mounts=[mount(mode="rw")])
    worker.order_stop(held["id"])
    assert ("completed", "stopped") == fields(worker.await_end(held["id"]), "state", "reason")


def test_memory_is_limited_with_mounts_too(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.GROWER))
    ended = worker.run(digest, entry={"export": "hog"}, limits={"memory_bytes": 1 << 22}, mounts=[mount()])
    assert "oom_guest" == ended["reason"]


# -- what stays behind ---------------------------------------------------------------------------------------------


def test_nothing_of_a_mount_is_seen_outside_of_its_runner(worker: Worker, volume: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    held = worker.hold(mounts=[mount(mode="rw"), mount("other", guest="/b")], limits=HELD_LIMITS)
    within = Path(f"/proc/{held['runner']['pid']}/mountinfo").read_text()
    points = {line.split()[4] for line in within.splitlines() if " /m" in line}
    assert {"/m0", "/m1"} <= points
    for pid in ("self", worker.one("coordinator").pid, worker.one("zygote").pid):
        assert str(volume) not in Path(f"/proc/{pid}/mountinfo").read_text()
    assert before == Path("/proc/self/mountinfo").read_text()
    assert [] == os.listdir(worker.data_dir / "run" / "empty")
    worker.kill_runner(held)
    assert "crashed" == worker.await_end(held["id"])["reason"]


def test_no_process_and_no_mount_outlives_the_jobs(worker: Worker, place: Path) -> None:
    wait_for(lambda: not worker.role("fork"), "all runners are gone")
    assert [] == strays(worker)
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
    assert [] == os.listdir(worker.data_dir / "run" / "empty")


def test_a_volume_that_goes_away_fails_its_tasks_and_no_others(place: Path) -> None:
    going = owned(place / "going", OWNER)
    with running(place / "going-data", "--volume", f"v={going}", "--max-runners", "1") as worker:
        digest = worker.upload(wasm(guests.NUMBERS))
        entry = {"export": "none"}
        mounts = [mount(".", volume="v")]
        assert "exit" == worker.run(digest, entry=entry, mounts=mounts)["reason"]
        going.rmdir()
        ended = worker.run(digest, entry=entry, mounts=mounts)
        assert "init_failed" == ended["reason"]
        assert "v:." in ended["detail"]
        assert "exit" == worker.run(digest, entry=entry)["reason"]
        owned(going, OWNER)
        assert "exit" == worker.run(digest, entry=entry, mounts=mounts)["reason"]
