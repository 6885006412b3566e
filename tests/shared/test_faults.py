"""The seam of faults: off by default, and what each action does to whoever passes."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from worker.shared.faults import FaultDirectory, faults_of, no_fault

POINT = "commit.taken"


def ended(directory: Path, passings: int) -> int:
    """How a process ends that passes the point so often."""
    child = os.fork()
    if child == 0:
        faults = FaultDirectory(directory)
        for _ in range(passings):
            faults(POINT)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_it_is_off_where_nobody_asks_for_it() -> None:
    assert faults_of(None) is no_fault


def test_nothing_happens_where_nothing_is_put(tmp_path: Path) -> None:
    faults_of(str(tmp_path))(POINT)
    faults_of(str(tmp_path / "missing"))(POINT)


@pytest.mark.parametrize(("action", "nth"), [("kill", 1), ("kill 3", 3)])
def test_it_kills_at_the_nth_passing_and_only_once(tmp_path: Path, action: str, nth: int) -> None:
    (tmp_path / POINT).write_text(action)
    assert 0 == ended(tmp_path, nth - 1)
    assert -signal.SIGKILL == ended(tmp_path, nth)
    assert [] == os.listdir(tmp_path)
    assert 0 == ended(tmp_path, 10)


def test_one_point_may_arm_the_next(tmp_path: Path) -> None:
    (tmp_path / "table.updated").write_text(f"then {POINT}")
    faults = FaultDirectory(tmp_path)
    faults(POINT)
    faults("table.updated")
    assert [POINT] == os.listdir(tmp_path)
    assert -signal.SIGKILL == ended(tmp_path, 1)


def test_it_raises_as_often_as_it_is_told(tmp_path: Path) -> None:
    (tmp_path / POINT).write_text("raise ENOSPC 2")
    faults = FaultDirectory(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as caught:
            faults(POINT)
        assert errno.ENOSPC == caught.value.errno
    faults(POINT)


def test_an_action_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / POINT).write_text("explode")
    with pytest.raises(ValueError, match="says kill, sleep, raise or then, not 'explode'"):
        FaultDirectory(tmp_path)(POINT)
