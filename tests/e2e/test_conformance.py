"""WASI preview 1 over REST: a program sees on the worker what it sees under plain wasmtime, with mounts and without.

Each program is compiled C that prints what every step gave. It runs on the worker, as a job without mounts (our own
WASI) and with some (the engine's), and under the wasmtime package as it is, in a process of its own, as the same user
and on a copy of the same files. Exit, both streams and the files that are left have to be equal.
"""

from __future__ import annotations

import difflib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Worker, pid_of, running, stdin_bytes
from tests.guests.build import guest
from tests.runner.wasi_oracle import TRAPPED, Oracle

OWNER = 60_500 if os.geteuid() == 0 else os.geteuid()
NAME = "guest"
ENV = {"LANG": "C", "EMPTY": "", "EQUALS": "a=b", "LONG": "v" * 4000}
MIB = 1 << 20
FUEL = 10**12
COUNT = itertools.count()

needs_mounts = pytest.mark.root  # an ordinary user has them only where the kernel lets it make a user name space


@dataclass(frozen=True)
class Program:
    guest: str
    args: tuple[str, ...] = ()
    stdin: bytes = b""
    env: dict[str, str] = field(default_factory=dict)


# What a program that needs no files may do.
PROGRAMS = {
    "arguments and environment": Program("echo", ("--flag", "two words", "ünïcode", "", "'\"\n\t\\"), env=ENV),
    "neither arguments nor environment": Program("echo"),
    "many arguments": Program("echo", tuple(f"{index}-{'a' * 200}" for index in range(256))),
    "stdin to its end": Program("cat", (), bytes(range(256)) * 4096),
    "stdin to both streams": Program("cat", ("both",), b"to both\n" * 10_000),
    "no stdin": Program("cat"),
    "what streams can't do": Program("stdio", (), b"0123456789" * 20),
    "streams without stdin": Program("stdio"),
    "waiting for clocks and streams": Program("waits", (), b"x"),
    "clocks": Program("clocks"),
    "paths that lead nowhere": Program("nofiles"),
    "an exit code": Program("exit", ("7",)),
    "the highest exit code that wasmtime lets pass": Program("exit", ("125",)),
    "a code returned from main": Program("exit", ("return", "4")),
    "an abort": Program("exit", ("abort",)),
}
# What works on files: {} is where the volume's directory is for the guest.
FILE_PROGRAMS = {
    "files, from creation to removal": Program("files", ("{}",)),
    "names, links, directories and their errors": Program("paths", ("{}",)),
    "offsets, sizes and positioned reads and writes": Program("offsets", ("{}",)),
    "times": Program("stamps", ("{}",)),
    "a directory of many entries": Program("listing", ("{}", "400")),
    "a directory of few entries": Program("listing", ("{}", "3")),
    "what may be read and written": Program("refused", ("{}",)),
}

Ran = tuple[int | str | None, bytes, bytes]  # exit code or TRAPPED, stdout, stderr


@pytest.fixture(scope="module")
def volume(place: Path) -> Path:
    """The operator's volume `v`; each test has a directory of its own in it."""
    return owned(place / "volume")


@pytest.fixture(scope="module")
def worker(place: Path, volume: Path) -> Iterator[Worker]:
    with running(place / "data", "--volume", f"v={volume}") as worker:
        yield worker


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle(OWNER if os.geteuid() == 0 else None) as one:
        yield one


@pytest.fixture
def scratch(place: Path) -> Path:
    """Where the oracle puts streams and files."""
    return owned(place / f"oracle-{next(COUNT)}")


def owned(directory: Path) -> Path:
    directory.mkdir(mode=0o755, parents=True)
    own(directory)
    return directory


def own(directory: Path, owner: int = OWNER) -> None:
    if os.geteuid() == 0:
        for each in (directory, *directory.rglob("*")):
            os.chown(each, owner, owner, follow_symlinks=False)


def on_the_worker(worker: Worker, program: Program, **task: Any) -> Ran:
    asked = {"limits": {"fuel": FUEL, "output_bytes": 4 * MIB}, "args": list(program.args), "env": program.env, **task}
    ended = worker.run(worker.upload(guest(program.guest)), name=NAME, stdin=stdin_bytes(program.stdin), **asked)
    assert ended["reason"] in ("exit", "nonzero_exit", "trap"), ended
    code = TRAPPED if ended["reason"] == "trap" else ended["exit_code"]
    stderr = worker.http.get(f"/tasks/{ended['id']}/stderr").content
    return code, worker.stdout(ended["id"]), stderr


def under_wasmtime(oracle: Oracle, program: Program, scratch: Path, *mounts: tuple[Path, str], **how: bool) -> Ran:
    env = tuple(program.env.items())
    args = (NAME, *program.args)
    wasm = guest(program.guest)
    return oracle.run(wasm, scratch, args=args, env=env, stdin=program.stdin, mounts=mounts, **how)


# -- programs without files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", "instance"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_without_mounts_sees_what_it_sees_under_wasmtime(
    worker: Worker, oracle: Oracle, scratch: Path, name: str, isolation: str
) -> None:
    expected = under_wasmtime(oracle, PROGRAMS[name], scratch)
    assert expected == on_the_worker(worker, PROGRAMS[name], isolation=isolation)


@needs_mounts
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_with_a_mount_that_it_does_not_use_sees_what_it_sees_under_wasmtime(
    worker: Worker, oracle: Oracle, volume: Path, scratch: Path, name: str
) -> None:
    mounted = owned(scratch / "mounted")
    expected = under_wasmtime(oracle, PROGRAMS[name], scratch, (mounted, "/unused"))
    mounts = [{"volume": "v", "guest": "/unused", "mode": "rw"}]
    assert expected == on_the_worker(worker, PROGRAMS[name], mounts=mounts)


def test_all_exit_codes_arrive(worker: Worker) -> None:
    """Those above 125 too, which wasmtime's own WASI makes an error."""
    digest = worker.upload(guest("exit"))
    tasks = [worker.run(digest, args=[str(code)], isolation="instance") for code in range(256)]
    reasons = ["exit"] + ["nonzero_exit"] * 255
    assert list(zip(reasons, range(256), strict=True)) == [(task["reason"], task["exit_code"]) for task in tasks]
    assert 1 == len({pid_of(task) for task in tasks})


@needs_mounts
@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 128, 200, 255])
def test_exit_codes_arrive_from_jobs_with_mounts(worker: Worker, code: int) -> None:
    mounts = [{"volume": "v", "guest": "/unused"}]
    assert (code, b"before the end\n", b"") == on_the_worker(worker, Program("exit", (str(code),)), mounts=mounts)


@pytest.mark.parametrize("mounted", [False, pytest.param(True, marks=needs_mounts)])
def test_random_bytes_are_never_the_same(worker: Worker, mounted: bool) -> None:
    mounts = [{"volume": "v", "guest": "/unused"}] if mounted else []
    lines = [on_the_worker(worker, Program("random"), mounts=mounts)[1] for _ in range(6)]
    assert (6, {65}) == (len(set(lines)), {len(line) for line in lines})


def test_random_bytes_are_never_the_same_in_a_warm_runner(worker: Worker) -> None:
    lines = [on_the_worker(worker, Program("random"), isolation="instance")[1] for _ in range(6)]
    assert 6 == len(set(lines))


# -- programs with files -------------------------------------------------------------------------------------------


def furnish(directory: Path) -> None:
    """Files that belong to the volume's owner, and some that belong to nobody that a guest ever is."""
    (directory / "file").write_text("for all")
    (directory / "directory" / "empty").mkdir(parents=True)
    (directory / "directory" / "file").write_text("in a directory")
    (directory / "soft").symlink_to("file")
    own(directory)
    for name in ("private", "closed/file"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("root's")
        (directory / name).chmod(0o600)
    (directory / "closed").chmod(0o700)


def tree(directory: Path) -> list[str]:
    """What is below a directory, one a line: name, type and permissions, owner, links, and what it holds."""
    found = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        held: object = ""
        if stat.S_ISLNK(status.st_mode):
            held = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            held = path.read_bytes()
        links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
        name = path.relative_to(directory).as_posix()
        found.append(f"{name} {status.st_mode:o} {status.st_uid}:{status.st_gid} {links} {held!r}")
    return found


def run_both(
    worker: Worker, oracle: Oracle, volume: Path, scratch: Path, program: Program, *, read_only: bool = False
) -> tuple[str, str]:
    """Exit, streams and what is left below the mount, as text: under wasmtime, and on the worker."""
    ours = owned(volume / scratch.name)
    theirs = owned(scratch / "files")
    if program.guest == "refused":
        for root in (ours, theirs):
            furnish(root)
    given = Program(program.guest, tuple(arg.format("/data") for arg in program.args))
    expected = under_wasmtime(oracle, given, scratch, (theirs, "/data"), read_only=read_only)
    mounts = [{"volume": "v", "path": ours.name, "guest": "/data", "mode": "ro" if read_only else "rw"}]
    found = on_the_worker(worker, given, mounts=mounts)
    return shown(expected, theirs), shown(found, ours)


def shown(ran: Ran, directory: Path) -> str:
    """Line by line, so that a difference is told as one."""
    return "\n".join([f"exit {ran[0]}", ran[1].decode(), ran[2].decode(), *tree(directory)])


def differences(expected: str, found: str) -> list[str]:
    """The lines that aren't the same, which is all that one wants to read of some hundred."""
    return list(difflib.unified_diff(expected.splitlines(), found.splitlines(), "wasmtime", "worker", lineterm="", n=1))


@needs_mounts
@pytest.mark.parametrize("name", FILE_PROGRAMS)
def test_files_of_a_mount_behave_as_under_wasmtime(
    worker: Worker, oracle: Oracle, volume: Path, scratch: Path, name: str
) -> None:
    expected, found = run_both(worker, oracle, volume, scratch, FILE_PROGRAMS[name])
    assert found.startswith("exit 0\n")
    assert [] == differences(expected, found)


@needs_mounts
@pytest.mark.parametrize("name", FILE_PROGRAMS)
def test_files_of_a_read_only_mount_behave_as_under_wasmtime(
    worker: Worker, oracle: Oracle, volume: Path, scratch: Path, name: str
) -> None:
    expected, found = run_both(worker, oracle, volume, scratch, FILE_PROGRAMS[name], read_only=True)
    assert [] == differences(expected, found)


@needs_mounts
@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_a_volumes_file_that_is_not_the_owners_is_not_the_guests(
    worker: Worker, oracle: Oracle, volume: Path, scratch: Path, mode: str
) -> None:
    expected, found = run_both(worker, oracle, volume, scratch, Program("refused", ("{}",)), read_only=mode == "ro")
    assert [] == differences(expected, found)
    assert 'holds "for all"' in found
    assert "holds \"root's" not in found


def test_no_guest_without_mounts_finds_a_file(worker: Worker) -> None:
    lines = on_the_worker(worker, PROGRAMS["paths that lead nowhere"])[1].decode().splitlines()
    steps = [line for line in lines if line.rsplit(" ", 1)[-1].isdecimal()]
    assert [] == [line for line in steps if line.endswith(" 0")]
    assert len(steps) == 75


def test_every_guest_is_compared_or_serves_tests_of_its_own() -> None:
    elsewhere = {"across", "block", "flood", "handler", "hog", "idle", "maths", "notes", "random", "spin", "teller"}
    named = {program.guest for program in (*PROGRAMS.values(), *FILE_PROGRAMS.values())}
    sources = {path.stem for path in (Path(__file__).parents[1] / "guests").glob("*.c")}
    assert named == sources - elsewhere
