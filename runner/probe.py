"""Which layers of the seal this machine and user can have, each tried in a throwaway child, and how to get the rest.

The trials run in an interpreter of their own (`command`), exec'd with the identity and capabilities that a zygote
would have: forking needs a process with one thread, and nothing tried here may change the caller. It prints a line a
finding, `name<TAB>errno`, which `parse` reads; `run` does both.

Not imported by the zygote: it may use what it likes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner import inherit, landlock, mounts, seal, seccomp
from runner.errors import RunnerError
from runner.fork import Forker
from runner.protocol.spawn import EXIT_WITHOUT
from runner.syscalls import (
    PR_GET_DUMPABLE,
    PR_GET_NO_NEW_PRIVS,
    PR_MDWE_REFUSE_EXEC_GAIN,
    PR_SET_DUMPABLE,
    PR_SET_MDWE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    RLIMIT_NOFILE,
    call,
    number,
    prctl,
    set_limit,
)

RUN_TIMEOUT_S = 20
# How long a child may outlive its parent: it is a matter of microseconds.
DEATH_TIMEOUT_S = 0.2
_SIGKILL, _SIGSYS = 9, 31
_WRONG_ANSWER = errno.EPROTO  # the kernel said yes and did nothing

# What a missing layer means, and how to get it. Beyond the seal's own layers: `pdeathsig_other_uid`, whether a runner
# of another uid dies with its parent, and `mounts`, whether a task may have volumes.
HOW_TO_GET: dict[str, str] = {
    "uid": "run as root, or with CAP_SETUID and CAP_SETGID",
    "chroot": "run as root, with CAP_SYS_CHROOT, or where an ordinary user may make user name spaces",
    "namespaces": "run as root, with CAP_SYS_ADMIN, or allow user name spaces: user.max_user_namespaces > 0,"
    " kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)",
    "mounts": "Linux 5.12 or later, and what `namespaces` and `chroot` need",
    "rlimits": "nothing is needed: a container's policy forbids prlimit64",
    "no_new_privs": "Linux 3.5 or later; a container's policy may forbid it",
    "landlock": "Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and `landlock` in the list of lsm=",
    "pdeathsig": "nothing is needed: a container's policy forbids prctl",
    "pdeathsig_other_uid": "give the parent CAP_KILL: the kernel asks whether the dying parent may signal the child",
    "nondumpable": "nothing is needed: a container's policy forbids prctl",
    "mdwe": "Linux 6.3 or later, on x86-64 or aarch64",
    "seccomp": "CONFIG_SECCOMP_FILTER; a container's policy may forbid it",
    "oom_score": "/proc has to be mounted and writable for the process itself",
    "cgroup": "name a cgroup v2 directory that is delegated to the worker (systemd: Delegate=yes) by `serve --cgroup`",
}


# What the probe prints of a layer that nobody asked for: a cgroup is the operator's to name.
_NOT_ASKED = errno.ENODATA
# Without these a worker does not start, unless told to.
REQUIRED = frozenset(EXIT_WITHOUT)
FULL, REDUCED, UNSEALED = "full", "reduced", "unsealed"


class ProbeError(RunnerError):
    """The probe itself failed: its interpreter ended badly or printed something else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer: whether it can be had, why not (the kernel's words), and how to get it ("" where there is no need).

    `wanted` is False of one that is missing since nobody asked for it.
    """

    ok: bool
    why_not: str = ""
    how_to_get: str = ""
    wanted: bool = True


def command(root: Path, runner_uid: int, cgroup: str = "", answer_fd: int = 1) -> list[str]:
    """The probe's argv.

    Args:
        root: an empty directory.
        runner_uid: the uid to try, 0 where none can be taken.
        cgroup: a cgroup v2 directory to try to join.
        answer_fd: what it prints its findings to.
    """
    package_root = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.append({package_root!r}); from runner.probe import main; main(sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-E", "-c", code, str(root), str(runner_uid), cgroup, str(answer_fd)]


def parse(output: str) -> dict[str, Finding]:
    """The findings in a probe's output, all of HOW_TO_GET's names.

    Raises:
        ProbeError: a line is no finding, or one is missing.
    """
    found: dict[str, Finding] = {}
    for line in output.splitlines():
        name, separator, number_text = line.partition("\t")
        if not separator or name not in HOW_TO_GET or not number_text.isdecimal():
            raise ProbeError(f"a probe's line is a layer and an errno, not {line!r}")
        code = int(number_text)
        found[name] = Finding(True) if not code else Finding(False, _why(code), HOW_TO_GET[name], code != _NOT_ASKED)
    untold = HOW_TO_GET.keys() - found.keys()
    if untold:
        raise ProbeError(f"the probe did not tell about {', '.join(sorted(untold))}")
    return {name: found[name] for name in HOW_TO_GET}


def missing(findings: Mapping[str, Finding]) -> list[str]:
    """The layers that are wanted and can't be had."""
    return [name for name, finding in findings.items() if finding.wanted and not finding.ok]


def level(findings: Mapping[str, Finding]) -> str:
    """FULL where none is missing that is wanted, UNSEALED without a required one, else REDUCED."""
    lacking = missing(findings)
    if REQUIRED.intersection(lacking):
        return UNSEALED
    return REDUCED if lacking else FULL


def run(root: Path, runner_uid: int, cgroup: str = "") -> dict[str, Finding]:
    """Probe with the caller's own identity and capabilities.

    Raises:
        ProbeError: the probe failed, or took longer than RUN_TIMEOUT_S.
    """
    argv = command(root, runner_uid, cgroup)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as exc:
        raise ProbeError(f"the probe did not end within {RUN_TIMEOUT_S} s") from exc
    if done.returncode:
        raise ProbeError(f"the probe ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return parse(done.stdout)


def _why(code: int) -> str:
    if code == _NOT_ASKED:
        return "none was named"
    if code == 255:
        return "the trial failed"
    if code > 128:
        return f"the trial was killed by signal {code - 128}"
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"


# -- in the probe's own interpreter --------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Try everything and print what came of it."""
    root, uid, cgroup = os.fsencode(argv[0]), int(argv[1]), os.fsencode(argv[2])
    forker = Forker()
    for name, trial in _trials(forker, root, uid, cgroup).items():
        os.write(int(argv[3]), f"{name}\t{trial()}\n".encode())


def _trials(forker: Forker, root: bytes, uid: int, cgroup: bytes) -> dict[str, Callable[[], int]]:
    def in_child(action: Callable[[], None]) -> Callable[[], int]:
        return lambda: forker.throwaway(action)

    def apart(action: Callable[[], None]) -> Callable[[], int]:
        """As the zygote's children are: in name spaces of their own, where that can be."""

        def both() -> None:
            _separate(root)
            action()

        return in_child(both)

    return {
        "uid": in_child(lambda: _change_user(uid)),
        "chroot": apart(lambda: os.chroot(root)),
        "namespaces": in_child(lambda: _separate(root, required=True)),
        "mounts": in_child(lambda: _mount(root)),
        "rlimits": in_child(lambda: set_limit(RLIMIT_NOFILE, seal.RUNNER_NOFILE)),
        "no_new_privs": in_child(_no_new_privileges),
        "landlock": in_child(_restrict_files),
        "pdeathsig": lambda: _dies_with_parent(forker, 0),
        "pdeathsig_other_uid": lambda: _dies_with_parent(forker, uid),
        "nondumpable": in_child(_hide_memory),
        "mdwe": in_child(lambda: _ignore(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN))),
        "seccomp": lambda: _filtered(forker),
        "oom_score": in_child(lambda: _check(inherit.raise_oom_score())),
        "cgroup": in_child(lambda: _check(inherit.join_cgroup(cgroup))) if cgroup else lambda: _NOT_ASKED,
    }


def _separate(root: bytes, *, required: bool = False) -> None:
    separate = inherit.separation()
    if required:
        _check(separate is not None)
    if separate is not None:
        with contextlib.nullcontext() if required else contextlib.suppress(OSError):
            separate(root)


def _change_user(uid: int) -> None:
    _check(uid > 0)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _mount(root: bytes) -> None:
    _separate(root, required=True)
    volume = mounts.Volume(b"probe", root, None, None)
    who = os.getuid(), os.getgid()
    mounts.build_root(root, [mounts.Bound(volume, b".", True)], who)
    os.chroot(root)


def _no_new_privileges() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _check(prctl(PR_GET_NO_NEW_PRIVS) == 1, _WRONG_ANSWER)


def _hide_memory() -> None:
    prctl(PR_SET_DUMPABLE, 0)
    _check(prctl(PR_GET_DUMPABLE) == 0, _WRONG_ANSWER)


def _restrict_files() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict_self(landlock.new_ruleset(landlock.abi()))
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        return
    raise OSError(_WRONG_ANSWER, "a directory could still be read")


def _filtered(forker: Forker) -> int:
    """0 if a filter of ours kills what it has to kill."""

    def trial() -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        seccomp.Filter(seccomp.assemble([seccomp.Rule("exit_group", "end")])).install()
        call(number("getppid"))

    answer = forker.throwaway(trial)
    return 0 if answer == 128 + _SIGSYS else answer or _WRONG_ANSWER


def _dies_with_parent(forker: Forker, uid: int) -> int:
    """0 if a grandchild (of `uid`, 0 for our own) gets its PDEATHSIG when the child ends."""
    read_end, write_end = os.pipe()
    leave_end, stay_end = os.pipe()  # one that lives on leaves when the probe lets go of this: it may not be killed

    def grandchild() -> None:
        os.close(read_end)
        os.close(stay_end)
        if uid:
            _change_user(uid)
        prctl(PR_SET_PDEATHSIG, _SIGKILL)
        os.write(write_end, b".")
        os.read(leave_end, 1)

    def child() -> None:
        forker.start(grandchild)
        os.close(write_end)
        _check(os.read(read_end, 1) == b".")

    answer = forker.throwaway(child)
    os.close(write_end)
    dead = not answer and _ends_within(read_end, DEATH_TIMEOUT_S)
    for fd in (read_end, leave_end, stay_end):
        os.close(fd)
    return answer or (0 if dead else errno.EPERM)


def _ends_within(read_end: int, timeout_s: float) -> bool:
    """Whether the last holder of a pipe's write end goes in time."""
    return bool(select.select([read_end], [], [], timeout_s)[0]) and not os.read(read_end, 1)


def _check(condition: bool, code: int = errno.EPERM) -> None:
    if not condition:
        raise OSError(code, os.strerror(code))


def _ignore(_: int) -> None:
    """Make a call's result no result."""
