"""The runners' cgroup: its limits, in a tree of ordinary files; who is in it, in a real one where there is one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.seal import FILES_NPROC
from tests.e2e.harness import HELLO, running, scratch, wait_for, wasm
from tests.process.launched import CGROUP_LIMITS, cgroup_tree
from worker import cgroup
from worker.config import Config
from worker.errors import ConfigError
from worker.spawn import Identity

GIB = 1 << 30
CONFIG = {
    "max_runners": 3,
    "max_compilers": 2,
    "max_runners_memory_bytes": 4 * GIB,
    "compile_memory_bytes": GIB,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return cgroup_tree(tmp_path)


def prepared(tree: Path, identity: Identity | None = None) -> tuple[str, ...]:
    return cgroup.prepare(Config(cgroup=str(tree), **CONFIG), identity)  # type: ignore[arg-type]


def test_the_runners_cgroup_is_limited_to_what_all_may_have_together(tree: Path) -> None:
    assert () == prepared(tree)
    expected_bytes = 6 * GIB + (64 << 20)
    assert (str(expected_bytes), "0", str(1 + 2 + 3 * FILES_NPROC)) == tuple(
        (tree / "runners" / name).read_text() for name in CGROUP_LIMITS
    )


def test_a_trial_joins_below_where_a_worker_is(tree: Path) -> None:
    assert (str(tree / "runners"), "/nowhere") == (cgroup.to_try(str(tree)), cgroup.to_try("/nowhere"))


def test_the_worker_leaves_the_directory_before_its_controllers_are_passed_down(tree: Path) -> None:
    prepared(tree)
    assert ("0", "", "+memory +pids") == (
        (tree / "worker" / "cgroup.procs").read_text(),
        (tree / "runners" / "cgroup.procs").read_text(),
        (tree / "cgroup.subtree_control").read_text(),
    )


@pytest.mark.root
def test_the_zygotes_user_may_move_within_and_change_no_limit(tree: Path) -> None:
    prepared(tree, Identity(65534, 65534, ()))
    owners = {path.relative_to(tree): path.stat().st_uid for path in tree.rglob("*") if path.is_file()}
    assert {Path("cgroup.procs"), Path("runners/cgroup.procs")} == {path for path, uid in owners.items() if uid}


def test_a_controller_that_is_not_there_is_told_and_its_limit_left(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("pids\n")
    assert ("memory",) == prepared(tree)
    assert ("+pids", "") == (
        (tree / "cgroup.subtree_control").read_text(),
        (tree / "runners" / "memory.max").read_text(),
    )


def test_a_kernel_without_swap_accounting_is_none_the_worse(tree: Path) -> None:
    (tree / "runners" / "memory.swap.max").unlink()
    assert () == prepared(tree)
    assert not (tree / "runners" / "memory.swap.max").exists()


@pytest.mark.parametrize("missing", ["cgroup.controllers", "worker/cgroup.procs", "cgroup.subtree_control"])
def test_a_directory_that_is_no_cgroup_is_refused_by_its_name(tree: Path, missing: str) -> None:
    (tree / missing).unlink()
    with pytest.raises(ConfigError, match=r"--cgroup: .*Delegate=yes") as refused:
        prepared(tree)
    assert (str(tree) in str(refused.value), False) == (True, (tree / missing).exists())


def test_without_a_cgroup_the_zygote_is_told_none() -> None:
    assert ("", "/x/runners") == (cgroup.runners_path(None), cgroup.runners_path("/x"))


@pytest.fixture
def real() -> Iterator[Path]:
    """A cgroup of our own in the machine's cgroup v2; whether it has controllers depends on the machine."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2" and os.access(fields[1], os.W_OK)]
    if not found:
        pytest.skip("no cgroup v2 is mounted where this user may make cgroups")
    path = found[0] / f"galago-test-{os.getpid()}"
    path.mkdir()
    yield path
    for directory in (path / "runners", path / "worker", path):
        with contextlib.suppress(FileNotFoundError):
            wait_for(lambda directory=directory: removed(directory), f"{directory} is empty")


def removed(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@pytest.mark.root
def test_runners_are_born_in_their_cgroup_and_the_worker_has_one_beside(real: Path) -> None:
    with scratch() as place, running(place / "data", "--cgroup", str(real)) as worker:
        held = worker.hold()
        members = {name: pids_of(real / name) for name in ("worker", "runners")}
        assert {worker.one("zygote").pid, held["runner"]["pid"]} <= members["runners"]
        assert {worker.one(role).pid for role in ("launcher", "coordinator", "master")} <= members["worker"]
        assert set() == members["worker"] & members["runners"] == pids_of(real)
        assert "cgroup" in held["runner"]["layers"]
        assert wait_for(lambda: worker.http.get("/stats").json()["seal"]["layers"], "the probe has ended")["cgroup"]
        worker.order_stop(held["id"], force=True)
        worker.await_end(held["id"])
        assert "completed" == worker.run(worker.upload(wasm(HELLO)))["state"]


def pids_of(directory: Path) -> set[int]:
    return {int(pid) for pid in (directory / "cgroup.procs").read_text().split()}
