"""Mounts: parts of volumes in a runner's root, held read-only or read-write, by the right uid, and refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import mounts
from runner.errors import SealError
from runner.mounts import Bound, Volume
from runner.protocol import PROFILE_FILES
from runner.protocol.control import FLAG_ONE_JOB
from tests.guests.build import guest
from tests.runner.zygote_host import AS_NOBODY, NOBODY, RUNNER_UID, Run, ZygoteHost

Start = Callable[..., ZygoteHost]
Artifact = Callable[..., int]

OWNER = 60_500


@pytest.fixture
def volume(root_directory: Path) -> Path:
    """A volume with a directory `in` that OWNER (for an ordinary user: that user) may write to."""
    directory = root_directory.parent / f"{root_directory.name}-volume"
    (directory / "in").mkdir(parents=True)
    directory.chmod(0o755)
    return directory


def give(directory: Path, uid: int) -> None:
    if os.geteuid() == 0:
        for each in (directory, *directory.iterdir()):
            os.chown(each, uid, uid, follow_symlinks=False)


@pytest.fixture(
    params=[
        pytest.param((), id="as_is"),
        pytest.param(
            AS_NOBODY,
            id="ordinary_user",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="this is an ordinary user already"),
        ),
    ]
)
def host(request: pytest.FixtureRequest, start_zygote: Start, volume: Path) -> ZygoteHost:
    """A zygote that has the volume `v`; skipped where the machine lets this user have no mounts."""
    give(volume, NOBODY if request.param else OWNER)
    return start_zygote(f"volume=v={volume}", wrapper=request.param)


def begin(host: ZygoteHost, made: int, *bound: tuple[bytes, bytes, bool], args: tuple[bytes, ...] = ()) -> Run:
    run = host.spawn(PROFILE_FILES, mounts=bound)
    run.load(made, flags=FLAG_ONE_JOB)
    preopens = tuple((b"/m%d" % n, b"/data" if n == 0 else b"/data%d" % n, ro) for n, (_, _, ro) in enumerate(bound))
    run.job(args=(b"files", *(args or (b"/data",))), preopens=preopens)
    return run


def refusal(host: ZygoteHost, made: int, *bound: tuple[bytes, bytes, bool]) -> str:
    run = begin(host, made, *bound)
    outcome = run.outcome()
    assert (0, "init_failed") == (outcome.job_id, outcome.reason)
    return outcome.detail


def test_a_guest_works_on_a_writable_mount(host: ZygoteHost, artifact: Artifact, volume: Path) -> None:
    run = begin(host, artifact(guest("files")), (b"v", b"in", False))
    assert ("exit", "") == ((outcome := run.outcome()).reason, outcome.detail)
    assert 0 == run.finish()
    said = dict(line.rsplit(" ", 1) for line in run.stdout().decode().splitlines() if " " in line)
    steps = ("create", "write", "seek", "read", "truncate", "append", "utimens", "mkdir", "rename", "link", "symlink")
    assert dict.fromkeys(steps, "0") == {step: said[step] for step in steps}


def test_nothing_is_written_through_a_read_only_mount(host: ZygoteHost, artifact: Artifact, volume: Path) -> None:
    run = begin(host, artifact(guest("files")), (b"v", b"in", True))
    assert "exit" == run.outcome().reason
    assert [] == os.listdir(volume / "in")


def test_the_mount_itself_is_read_only(host: ZygoteHost, artifact: Artifact, volume: Path) -> None:
    """Whatever the engine's WASI is told: a preopen that asks for more than the mount gives gets no more."""
    run = host.spawn(PROFILE_FILES, mounts=((b"v", b"in", True),))
    run.load(artifact(guest("files")), flags=FLAG_ONE_JOB)
    run.job(args=(b"files", b"/data"), preopens=((b"/m0", b"/data", False),))
    run.outcome()
    assert [] == os.listdir(volume / "in")


def test_a_volumes_own_directory_can_be_mounted(host: ZygoteHost, artifact: Artifact, volume: Path) -> None:
    run = begin(host, artifact(guest("files")), (b"v", b".", False))
    assert "exit" == run.outcome().reason
    assert b"create 0" in run.stdout()


def test_stdout_and_stdin_are_the_jobs_own(host: ZygoteHost, artifact: Artifact) -> None:
    run = host.spawn(PROFILE_FILES, mounts=((b"v", b"in", True),))
    run.load(artifact(guest("cat")), flags=FLAG_ONE_JOB)
    run.job(stdin=b"line\n", args=(b"cat",), preopens=((b"/m0", b"/data", True),))
    assert "exit" == run.outcome().reason
    assert b"line\n" == run.stdout()


@pytest.mark.parametrize("path", [b"link", b"in/link", b"link/passwd"])
def test_a_symlink_on_the_way_is_refused(host: ZygoteHost, artifact: Artifact, volume: Path, path: bytes) -> None:
    (volume / "link").symlink_to("in")
    (volume / "in" / "link").symlink_to("/etc")
    assert "symbolic links" in refusal(host, artifact(), (b"v", path, True))


@pytest.mark.parametrize("path", [b"..", b"in/../..", b"/", b"/etc"])
def test_a_way_out_is_refused(host: ZygoteHost, artifact: Artifact, path: bytes) -> None:
    detail = refusal(host, artifact(), (b"v", path, True))
    assert "mount 'v:" in detail.replace('"', "'").replace("\\'", "'")


def test_what_is_not_there_is_refused_by_name(host: ZygoteHost, artifact: Artifact) -> None:
    assert "v:gone" in refusal(host, artifact(), (b"v", b"gone", True))
    assert "w:in" in refusal(host, artifact(), (b"w", b"in", True))


def test_a_file_is_no_mount(host: ZygoteHost, artifact: Artifact, volume: Path) -> None:
    (volume / "file").write_text("")
    assert "v:file" in refusal(host, artifact(), (b"v", b"file", True))


def test_the_host_sees_nothing_of_it(host: ZygoteHost, artifact: Artifact, root_directory: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    run = host.spawn(PROFILE_FILES, mounts=((b"v", b"in", True),))
    run.load(artifact())
    run.ready_layers()
    assert (before, []) == (Path("/proc/self/mountinfo").read_text(), os.listdir(root_directory))


# -- who it is -------------------------------------------------------------------------------------------------------


def uid_of(run: Run, made: int) -> int:
    run.load(made)
    run.ready_layers()
    lines = Path(f"/proc/{run.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


@pytest.mark.root
def test_a_writer_is_the_volumes_owner(start_zygote: Start, volume: Path, artifact: Artifact) -> None:
    give(volume, OWNER)
    host = start_zygote(f"volume=v={volume}")
    assert OWNER == uid_of(host.spawn(PROFILE_FILES, mounts=((b"v", b"in", False),)), artifact())
    assert RUNNER_UID == uid_of(host.spawn(PROFILE_FILES, mounts=((b"v", b"in", True),)), artifact())


@pytest.mark.root
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_a_writer_is_never_root_nor_the_workers_user(
    start_zygote: Start, volume: Path, artifact: Artifact, owner: int
) -> None:
    give(volume, owner)
    kept = start_zygote(f"volume=v={volume}", "volume_uid=60800")
    assert 60_800 == uid_of(kept.spawn(PROFILE_FILES, mounts=((b"v", b"in", False),)), artifact())
    unkept = start_zygote(f"volume=v={volume}")
    assert "v:." in refusal(unkept, artifact(), (b"v", b"in", False))


@pytest.mark.root
def test_the_operator_names_the_writer(start_zygote: Start, volume: Path, artifact: Artifact) -> None:
    host = start_zygote(f"volume=v={volume},uid=60777,gid=60778")
    assert 60_777 == uid_of(host.spawn(PROFILE_FILES, mounts=((b"v", b"in", False),)), artifact())


@pytest.mark.root
def test_a_mount_opens_nothing_that_its_uid_could_not_reach(
    start_zygote: Start, volume: Path, artifact: Artifact
) -> None:
    (volume / "private").mkdir(mode=0o700)
    (volume / "private" / "deep").mkdir()
    host = start_zygote(f"volume=v={volume}")
    assert "Permission denied" in refusal(host, artifact(), (b"v", b"private/deep", True))


PRIVILEGED = """
import os, sys
from runner import mounts, syscalls
syscalls.prctl(8, 1)  # PR_SET_KEEPCAPS
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
held = 1 << syscalls.CAP_DAC_READ_SEARCH | 1 << syscalls.CAP_SETGID | 1 << syscalls.CAP_SETUID
syscalls.set_effective_capabilities(held)
volume_fd = os.open(sys.argv[1], os.O_PATH)
os.close(os.open(sys.argv[1] + "/private/deep", os.O_PATH))
try:
    mounts._open_as((60_001, 60_001), volume_fd, b"private/deep")
except PermissionError:
    print("refused", syscalls.effective_capabilities() == held)
os.close(mounts._open_as((60_500, 60_500), volume_fd, b"private/deep"))
"""


@pytest.mark.root
def test_a_zygote_that_may_read_all_does_not_look_for_mounts_with_that_right(volume: Path) -> None:
    """Another uid than root keeps the right when its file identity changes: a worker whose code is in root's home."""
    (volume / "private").mkdir(mode=0o700)
    (volume / "private" / "deep").mkdir()
    give(volume, OWNER)
    command = [sys.executable, "-c", PRIVILEGED, str(volume)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ("", "refused True\n") == (ended.stderr, ended.stdout)


def test_two_writers_can_not_share_a_runner(tmp_path: Path) -> None:
    one, two = (Volume(name, bytes(tmp_path), (uid, uid), None) for name, uid in ((b"a", 700), (b"b", 701)))
    both = [Bound(one, b".", False), Bound(two, b".", False)]
    with pytest.raises(SealError, match="b:"):
        mounts.identity(both, (1, 1), frozenset())
    assert (700, 700) == mounts.identity([both[0], Bound(two, b".", True)], (1, 1), frozenset())
    assert (1, 1) == mounts.identity([Bound(one, b".", True)], (1, 1), frozenset())


def test_a_volume_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(SealError, match="v:"):
        Volume(b"v", bytes(tmp_path / "gone"), None, None).writer(frozenset())


def test_without_name_spaces_mounts_are_refused(tmp_path: Path) -> None:
    from runner import seal
    from runner.inherit import Inheritance

    bound = (Bound(Volume(b"v", bytes(tmp_path), None, None), b".", True),)
    for layers in (frozenset[str](), frozenset({"chroot"}), frozenset({"namespaces"})):
        inheritance = Inheritance(bytes(tmp_path), 1, frozenset())
        inheritance.layers = layers
        subject = seal.Subject(inheritance, PROFILE_FILES, os.getuid(), os.getgid(), bound)
        with pytest.raises(SealError) as failed:
            seal.apply_steps(seal.STAGE_ONE[:2], subject)
        assert "mounts" == failed.value.step
