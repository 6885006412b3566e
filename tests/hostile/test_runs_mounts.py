"""Guests with a volume, made to hurt: no way out of it, nothing left in it that leads the next task astray.

One that rests for longer than the engine's threads live: see `test_modules.py`, where there is time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import wasi_abi as abi
from runner.seal import FILES_NOFILE
from tests.e2e import guests
from tests.e2e.harness import Worker, fields, running, wasm
from tests.runner.guest_host import data_segment
from tests.runner.wasi_oracle import probe_module

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("an_ordinary_job_follows")]

OWNER = 45_690
FUEL = 10**15
# What the engine's functions give besides those that ours know.
ACCES, NOENT, PERM, NOTCAPABLE = 2, 44, 63, 76
DENIED = (ACCES, PERM, NOTCAPABLE)
NAMES = 1024  # where a probe's path lies in its memory


@pytest.fixture(scope="module")
def volume(place: Path) -> Path:
    """`v`: with directories `in`, `out`, a file in each, and a file beside the volume that nobody may reach."""
    made = place / "volume"
    for directory in (made, made / "in", made / "out"):
        directory.mkdir(mode=0o755)
        (directory / "file").write_text("inside")
    for path in (made, *made.rglob("*")):
        os.chown(path, OWNER, OWNER)
    (place / "beside").write_text("outside")
    return made


@pytest.fixture(scope="module")
def worker(place: Path, volume: Path) -> Iterator[Worker]:
    with running(place / "data", "--volume", f"v={volume}") as started:
        yield started


def mount(path: str = "in", mode: str = "rw") -> dict[str, str]:
    return {"volume": "v", "path": path, "guest": "/data", "mode": mode}


def called(worker: Worker, source: str, export: str, *params: Any, path: str = "in", **task: Any) -> dict[str, Any]:
    entry = {"export": export, "params": list(params)}
    digest = worker.upload(wasm(source))
    return worker.await_end(worker.start_task(digest, entry=entry, mounts=[mount(path)], **task))


def errno(worker: Worker, source: str, export: str, *params: Any, path: str = "in") -> int:
    ended = called(worker, source, export, *params, path=path)
    assert ("completed", "exit") == fields(ended, "state", "reason"), ended["detail"]
    (result,) = ended["result"]
    return int(result)


# -- ways out ------------------------------------------------------------------------------------------------------


def opening(path: str) -> tuple[str, list[Any]]:
    """A probe whose memory has the path, and path_open's arguments: below the mount, to be read."""
    raw = path.encode()
    return probe_module(data_segment(NAMES, raw)), [3, 1, NAMES, len(raw), 0, str(2), str(0), 0, 64]


WAYS_OUT = [
    "../beside",
    "../../beside",
    "..",
    "../out/file",
    "in/../../beside",
    "./../file",
    "/etc/passwd",
    "/proc/self/mem",
    "//etc/passwd",
    "../" * 40 + "etc/passwd",
]


@pytest.mark.parametrize("path", WAYS_OUT)
def test_no_path_leads_out_of_a_mount(worker: Worker, path: str) -> None:
    source, params = opening(path)
    assert errno(worker, source, "path_open", *params) in (*DENIED, NOENT)


@pytest.mark.parametrize("target", ["/etc", "../../..", "../out", "."])
def test_a_symlink_that_a_task_leaves_is_no_path_for_the_next_mount(worker: Worker, volume: Path, target: str) -> None:
    """Whether the guest could make it or another did."""
    old, new = target.encode(), b"trap"
    source = probe_module(data_segment(NAMES, old) + data_segment(NAMES + 512, new))
    made = errno(worker, source, "path_symlink", NAMES, len(old), 3, NAMES + 512, len(new))
    link = volume / "in" / "trap"
    assert (made == abi.SUCCESS) == link.is_symlink()
    if not link.is_symlink():
        assert made in DENIED
        link.symlink_to(target)
    try:
        probe, params = opening("file")
        ended = called(worker, probe, "path_open", *params, path="in/trap")
        assert ("failed", "init_failed") == fields(ended, "state", "reason")
        assert "symbolic links" in ended["detail"]
        probe, params = opening("trap/passwd")
        assert errno(worker, probe, "path_open", *params) in (*DENIED, NOENT)
    finally:
        link.unlink()


# -- bombs ---------------------------------------------------------------------------------------------------------

# Opens its one file until it can't: how often it could, and the errno of the last.
HOARD = f"""(module (import "wasi_snapshot_preview1" "path_open"
  (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
 (memory (export "memory") 1) {data_segment(NAMES, b"file")}
 (func (export "go") (result i32 i32) (local $many i32) (local $errno i32)
  (loop $l (local.set $errno (call $open (i32.const 3) (i32.const 1) (i32.const {NAMES}) (i32.const 4) (i32.const 0)
    (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 64)))
   (if (i32.eqz (local.get $errno)) (then (local.set $many (i32.add (local.get $many) (i32.const 1))) (br $l))))
  (local.get $many) (local.get $errno)))"""


def test_a_guest_that_hoards_descriptors_comes_to_an_end_of_them(worker: Worker) -> None:
    ended = called(worker, HOARD, "go")
    assert ("completed", "exit") == fields(ended, "state", "reason"), ended["detail"]
    many, error = ended["result"]
    assert abi.EIO == error  # the engine knows no better name for the kernel's EMFILE
    assert FILES_NOFILE - 50 < many < FILES_NOFILE


ENDS = {
    "a loop": ("loop", [], {"fuel": FUEL, "wall_ms": 200}, "deadline"),
    "a loop on little fuel": ("loop", [], {"fuel": 10**6}, "fuel"),
    "a sleep of an hour": ("block", [], {"wall_ms": 200}, "killed_deadline"),
    "a sleep of 292 years": ("nap", [9_223_372_036_854], {"wall_ms": 200}, "killed_deadline"),
}


@pytest.mark.parametrize("case", ENDS)
def test_time_is_limited_with_a_mount_too(worker: Worker, case: str) -> None:
    export, params, limits, reason = ENDS[case]
    ended = called(worker, guests.SLEEPER, export, *params, limits=limits)
    assert ("failed", reason) == fields(ended, "state", "reason")


@pytest.mark.parametrize(("fd", "stream"), [(1, "stdout"), (2, "stderr")])
def test_a_flood_is_limited_with_a_mount_too(worker: Worker, fd: int, stream: str) -> None:
    ended = called(worker, guests.FLOOD, "fill", fd, limits={"output_bytes": 1000, "fuel": FUEL})
    assert ("failed", "output_limit", True) == fields(ended, "state", "reason", "truncated")
    assert b"a" * 600 + b"b" * 400 == worker.http.get(f"/tasks/{ended['id']}/{stream}").content


FILE_CALLS = sorted(name for name in abi.SIGNATURES if name.startswith(("path_", "fd_")))


@pytest.mark.parametrize("name", FILE_CALLS)
def test_a_function_for_files_with_nothing_but_wild_arguments_is_an_error_or_a_trap(worker: Worker, name: str) -> None:
    """On the mount's own descriptor where it takes one: the engine's functions, which trap at a wild pointer."""
    rest = [-1] * (len(abi.SIGNATURES[name]) - 1)
    first = -1 if name in ("path_symlink", "fd_close", "fd_renumber") else 3
    ended = called(worker, probe_module(), name, first, *rest)
    if ended["reason"] == "exit":
        assert 0 <= ended["result"][0] < 77
    else:
        assert ("failed", "trap") == fields(ended, "state", "reason")
