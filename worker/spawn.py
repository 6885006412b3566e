"""The one place of the worker package that forks: a child with explicit environment, fds, identity and capabilities.

The parent's half is `spawn`, the child's is `_become`, a list of named steps that ends in exec or in `os._exit`.
The child runs Python between fork and exec, but takes no lock that another thread could hold: it makes system calls
only, everything they need is imported and computed before the fork.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from worker import capabilities as caps
from worker.errors import ExitCode, SpawnError, WorkerError
from worker.prctl import set_no_new_privileges, set_parent_death_signal

FD_PREFIX = "GALAGO_FD_"
FIRST_FD = 3
# A child says within this that it reached exec; the time covers one that was stopped (SIGSTOP) in between.
EXEC_TIMEOUT_MS = 5_000

_FAILURE = struct.Struct("<i32s")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be exec'd, whole: nothing that isn't named here reaches it, but for stdout, stderr and the umask.

    Args:
        argv: the program's absolute path and its arguments.
        env: its environment, all of it.
        fds: name to fd, in the order in which the child gets them: 3, 4, ...; each is also named in the child's
            environment, as GALAGO_FD_<NAME>, unless `name_fds` is False. stdin is /dev/null.
        identity: whom it runs as; None stays.
        capabilities: what it may do beyond that, of what is permitted here (an ambient set: it survives exec).
        cwd: its working directory.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    fds: Mapping[str, int] = field(default_factory=dict)
    name_fds: bool = True
    identity: Identity | None = None
    capabilities: frozenset[int] = frozenset()
    cwd: str = "/"


@dataclass(frozen=True, slots=True)
class Process:
    """A started program: our child, and a pidfd that names it for as long as it is open."""

    pid: int
    pidfd: int

    def send(self, signal_number: int) -> None:
        """Send a signal; to one that is gone is no error."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal_number)

    def reap(self) -> str | None:
        """How it ended, in words, and its entry is gone; None while it runs. The pidfd stays ours to close."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return f"exit code {result.si_status}"
        return f"killed by {signal.Signals(result.si_status).name}"


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """argv of `python -m module`, with neither the working directory nor the user's packages on its path."""
    return (sys.executable, "-s", "-P", "-m", module, *arguments)


def python_env() -> dict[str, str]:
    """The environment of our own Python processes: PATH, LANG, and where packages lie that aren't installed."""
    env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    root = str(Path(__file__).resolve().parent.parent)
    if root not in paths and not root.endswith("-packages"):
        paths.insert(0, root)
    if paths:
        env["PYTHONPATH"] = os.pathsep.join(paths)
    return env


def child_fds(env: MutableMapping[str, str]) -> dict[str, int]:
    """What the parent handed over: lower-case name to fd. Takes them out of `env` and closes them over exec.

    Raises:
        WorkerError: an entry that names no open fd.
    """
    fds = {}
    for name in [name for name in env if name.startswith(FD_PREFIX)]:
        value = env.pop(name)
        try:
            fd = int(value)
            os.set_inheritable(fd, False)
        except (ValueError, OSError) as exc:
            raise WorkerError(f"{name} must name an open file descriptor, not {value!r}") from exc
        fds[name.removeprefix(FD_PREFIX).lower()] = fd
    return fds


def spawn(program: Program) -> Process:
    """Start `program`. Returns once it is exec'd, with PR_SET_PDEATHSIG set to SIGKILL for the calling thread.

    Raises:
        SpawnError: fork, a step of the child's, or exec failed; nothing is left of it.
    """
    env = dict(program.env)
    if program.name_fds:
        for number, name in enumerate(program.fds, FIRST_FD):
            env[FD_PREFIX + name.upper()] = str(number)
    steps = list(_steps(program, os.getpid()))
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = _fork()
        except OSError as exc:
            raise SpawnError(program.argv[0], "fork", exc.errno or 0, str(exc)) from exc
        if pid == 0:
            _become(program, steps, env, theirs)
        os.close(theirs)
        theirs = -1
        process = Process(pid, _pidfd_of(program, pid))
        _await_exec(program, process, ours)
        return process
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def _fork() -> int:
    """fork with every signal blocked: the child must not run the parent's handlers before it has dropped them."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    pid = -1
    try:
        with warnings.catch_warnings():
            # From Python 3.12 on fork warns when there are threads; why this child is safe stands above.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        return pid
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pidfd_of(program: Program, pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as exc:  # no descriptor is left: a child that nobody could watch must not live on
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise SpawnError(program.argv[0], "pidfd", exc.errno or 0, str(exc)) from exc


def _await_exec(program: Program, process: Process, fd: int) -> None:
    """Read what the child says: end of file is a successful exec, anything else the step that failed."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    said = os.read(fd, _FAILURE.size) if poll.poll(EXEC_TIMEOUT_MS) else _FAILURE.pack(0, b"exec within 5 s")
    if not said:
        return
    process.send(signal.SIGKILL)
    os.waitpid(process.pid, 0)
    os.close(process.pidfd)
    number, step = _FAILURE.unpack(said)
    message = os.strerror(number) if number else "it did not happen"
    raise SpawnError(program.argv[0], step.rstrip(b"\0").decode(), number, message)


Step = tuple[str, Callable[[], object]]


def _steps(program: Program, parent: int) -> Iterator[Step]:
    """The child's steps between its fds and exec, in an order that matters."""
    yield "session", os.setsid
    # stdin is /dev/null: a terminal's input belongs to nobody but the launcher's user.
    null = os.O_RDONLY | os.O_CLOEXEC
    yield "stdin", lambda: os.dup2(os.open(os.devnull, null), 0)
    # The bounding set needs CAP_SETPCAP, which goes with the uid.
    yield "bounding set", lambda: caps.bound_to(program.capabilities)
    if program.identity is not None:
        yield from _identity_steps(program.identity, bool(program.capabilities))
    yield "capabilities", lambda: caps.pass_on(program.capabilities)
    yield "no_new_privs", set_no_new_privileges
    yield "working directory", lambda: os.chdir(program.cwd)
    # After the change of uid, which clears it; and only then is it certain that the parent's death will be told.
    yield "parent's death", lambda: set_parent_death_signal(signal.SIGKILL)
    yield "parent", lambda: None if os.getppid() == parent else os._exit(ExitCode.PARENT_GONE)


def _identity_steps(identity: Identity, keep: bool) -> Iterator[Step]:
    if keep:
        yield "keep capabilities", caps.keep_over_uid_change
    if os.geteuid() == 0:
        yield "groups", lambda: os.setgroups(identity.groups)
    yield "gid", lambda: os.setresgid(identity.gid, identity.gid, identity.gid)
    yield "uid", lambda: os.setresuid(identity.uid, identity.uid, identity.uid)


def _become(program: Program, steps: list[Step], env: dict[str, str], failure_fd: int) -> NoReturn:
    """The child: clean signals and fds, then the steps, then exec. It never returns."""
    step = "signals"
    code = ExitCode.SETUP_FAILED
    try:
        for number in signal.valid_signals():
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)  # exec would keep what is ignored, as SIGPIPE is by Python
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = "fds"
        failure_fd = _place_fds(list(program.fds.values()), failure_fd)
        for step, run in steps:  # noqa: B007 - the name of the step that failed is told below
            run()
        step = "exec"
        code = ExitCode.EXEC_FAILED
        os.execve(program.argv[0], program.argv, env)  # noqa: S606 - no shell is wanted: argv is exact
    except BaseException as exc:  # noqa: BLE001 - whatever it is, this process ends here
        errno = (exc.errno or 0) if isinstance(exc, OSError) else 0
        with suppress(OSError):
            os.write(failure_fd, _FAILURE.pack(errno, step.encode()))
    finally:
        os._exit(code)


def _place_fds(fds: list[int], failure_fd: int) -> int:
    """Put `fds` at 3, 4, ..., inheritable, the failure pipe right behind them, and close everything else."""
    end = FIRST_FD + len(fds)
    # First out of the way of the numbers that are wanted, so that none is overwritten before it is copied.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end + 1) for fd in (*fds, failure_fd)]
    for number, fd in enumerate(moved[:-1], FIRST_FD):
        os.dup2(fd, number, inheritable=True)
    os.dup2(moved[-1], end, inheritable=False)
    os.closerange(end + 1, 2**31 - 1)  # close_range(2), one call whatever the limit
    return end
