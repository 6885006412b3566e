"""The seal of a forked process: named steps in an order that matters, each saying why it stands where it does.

What can be inherited is set once in the zygote (`runner.inherit`); here is what each child has to do itself, in two
stages, so that a spare can wait in between: `STAGE_ONE` right after the fork, `STAGE_TWO` around the artifact that
was loaded. A step that the machine or the user can't do is left out, and its layer is not reported; one that is tried
and fails ends the process.
"""

from __future__ import annotations

import os

from runner import landlock, mounts
from runner.errors import SealError
from runner.protocol import LAYER_BITS, PROFILE_COMPILER, WITH_FILES
from runner.syscalls import (
    PR_MDWE_REFUSE_EXEC_GAIN,
    PR_SET_DUMPABLE,
    PR_SET_MDWE,
    PR_SET_PDEATHSIG,
    RLIMIT_CPU,
    RLIMIT_DATA,
    RLIMIT_FSIZE,
    RLIMIT_NOFILE,
    RLIMIT_NPROC,
    drop_capabilities,
    hard_limit,
    prctl,
    set_limit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable
    from typing import Final

    from runner.inherit import Inheritance

_SIGKILL = 9
_EPERM, _ESRCH = 1, 3
# Descriptors below this may be opened: what a job brings lands on 5 to 7, and the module's image lies above.
RUNNER_NOFILE = 8
FILES_NOFILE = 1024  # a guest with mounts opens files; wasmtime's runtime needs about ten
# Threads of the runner's uid: wasmtime's runtime has one a core and some more, of which idle ones end after 10 s.
FILES_NPROC = 64 + len(os.sched_getaffinity(0))
# The same where the uid isn't the runner's alone: the kernel counts all that its owner and other runners have, and a
# runtime that gets no thread takes its process down.
SHARED_NPROC = 1 << 15
# What guests make in volumes can be read by a job that mounts it read-only, whose uid is another.
_VOLUME_UMASK = 0o022
# SIGXCPU ends a process at the soft limit; SIGKILL ends one that outlives it.
CPU_GRACE_S = 2


class Subject:
    """The process that is sealed: who it is to be, and what it may use.

    `memory_bytes` is what it may add to its private memory from now on, `cpu_s` its CPU time, `file_bytes` the longest
    file, its profile's unless it is known better. `ready` once READY is said: what fails before it can still be told.
    `shared_uid` if others have its uid too.
    """

    __slots__ = (
        *("bounds", "cpu_s", "file_bytes", "gid", "inherited", "memory_bytes", "profile", "ready", "shared_uid"),
        *("uid",),
    )

    def __init__(
        self,
        inherited: Inheritance,
        profile: int,
        uid: int,
        gid: int,
        bounds: tuple[mounts.Bound, ...] = (),
        memory_bytes: int = 0,
        cpu_s: int = 0,
    ) -> None:
        self.inherited = inherited
        self.profile = profile
        self.uid = uid
        self.gid = gid
        self.bounds = bounds
        self.memory_bytes = memory_bytes
        self.cpu_s = cpu_s
        self.file_bytes = inherited.file_bytes[profile]
        self.ready = self.shared_uid = False


class Step:
    """One step: `name` (a layer's, where it makes one), why it stands where it stands, and what it does."""

    __slots__ = ("apply", "name", "why")

    def __init__(self, name: str, why: str, apply: Callable[..., object]) -> None:
        self.name = name
        self.why = why
        self.apply = apply


def _take_identity(subject: Subject) -> None:
    inherited = subject.inherited
    if not inherited.has("uid"):
        subject.uid, subject.gid = os.getuid(), os.getgid()
        subject.shared_uid = True
        return
    if subject.bounds:
        own = subject.uid, subject.gid
        subject.uid, subject.gid = mounts.identity(subject.bounds, own, inherited.forbidden_uids)
        subject.shared_uid = subject.uid != own[0]
    if subject.uid in inherited.forbidden_uids or not subject.gid:
        raise PermissionError(_EPERM, "neither root nor the worker's own user")


def _mount(subject: Subject) -> None:
    if not subject.bounds:
        return
    if not (subject.inherited.has("namespaces") and subject.inherited.has("chroot")):
        raise PermissionError(_EPERM, "without a mount name space and chroot there are no mounts")
    os.umask(_VOLUME_UMASK)
    mounts.build_root(subject.inherited.root, subject.bounds, (subject.uid, subject.gid))


def _chroot(subject: Subject) -> None:
    os.chroot(subject.inherited.root)
    os.chdir("/")


def _change_user(subject: Subject) -> None:
    os.setresgid(subject.gid, subject.gid, subject.gid)
    os.setresuid(subject.uid, subject.uid, subject.uid)


def _drop_capabilities(_: Subject) -> None:
    drop_capabilities()


def _die_with_parent(subject: Subject) -> None:
    prctl(PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != subject.inherited.parent_pid:
        raise ProcessLookupError(_ESRCH, "the coordinator is gone")


def _hide_memory(_: Subject) -> None:
    prctl(PR_SET_DUMPABLE, 0)


def _restrict_files(subject: Subject) -> None:
    inherited = subject.inherited
    if subject.bounds:
        mounts.allow_mounts(inherited.ruleset_fd, inherited.landlock_abi, subject.bounds)
    landlock.restrict_self(inherited.ruleset_fd)


def _limit_work(subject: Subject) -> None:
    set_limit(RLIMIT_DATA, subject.inherited.data_bytes + subject.memory_bytes)
    set_limit(RLIMIT_CPU, subject.cpu_s, subject.cpu_s + CPU_GRACE_S)


def _limit_files_size(subject: Subject) -> None:
    set_limit(RLIMIT_FSIZE, subject.file_bytes)


def _limit_processes(subject: Subject) -> None:
    most = 0
    if subject.profile in WITH_FILES:
        most = min(SHARED_NPROC if subject.shared_uid else FILES_NPROC, hard_limit(RLIMIT_NPROC))
    set_limit(RLIMIT_NPROC, most)


def _limit_descriptors(subject: Subject) -> None:
    set_limit(RLIMIT_NOFILE, FILES_NOFILE if subject.profile in WITH_FILES else RUNNER_NOFILE)


def _refuse_new_code(subject: Subject) -> None:
    if subject.profile != PROFILE_COMPILER:
        prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN)


def _filter_system_calls(subject: Subject) -> None:
    subject.inherited.filters[subject.profile].install()


STAGE_ONE: Final = (
    Step(
        "identity",
        "before the mounts, whose paths are opened with the rights that the process will have",
        _take_identity,
    ),
    Step("mounts", "before chroot, for volumes lie outside; needs CAP_SYS_ADMIN", _mount),
    Step("chroot", "before the uid, which takes CAP_SYS_CHROOT away", _chroot),
    Step("uid", "group first, for the uid takes the right to change it away", _change_user),
    Step("capabilities", "a change from one ordinary uid to another takes none away by itself", _drop_capabilities),
    Step(
        "pdeathsig",
        "after the uid, whose change clears it; the parent is looked for after, or its death is missed",
        _die_with_parent,
    ),
    Step("nondumpable", "after the uid, whose change sets it anew", _hide_memory),
    Step("landlock", "after mounts and chroot, which it forbids; needs the inherited no_new_privs", _restrict_files),
)

BEFORE_LOAD: Final = (
    Step("rlimits", "before the artifact is read, whose maker ate hostile bytes; they only ever shrink", _limit_work),
)

STAGE_TWO: Final = (
    Step("file_size", "after the load, which writes the module's image to a memfd", _limit_files_size),
    Step("processes", "after the ticker's thread was started", _limit_processes),
    Step("descriptors", "after the load, whose memfd lies above the limit and stays", _limit_descriptors),
    Step(
        "mdwe", "after the load, which makes memory executable; not in a compiler, which makes code", _refuse_new_code
    ),
    Step(
        "seccomp",
        "last, for it forbids all of the above; after the ticker runs, so that TSYNC finds it",
        _filter_system_calls,
    ),
)

# Steps that make no layer of their own are done where they can be, as part of these.
_LAYER_OF: Final = {
    "file_size": "rlimits",
    "processes": "rlimits",
    "descriptors": "rlimits",
}
_ALWAYS: Final = ("identity", "mounts", "capabilities")


def apply_steps(steps: tuple[Step, ...], subject: Subject) -> None:
    """Do the steps, in order, that this machine and user can do.

    Raises:
        SealError: one failed; it is named.
    """
    for step in steps:
        try:
            step.apply(subject)
        except OSError as exc:
            raise SealError(step.name, exc.errno or 0) from exc


def plan(steps: tuple[Step, ...], available: frozenset[str]) -> tuple[Step, ...]:
    """Those of the steps whose layer is available."""
    return tuple(step for step in steps if step.name in _ALWAYS or _LAYER_OF.get(step.name, step.name) in available)


def layer_mask(available: frozenset[str], profile: int) -> int:
    """READY's bit mask for a process of `profile` that did every planned step."""
    layers = available - {"mdwe"} if profile == PROFILE_COMPILER else available
    return sum(LAYER_BITS[name] for name in layers)
