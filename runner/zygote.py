"""The zygote: a small process with one thread, from which every runner and compiler is forked.

    python -I -S -E -c "import sys; sys.path.append(ROOT); from runner.zygote import main; main(sys.argv[1:])" KEY=VALUE

Descriptor 3 is its socket (`runner.protocol.spawn`); stderr is kept for its own last words. It holds no secret, reads
no untrusted byte, compiles nothing, makes no store, draws no random number. It beats every 250 ms, the first time when
it is ready, and ends with its parent.

| key | value |
| --- | --- |
| `library` | path of wasmtime's shared library (`engine.find_library`); required |
| `root` | an empty directory to chroot to, never written; required |
| `max_memory_bytes` | ceiling for one linear memory; required |
| `max_output_bytes` | longest stdout or stderr of a job; required |
| `compiler_memory_bytes`, `compiler_cpu_s` | what a compiler may use: private memory, CPU time; required |
| `max_call_bytes` | longest request of a call, head and variables included; required |
| `user_uid` | the worker's own user, whom no guest ever is; required |
| `volume` | `NAME=PATH[,uid=U,gid=G]`, as the option `--volume`; any number of them |
| `volume_uid` | first of the uids (and gids) for volumes of root's or the worker's own user, by order; optional |
| `cgroup` | a cgroup v2 directory to join, and all children with it; optional |
| `allow_unsealed` | `1`: go on without seccomp or no_new_privs; optional |
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of it, at a price
import os
import struct
import sys
from time import monotonic_ns

from runner import engine, inherit, mounts, process, seal
from runner.errors import ProtocolError, RunnerError, SealError
from runner.fork import Forker
from runner.holes import fill_holes
from runner.messages import SOL_SOCKET, Mailbox
from runner.protocol import CONTROL_FD, PROFILE_COMPILER, PROFILE_NAMES, PROFILE_RUNNER, STATUS_FD, WITH_FILES
from runner.protocol.control import MAX_CONTROL_BYTES
from runner.protocol.spawn import BEAT, EXIT_WITHOUT, SPAWN, Spawn, Spawned, decode_spawn, encode_spawned
from runner.syscalls import PR_SET_PDEATHSIG, call, close_range, number, one_malloc_arena, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import NoReturn

SOCKET_FD = 3
# Descriptors that every child inherits at these numbers; what a SPAWN brings lies above.
RULESET_FD, LAST_KEPT_FD = 5, 7
BEAT_INTERVAL_MS = 250
MAX_ARTIFACT_BYTES = 1 << 30

EXIT_PARENT_GONE = 0
EXIT_BAD_ARGUMENTS = 64  # sysexits.h: EX_USAGE
EXIT_FAILED = 70  # EX_SOFTWARE
EXIT_CAN_NOT_SEAL = 77  # EX_NOPERM

REQUIRED = (
    *("library", "root", "max_memory_bytes", "max_output_bytes", "max_call_bytes", "compiler_memory_bytes"),
    *("compiler_cpu_s", "user_uid"),
)
_OPTIONAL = ("volume_uid", "allow_unsealed", "cgroup")
# All but those that can't be set: KILL, STOP, and the two that libc keeps for its threads.
_SIGNALS = sorted(set(range(1, 65)) - {9, 19, 32, 33})
_SIGKILL = 9
_SO_RCVTIMEO = 20


class ArgumentError(RunnerError):
    """A key=value argument is unknown, missing or no number."""


class Arguments:
    """The parsed command line; attributes by key."""

    def __init__(self, argv: list[str]) -> None:
        """Parse.

        Raises:
            ArgumentError: naming the argument and what would be right.
        """
        texts: dict[str, str] = {}
        volumes: list[str] = []
        for argument in argv:
            key, separator, value = argument.partition("=")
            if not separator:
                raise ArgumentError(f"arguments are KEY=VALUE, not {argument!r}")
            if key == "volume":
                volumes.append(value)
            elif key in REQUIRED or key in _OPTIONAL:
                texts[key] = value
            else:
                raise ArgumentError(f"there is no argument {key!r}")
        missing = [key for key in REQUIRED if key not in texts]
        if missing:
            raise ArgumentError(f"these arguments are missing: {', '.join(missing)}")
        self.library = os.fsencode(texts["library"])
        self.root = os.fsencode(texts["root"])
        self.cgroup = os.fsencode(texts.get("cgroup", ""))
        self.max_memory_bytes = _number(texts, "max_memory_bytes")
        self.max_output_bytes = _number(texts, "max_output_bytes")
        self.compiler_memory_bytes = _number(texts, "compiler_memory_bytes")
        self.compiler_cpu_s = _number(texts, "compiler_cpu_s")
        self.user_uid = _number(texts, "user_uid")
        self.max_call_bytes = _number(texts, "max_call_bytes")
        self.allow_unsealed = _number(texts, "allow_unsealed") == 1
        first_kept = _number(texts, "volume_uid")
        self.volumes = {
            volume.name: volume
            for volume in [_volume(text, first_kept + index if first_kept else 0) for index, text in enumerate(volumes)]
        }


def _number(texts: dict[str, str], key: str) -> int:
    text = texts.get(key, "0")
    if not text.isdecimal():
        raise ArgumentError(f"{key} is a number, not {text!r}")
    return int(text)


def _volume(text: str, kept: int) -> mounts.Volume:
    name, _, rest = text.partition("=")
    path, *settings = rest.split(",")
    ids = dict([setting.split("=", 1) for setting in settings if "=" in setting])
    owner = None
    if settings:
        owner = _number(ids, "uid"), _number(ids, "gid")
        if 0 in owner or set(ids) != {"uid", "gid"}:
            raise ArgumentError(f"a volume is NAME=PATH[,uid=U,gid=G] without root, not {text!r}")
    return mounts.Volume(os.fsencode(name), os.fsencode(path), owner, (kept, kept) if kept else None)


def main(argv: list[str]) -> NoReturn:
    """Live; ends the process."""
    try:
        code = _live(argv)
    except ArgumentError as exc:
        code = _last_words(EXIT_BAD_ARGUMENTS, exc)
    except SealError as exc:
        code = _last_words(EXIT_WITHOUT.get(exc.step, EXIT_CAN_NOT_SEAL), exc)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the next zygote starts clean
        code = _last_words(EXIT_FAILED, exc)
    sys.stderr.flush()
    os._exit(code)


def _last_words(code: int, error: Exception) -> int:
    sys.stderr.write(f"zygote: {type(error).__name__}: {error}\n")
    return code


def _live(argv: list[str]) -> int:
    arguments = Arguments(argv)
    parent_pid = _settle()
    return Zygote(arguments, parent_pid).serve()


def _settle() -> int:
    """Clean what exec left: signals, session, descriptors. Returns the parent's pid."""
    prctl(PR_SET_PDEATHSIG, _SIGKILL)
    parent_pid = os.getppid()
    for signal_number in _SIGNALS:
        _signal.signal(signal_number, _signal.SIG_DFL)  # what exec and Python left would be inherited
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    if os.getsid(0) != os.getpid():
        os.setsid()  # a terminal's Ctrl-C is the launcher's to answer
    null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, STATUS_FD, *range(RULESET_FD, LAST_KEPT_FD + 1)):
        if fd != null_fd:
            os.dup2(null_fd, fd, inheritable=False)
    close_range(LAST_KEPT_FD + 1)
    os.set_blocking(SOCKET_FD, True)
    # recvmsg then returns by itself for the next beat.
    timeout = struct.pack("ll", 0, BEAT_INTERVAL_MS * 1000)
    _set_socket_option(_SO_RCVTIMEO, timeout)
    one_malloc_arena()
    return parent_pid


def _set_socket_option(option: int, value: bytes) -> None:
    import ctypes  # loaded already

    buffer = ctypes.create_string_buffer(value, len(value))
    call(number("setsockopt"), SOCKET_FD, SOL_SOCKET, option, ctypes.addressof(buffer), len(value))


def _freeze() -> None:
    """Fill the heap's holes, and no collection after this, which would touch every object: each child pays for the
    pages that it touches. To be called when all that children share is made, before its memory is counted."""
    import gc

    gc.collect()
    gc.disable()
    fill_holes()
    gc.freeze()


class Zygote:
    """One zygote: what children inherit, and the loop that forks them."""

    def __init__(self, arguments: Arguments, parent_pid: int) -> None:
        self._forker = Forker()
        self._mailbox = Mailbox(MAX_CONTROL_BYTES)
        self._volumes = arguments.volumes
        inheritance = inherit.Inheritance(arguments.root, parent_pid, frozenset({0, arguments.user_uid}))
        engine.open_library(arguments.library)
        made = engine.Engine(arguments.max_memory_bytes)
        inherit.inherit(inheritance, self._forker, arguments.cgroup)
        if not arguments.allow_unsealed:
            for layer in EXIT_WITHOUT:
                if not inheritance.has(layer):
                    raise SealError(layer, 1)
        inheritance.file_bytes[PROFILE_RUNNER] = arguments.max_output_bytes
        inheritance.file_bytes[PROFILE_COMPILER] = MAX_ARTIFACT_BYTES
        if inheritance.ruleset_fd >= 0:
            os.dup2(inheritance.ruleset_fd, RULESET_FD, inheritable=False)
            os.close(inheritance.ruleset_fd)
            inheritance.ruleset_fd = RULESET_FD
        compiler = arguments.compiler_memory_bytes, arguments.compiler_cpu_s
        self._prepared = process.Prepared(inheritance, made, self._mailbox, compiler, arguments.max_call_bytes)
        _freeze()
        inheritance.data_bytes = inherit.private_bytes()
        self._inheritance = inheritance

    def serve(self) -> int:
        """Fork what is asked for until the parent is gone."""
        last_beat_ns = 0
        while True:
            now_ns = monotonic_ns()
            if now_ns - last_beat_ns >= BEAT_INTERVAL_MS * 1_000_000:
                last_beat_ns = now_ns
                self._beat()
            try:
                message, fds = self._mailbox.receive(SOCKET_FD)
            except (BlockingIOError, InterruptedError):
                continue  # time for a beat, or SIGCONT after SIGSTOP
            if not message:
                return EXIT_PARENT_GONE
            self._spawn(message, fds)

    def _beat(self) -> None:
        try:
            self._mailbox.send(SOCKET_FD, bytes((BEAT,)), wait=False)
        except BlockingIOError:
            return  # the parent has not read for a while: it knows enough of us

    def _spawn(self, message: bytes, fds: tuple[int, ...]) -> None:
        """The parent's half of the fork.

        Raises:
            ProtocolError: not a SPAWN with its two descriptors. Our peer is trusted, so one of us is broken.
        """
        spawn = _decode(message, fds)
        subject = seal.Subject(self._inheritance, spawn.profile, spawn.uid, spawn.gid, self._bounds(spawn))
        try:
            pid, pidfd = self._forker.sibling()
        except OSError as exc:
            answer, pidfd = Spawned(spawn.request_id, 0, exc.errno or 0, "clone"), -1
        else:
            if pid == 0:
                self._become(subject, fds)
            answer = Spawned(spawn.request_id, pid)
        for fd in fds:
            os.close(fd)
        self._mailbox.send(SOCKET_FD, encode_spawned(answer), None if pidfd < 0 else pidfd)
        if pidfd >= 0:
            os.close(pidfd)

    def _become(self, subject: seal.Subject, fds: tuple[int, ...]) -> NoReturn:
        """The child's half: put the descriptors where they belong, close the rest, live."""
        try:
            control_fd, status_fd = fds
            os.dup2(0, 2, inheritable=False)
            os.dup2(control_fd, CONTROL_FD, inheritable=False)
            os.dup2(status_fd, STATUS_FD, inheritable=False)
            close_range(LAST_KEPT_FD + 1)
        except BaseException:  # noqa: BLE001 - a child never returns into the zygote's loop
            os._exit(EXIT_FAILED)
        process.child_main(self._prepared, subject)

    def _bounds(self, spawn: Spawn) -> tuple[mounts.Bound, ...]:
        if not spawn.mounts and spawn.profile not in WITH_FILES:
            return ()
        found = []
        for name, path, read_only in spawn.mounts:
            volume = self._volumes.get(name)
            # The child refuses by this name what there isn't.
            found.append(mounts.Bound(volume or mounts.Volume(name, b"", None, None), path, read_only))
        return tuple(found)


def _decode(message: bytes, fds: tuple[int, ...]) -> Spawn:
    if message[0] != SPAWN or len(fds) != 2:
        raise ProtocolError(f"SPAWN comes with control and status, not {message[0]} with {len(fds)} descriptors")
    try:
        spawn = decode_spawn(message)
    except struct.error as exc:
        raise ProtocolError("a SPAWN is cut short") from exc
    if spawn.profile not in PROFILE_NAMES:
        raise ProtocolError(f"there is no profile {spawn.profile}")
    return spawn
