"""worker.spawn: what a child gets, what it doesn't, and how a failure is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from tests.lasting import lasting_argv
from tests.process.launched import NOBODY, ROOT, parent_of, wait_for
from worker.errors import CommandExit, ExitCode, SpawnError, WorkerError
from worker.spawn import Identity, Process, Program, child_fds, python_env, spawn

SHOW = """
import json, os, signal, sys
out = int(os.environ.get("GALAGO_FD_OUT", "3"))
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
os.write(out, json.dumps({
    "env": dict(os.environ), "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1], "cwd": os.getcwd(),
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "sid": os.getsid(0), "pid": os.getpid(),
    "blocked": status["SigBlk"].strip(), "ignored": int(status["SigIgn"], 16), "stdin": os.readlink("/proc/self/fd/0"),
    "no_new_privs": status["NoNewPrivs"].strip(), "permitted": int(status["CapPrm"], 16),
    "effective": int(status["CapEff"], 16), "bounding": int(status["CapBnd"], 16),
}).encode())
"""


def shown(*, python: str = sys.executable, **keywords: Any) -> dict[str, Any]:
    """What a child sees of itself."""
    ours, theirs = os.pipe()
    fds = {"out": theirs, **keywords.pop("fds", {})}
    program = Program((python, "-I", "-S", "-c", SHOW), fds=fds, **keywords)
    process = spawn(program)
    os.close(theirs)
    try:
        found: dict[str, Any] = json.loads(os.read(ours, 1 << 16))
        assert ended(process) == "exit code 0"
        return found
    finally:
        os.close(ours)


def ended(process: Process) -> str:
    how: str = wait_for(process.reap, "the child ends")
    os.close(process.pidfd)
    return how


def test_the_environment_is_exactly_what_was_given() -> None:
    assert shown(env={"A": "1"})["env"] == {"A": "1", "GALAGO_FD_OUT": "3", "LC_CTYPE": "C.UTF-8"}


def test_fds_are_numbered_from_3_in_order_and_nothing_else_is_open() -> None:
    with open(os.devnull) as one, open(os.devnull) as other:
        os.set_inheritable(one.fileno(), True)
        found = shown(fds={"other": other.fileno()})
    assert (found["fds"], found["env"]["GALAGO_FD_OTHER"]) == ([0, 1, 2, 3, 4], "4")


def test_fds_whose_numbers_are_wanted_by_each_other_arrive_as_what_they_are() -> None:
    ours, theirs = os.pipe()
    with open(os.devnull) as null:
        low = os.dup2(null.fileno(), 40)
        high = os.dup2(theirs, 41)
        try:
            code = "import os; os.write(4, os.readlink('/proc/self/fd/3').encode())"
            process = spawn(Program((sys.executable, "-I", "-S", "-c", code), fds={"low": low, "high": high}))
            assert os.read(ours, 100) == b"/dev/null"
            assert ended(process) == "exit code 0"
        finally:
            for fd in (low, high, ours, theirs):
                os.close(fd)


def test_fds_can_stay_unnamed() -> None:
    found = shown(name_fds=False)
    assert [name for name in found["env"] if name.startswith("GALAGO")] == []


def test_signals_are_at_their_defaults_and_unblocked() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        found = shown()
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    # Python itself ignores SIGPIPE and SIGXFSZ once it runs.
    python_s = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    # What glibc keeps for itself (32, 33) can't be set, and comes as whoever started the tests left it.
    ours = sum(1 << number - 1 for number in signal.valid_signals())
    assert (found["blocked"], found["ignored"] & ours) == ("0" * 16, python_s)


def test_it_has_a_session_of_its_own_no_stdin_and_no_way_to_new_privileges() -> None:
    found = shown()
    assert found["sid"] == found["pid"]
    assert (found["stdin"], found["cwd"], found["no_new_privs"]) == ("/dev/null", "/", "1")


def test_a_program_that_is_not_there_is_told_with_its_step() -> None:
    with pytest.raises(SpawnError, match="/nowhere could not be started: exec: No such file") as caught:
        spawn(Program(("/nowhere",)))
    assert (caught.value.step, caught.value.errno) == ("exec", 2)


def test_a_directory_that_is_not_there_is_told_with_its_step() -> None:
    with pytest.raises(SpawnError) as caught:
        spawn(Program((sys.executable,), cwd="/nowhere"))
    assert caught.value.step == "working directory"


def test_how_it_ended_is_told_in_words() -> None:
    process = spawn(Program(lasting_argv()))
    assert process.reap() is None
    process.send(signal.SIGKILL)
    assert ended(process) == "killed by SIGKILL"


def test_a_signal_to_one_that_is_gone_is_no_error() -> None:
    process = spawn(Program(("/bin/true",)))
    wait_for(process.reap, "the child ends")
    process.send(signal.SIGTERM)
    os.close(process.pidfd)


def test_a_child_dies_with_its_parent() -> None:
    code = f"""
import sys
from worker.spawn import Program, spawn
print(spawn(Program({lasting_argv()})).pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent_of(pid) == parent.pid
        parent.kill()
    wait_for(lambda: not Path(f"/proc/{pid}/exe").exists() or parent_of(pid) == 0, "the grandchild is gone")


def test_what_was_handed_over_is_taken_out_of_the_environment_and_closed_over_exec() -> None:
    with open(os.devnull) as null:
        os.set_inheritable(null.fileno(), True)
        env = {"GALAGO_FD_PAGE": str(null.fileno()), "PATH": "/bin"}
        assert child_fds(env) == {"page": null.fileno()}
        assert (env, os.get_inheritable(null.fileno())) == ({"PATH": "/bin"}, False)


@pytest.mark.parametrize("value", ["", "x", "12345"])
def test_what_names_no_open_fd_is_refused(value: str) -> None:
    with pytest.raises(WorkerError, match="GALAGO_FD_PAGE must name an open file descriptor"):
        child_fds({"GALAGO_FD_PAGE": value})


@pytest.mark.parametrize("kind", [ExitCode, CommandExit])
def test_exit_codes_are_all_different(kind: type[IntEnum]) -> None:
    assert len({int(code) for code in kind}) == len(kind.__members__)


def test_our_python_finds_our_packages_and_gets_nothing_else() -> None:
    assert set(python_env()) <= {"PATH", "LANG", "PYTHONPATH"}
    assert python_env()["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


@pytest.mark.root
def test_as_root_it_becomes_another_user_with_nothing(ordinary_python: tuple[str, str]) -> None:
    found = shown(python=ordinary_python[0], identity=Identity(NOBODY, NOBODY))
    assert (found["uid"], found["gid"], found["groups"]) == ([NOBODY] * 3, [NOBODY] * 3, [])
    assert (found["permitted"], found["effective"], found["bounding"]) == (0, 0, 0)


@pytest.mark.root
def test_as_root_it_keeps_the_capabilities_that_it_is_given(ordinary_python: tuple[str, str]) -> None:
    kill, setuid = 5, 7
    found = shown(python=ordinary_python[0], identity=Identity(NOBODY, NOBODY), capabilities=frozenset({kill, setuid}))
    expected = 1 << kill | 1 << setuid
    assert (found["permitted"], found["effective"], found["bounding"]) == (expected, expected, expected)
