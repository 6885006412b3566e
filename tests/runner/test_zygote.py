"""The zygote: it forks children of its parent, beats, and ends when it should; its death costs no runner."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.protocol import PROFILE_COMPILER, PROFILE_RUNNER
from runner.protocol.control import encode_stop
from runner.protocol.spawn import BEAT, SPAWN, Spawn, encode_spawn
from runner.protocol.status import BYE, HELLO
from runner.zygote import (
    BEAT_INTERVAL_MS,
    EXIT_BAD_ARGUMENTS,
    EXIT_CAN_NOT_SEAL,
    EXIT_FAILED,
    EXIT_PARENT_GONE,
    REQUIRED,
    ArgumentError,
    Arguments,
)
from tests.lasting import outlast
from tests.runner.zygote_host import RUNNER_UID, ZygoteHost, zygote_argv

LIBC_SIGNALS = 1 << 31 | 1 << 32  # 32 and 33, libc's own for its threads

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]

SPIN = '(module (func (export "_start") (loop $again (br $again))))'
RANDOM = """(module (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $random (i32.const 16) (i32.const 32)))
        (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 32))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 80)))))"""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_runs_from_fork_to_reaped(zygote: ZygoteHost, artifact: Artifact) -> None:
    outcome, run = zygote.run_job(artifact())
    assert ("exit", 0, b"hello\n") == (outcome.reason, outcome.exit_code, run.stdout())
    assert BYE == run.frames[-1][0]


def test_a_module_compiles_and_runs(zygote: ZygoteHost) -> None:
    from tests.runner.conftest import HELLO
    from tests.runner.guest_host import wat

    outcome, made = zygote.compile(wat(HELLO))
    assert "exit" == outcome.reason
    _, run = zygote.run_job(made)
    os.close(made)
    assert b"hello\n" == run.stdout()


def test_a_runner_is_a_child_of_the_zygotes_parent(zygote: ZygoteHost) -> None:
    assert os.getpid() == parent_of(zygote.spawn().pid)


def test_everything_queued_before_the_birth_is_done(start_zygote: Start, artifact: Artifact) -> None:
    made = artifact()
    zygote = start_zygote()
    for _ in range(3):
        _, run = zygote.run_job(made)
        assert b"hello\n" == run.stdout()


def test_it_beats(start_zygote: Start) -> None:
    zygote = start_zygote()
    started = time.monotonic()
    assert [BEAT] * 3 == [zygote.read()[0] for _ in range(3)]
    assert time.monotonic() - started < 3 * BEAT_INTERVAL_MS / 1000 + 5


def test_it_beats_while_it_forks(start_zygote: Start, eventually: Callable[..., None]) -> None:
    zygote = start_zygote()
    kinds: list[int] = []
    pids: list[int] = []

    def ask_once() -> bool:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status, status_theirs = os.pipe()
        spawn = Spawn(1, PROFILE_RUNNER, zygote.own_uid, zygote.own_uid)
        socket.send_fds(zygote.socket, [encode_spawn(spawn)], [theirs.fileno(), status_theirs])
        kind, fds = BEAT, []
        while kind == BEAT:
            kind, _, fds = zygote.read()
            kinds.append(kind)
        for each in (control, theirs):
            each.close()
        for fd in (status, status_theirs, *fds):
            os.close(fd)
        pids.append(os.wait()[0])
        return kinds.count(BEAT) >= 2

    eventually(ask_once)
    assert len(pids) > 2


def test_it_ends_when_its_socket_closes(start_zygote: Start) -> None:
    assert EXIT_PARENT_GONE == start_zygote().end()


def test_a_killed_zygote_costs_no_runner(start_zygote: Start, artifact: Artifact) -> None:
    zygote = start_zygote()
    run = zygote.spawn()
    run.load(artifact())
    run.ready_layers()
    os.kill(zygote.pid, signal.SIGKILL)
    assert -signal.SIGKILL == zygote.end()
    run.job()
    assert "exit" == run.outcome().reason
    run.hang_up()
    assert 0 == run.finish()


def test_a_stopped_parent_does_not_block_it(start_zygote: Start, eventually: Callable[..., None]) -> None:
    """Beats that nobody reads are dropped: the zygote still answers when it is asked."""
    zygote = start_zygote("cgroup=", ready=False)
    zygote.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    zygote.wait_ready()
    assert zygote.spawn().pid


@pytest.mark.parametrize("profile", [PROFILE_RUNNER, PROFILE_COMPILER])
def test_children_die_with_the_parent(
    profile: int, root_directory: Path, artifact: Artifact, eventually: Callable[..., None]
) -> None:
    """A stand-in coordinator starts a zygote and a runner of another uid, names them, and is killed."""
    made = artifact()
    for pid in orphaned(root_directory, profile, made):
        eventually(lambda pid=pid: not alive(pid), within_s=0.2, why="the child outlived its parent")


def orphaned(root_directory: Path, profile: int, made: int) -> Iterator[int]:
    read_end, write_end = os.pipe()
    coordinator = os.fork()
    if coordinator == 0:
        try:
            host = ZygoteHost(root_directory).wait_ready()
            run = host.spawn(profile)
            if profile == PROFILE_RUNNER:
                run.load(made)
                run.ready_layers()
            else:
                run.read_to(HELLO)
                run.ready_layers()
            os.write(write_end, f"{host.pid} {run.pid}".encode())
            outlast(os.getppid())
        finally:
            os._exit(1)
    os.close(write_end)
    pids = [int(pid) for pid in os.read(read_end, 100).split()]
    os.close(read_end)
    assert len(pids) == 2
    assert all(map(alive, pids))
    os.kill(coordinator, signal.SIGKILL)
    os.waitpid(coordinator, 0)
    yield from pids


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff" * 40, id="unknown kind"),
        pytest.param(bytes([SPAWN]), id="cut short"),
        pytest.param(encode_spawn(Spawn(1, 9, 1, 1)), id="unknown profile"),
        pytest.param(encode_spawn(Spawn(1, PROFILE_RUNNER, 1, 1))[:-2], id="list cut short"),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_garbage_ends_it_with_a_word(start_zygote: Start, message: bytes, count: int) -> None:
    """Its peer is trusted: garbage means that one of the two is broken, and the next zygote starts clean."""
    words = os.memfd_create("stderr")
    zygote = start_zygote(stderr=words)
    socket.send_fds(zygote.socket, [message], [0, 1][:count])
    _, status = os.waitpid(zygote.pid, 0)
    zygote.exit = os.waitstatus_to_exitcode(status)
    zygote.socket.close()
    told = os.pread(words, 4096, 0)
    os.close(words)
    assert (EXIT_FAILED, True) == (zygote.exit, b"ProtocolError" in told)


def test_descriptors_do_not_leak_in_it(start_zygote: Start, artifact: Artifact) -> None:
    made = artifact()
    zygote = start_zygote()
    zygote.run_job(made)[1].close_outputs()
    before = os.listdir(f"/proc/{zygote.pid}/fd")
    for _ in range(200):
        zygote.run_job(made)[1].close_outputs()
    assert sorted(before) == sorted(os.listdir(f"/proc/{zygote.pid}/fd"))
    assert 1 == len(os.listdir(f"/proc/{zygote.pid}/task"))


def test_a_refused_fork_is_answered(start_zygote: Start) -> None:
    """Where the kernel refuses the fork the answer names the step; the next one works."""
    zygote = start_zygote()
    import resource

    limits = resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (10, limits[1]))  # no room for a pidfd
    spawned, fds = zygote.ask(Spawn(0, PROFILE_RUNNER, 1, 1), [0, 0])
    assert ("clone", 24, []) == (spawned.step, spawned.errno, fds)
    resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, limits)
    assert zygote.spawn().pid


def test_random_bytes_of_runners_are_distinct(start_zygote: Start, artifact: Artifact) -> None:
    made = artifact(RANDOM)
    zygote = start_zygote()
    drawn = {zygote.run_job(made)[1].stdout() for _ in range(20)}
    assert ({32}, 20) == ({len(each) for each in drawn}, len(drawn))


def test_it_leaves_the_terminal(start_zygote: Start) -> None:
    zygote = start_zygote()
    assert zygote.pid == os.getsid(zygote.pid)
    assert zygote.pid == os.getsid(zygote.spawn().pid)


def test_no_signal_is_ignored_or_blocked(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact())
    run.ready_layers()
    for pid in (zygote.pid, run.pid):
        lines = dict(
            line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        ignored, blocked = (int(lines[name], 16) & ~LIBC_SIGNALS for name in ("SigIgn", "SigBlk"))
        assert (0, 0) == (ignored, blocked)


def test_a_runner_holds_only_its_own_descriptors(start_zygote: Start, artifact: Artifact) -> None:
    zygote = start_zygote()
    run = zygote.spawn()
    run.load(artifact())
    run.ready_layers()
    if os.geteuid():
        pytest.skip("an ordinary user can't look into a process that is not dumpable")
    fds = {int(fd): os.readlink(f"/proc/{run.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{run.pid}/fd")}
    image = [what for fd, what in fds.items() if fd > 4]
    assert {0: "/dev/null", 1: "/dev/null", 2: "/dev/null"} == {fd: fds[fd] for fd in range(3)}
    assert ["socket", "pipe"] == [fds[fd].partition(":")[0] for fd in (3, 4)]
    assert all("memfd:" in what for what in image)
    assert 1 >= len(image)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("spawn", "KEY=VALUE"),
        ("colour=red", "no argument 'colour'"),
        ("user_uid=root", "user_uid is a number"),
        ("volume=v=/tmp,uid=0,gid=5", "without root"),
        ("volume=v=/tmp,uid=5", "without root"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, wrong: str, says: str) -> None:
    argv = zygote_argv(tmp_path)
    right = argv[argv.index("-c") + 2 :]
    with pytest.raises(ArgumentError, match=says):
        Arguments([*right, wrong])


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_argument_is_named(key: str) -> None:
    with pytest.raises(ArgumentError, match=f"missing: {key}$"):
        Arguments([f"{other}=1" for other in REQUIRED if other != key])


def test_volumes_are_kept_by_name() -> None:
    required = [f"{key}=1" for key in REQUIRED]
    volumes = Arguments([*required, "volume_uid=700", "volume=a=/x/y", "volume=b=/z,uid=5,gid=6"]).volumes
    assert [(b"/x/y", None, (700, 700)), (b"/z", (5, 6), (701, 701))] == [
        (volumes[name].path, volumes[name].owner, volumes[name].kept) for name in (b"a", b"b")
    ]


@pytest.mark.parametrize(
    ("argument", "code"),
    [("nonsense=1", EXIT_BAD_ARGUMENTS), ("library=/nowhere", EXIT_FAILED), ("root=/etc", EXIT_CAN_NOT_SEAL)],
)
def test_it_ends_with_a_code_that_tells_why(start_zygote: Start, argument: str, code: int) -> None:
    words = os.memfd_create("stderr")
    zygote = start_zygote(argument, ready=False, stderr=words)
    assert -1 == zygote.read()[0]
    assert code == zygote.end()
    assert os.pread(words, 4096, 0).startswith(b"zygote: ")
    os.close(words)


@pytest.mark.root
def test_as_the_coordinator_execs_it_children_have_no_capability(start_zygote: Start, artifact: Artifact) -> None:
    """An ordinary uid with capabilities keeps them over a change of uid: they have to be dropped by name."""
    zygote = start_zygote(wrapper=with_capabilities())
    run = zygote.spawn()
    run.load(artifact())
    run.ready_layers()
    lines = dict(
        line.split(":\t") for line in Path(f"/proc/{run.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert ["0" * 16] * 4 == [lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
    assert str(RUNNER_UID) == lines["Uid"].split()[0]


def with_capabilities() -> tuple[str, ...]:
    """Exec as --user with the zygote's capabilities, as the coordinator does."""
    import sys

    from tests.runner.zygote_host import ROOT

    code = f"""import os, sys; sys.path.append({ROOT!r})
from worker import capabilities
capabilities.keep_over_uid_change()
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
capabilities.pass_on(capabilities.ZYGOTE)
os.execv(sys.argv[1], sys.argv[1:])"""
    return (sys.executable, "-c", code)


def test_a_stop_that_crossed_the_outcome_is_nothing(zygote: ZygoteHost, artifact: Artifact) -> None:
    run = zygote.spawn()
    run.load(artifact())
    run.ready_layers()
    run.send(encode_stop())
    run.job()
    assert "exit" == run.outcome().reason
    run.hang_up()
    assert 0 == run.finish()
