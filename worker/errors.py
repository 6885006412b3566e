"""Every error that the worker package raises. Operands are attributes; messages say what would be right."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a process of the worker ends, one list for all of them.

    3 and 4 are gunicorn's own (a worker that failed to boot, an application that failed to load), 65 to 78 follow
    sysexits.h (FreeBSD), 126 and 127 the shell's use for a program that couldn't be run.
    """

    OK = 0
    FORCED = 1  # serve: a second SIGTERM or SIGINT, ended at once, not drained
    USAGE = 2
    BOOT_FAILED = 3
    APP_FAILED = 4
    REDUCED = 5  # doctor: a layer of the seal is missing
    DIFFERENT = 6  # doctor --live: the worker's books and the machine differ
    TABLE_REFUSED = 65  # the task table is damaged, another program's or a newer version's
    NEVER_READY = 69  # the circuit breaker: a process was started again and again and never got ready
    INTERNAL = 70
    CANT_BIND = 71
    CANT_CREATE = 73  # the data directory can't be made or used
    LOCKED = 75  # another worker uses the data directory; trying later may help
    UNSEALED = 77  # a layer of the seal is missing that no worker runs without, unless told to
    CONFIG = 78
    PARENT_GONE = 125
    SETUP_FAILED = 126
    EXEC_FAILED = 127


class CommandExit(IntEnum):
    """How a command ends that asks a worker for something, or is `run`: no process of a worker is one of these.

    64 to 77 follow sysexits.h, 124 timeout(1), 126 the shell; from 128 on it is 128 and a signal's number.
    """

    OK = 0
    FAILED = 1  # it was done, and the task failed or the call was answered by an error
    USAGE = 2
    REFUSED = 64  # the worker doesn't know or doesn't take what was asked for
    NO_INPUT = 66  # a file that was named can't be read
    UNREACHABLE = 68  # no worker answers at the address
    NOT_INSTALLED = 72  # a part of this program that is installed by itself
    WORKER_FAILED = 74  # the worker or the connection broke over it
    TRY_LATER = 75  # the worker takes nothing now
    NOT_ALLOWED = 77  # no token, or one that may not do this
    TIME_UP = 124  # run: the guest used up its time or fuel
    CANT_RUN = 126  # run: the module is none, is refused, or can't be started
    INTERRUPTED = 130
    TRAPPED = 134  # run: the guest trapped or crashed, as abort(3) would end it
    OUT_OF_MEMORY = 137  # run: as the kernel's killer would end it


class WorkerError(Exception):
    """Root of the package's errors: a failure of the host side, never a guest's outcome."""

    exit_code: int = ExitCode.INTERNAL


class ConfigError(WorkerError):
    """One option has a wrong value: `option` as it was written, `value`, and `right`, what would be right."""

    exit_code = ExitCode.CONFIG

    def __init__(self, option: str, value: object, right: str) -> None:
        shown = value if isinstance(value, str) else repr(value)
        super().__init__(f"{option}: {shown[:200]!r} is not right; it must be {right}")
        self.option = option
        self.value = value
        self.right = right


class NotInstalled(WorkerError):
    """A part of this program that is installed by itself isn't; the message says how to get it."""

    exit_code = CommandExit.NOT_INSTALLED


class SpawnError(WorkerError):
    """A program could not be started: `step` is what failed in the child (or `fork`), `errno` the kernel's answer."""

    def __init__(self, program: str, step: str, errno: int, message: str) -> None:
        super().__init__(f"{program} could not be started: {step}: {message}")
        self.program = program
        self.step = step
        self.errno = errno


class CapabilityError(WorkerError):
    """The kernel refused a change of this process's capabilities."""


class LiveError(WorkerError):
    """The running worker could not be asked; the message says what to do."""

    exit_code = CommandExit.UNREACHABLE


class BindError(WorkerError):
    """An address can't be listened on."""

    exit_code = ExitCode.CANT_BIND


class DataDirectoryError(WorkerError):
    """The data directory can't be made or used; the message says what to do."""

    exit_code = ExitCode.CANT_CREATE


class DataDirectoryLocked(DataDirectoryError):
    """Another worker uses the data directory."""

    exit_code = ExitCode.LOCKED


class NeverReady(WorkerError):
    """A process was started `attempts` times in a row and never got ready."""

    exit_code = ExitCode.NEVER_READY

    def __init__(self, name: str, attempts: int, detail: str) -> None:
        super().__init__(f"{name} was started {attempts} times and never got ready; the last time: {detail}")
        self.name = name
        self.attempts = attempts


class Unsealed(WorkerError):
    """This machine lacks a layer of the seal that no worker runs without; the message says which and what to do."""

    exit_code = ExitCode.UNSEALED


class ZygoteFailed(WorkerError):
    """The zygote was started `attempts` times in a row and never got ready."""

    def __init__(self, attempts: int, status: int) -> None:
        super().__init__(
            f"the zygote was started {attempts} times and never got ready; the last time it ended with {status} "
            "(what it said stands above)"
        )
        self.attempts = attempts
        self.status = status


class ChannelError(WorkerError):
    """A peer on the command channel broke its format, or a message is too long for it. That connection is over."""


class NotSent(WorkerError):
    """The command never left this process: it was not executed."""


class NoAnswer(WorkerError):
    """The command was sent and no answer came: it may have been executed."""


class PageError(WorkerError):
    """The shared page isn't one, or is another version's."""


class BadName(WorkerError):
    """Not a digest, a task id or a temporary name, so no path is made of it."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{name[:100]!r} is no {kind}")
        self.kind = kind
        self.name = name


class BadCursor(WorkerError):
    """A list's `after` isn't a cursor that a list gave out."""


class TableError(WorkerError):
    """The task table can't be used; the message says what to do."""


class TableRefused(TableError):
    """No start will ever be able to use this table: somebody has to do what the message says."""

    exit_code = ExitCode.TABLE_REFUSED


class SchemaTooNew(TableRefused):
    """A newer version of the worker wrote this table."""

    def __init__(self, path: str, found: int, supported: int) -> None:
        super().__init__(
            f"{path} has schema {found} and this version of the worker knows up to {supported}: "
            "start the version that wrote it or a newer one, or restore the backup that it made before migrating"
        )
        self.found = found
        self.supported = supported


class TableNotOurs(TableRefused):
    """A SQLite file that another program made."""


class TableCorrupt(TableRefused):
    """The file is damaged or no SQLite file at all."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(
            f"{path} is damaged ({message}): `galago-worker repair` salvages what it can, or restore a backup"
        )
        self.path = path


class TableBusy(TableError):
    """Another process writes this table."""


class UrlRefused(WorkerError):
    """A URL that the worker does not fetch from; the message says why and what would be right."""


class FetchError(WorkerError):
    """A module could not be fetched: `code` is one of `fetch_wire.CODES`, the message says what was wrong."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
