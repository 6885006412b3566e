"""The life of one runner or compiler, from the fork to `os._exit`.

    HELLO, stage one of the seal, [a spare waits], LOAD, artifact, stage two, READY,
    then for each JOB: STARTED, the guest, OUTCOME; at EOF: BYE.

A server gets SERVE after LOAD, tries an instance where it is told to, says READY and answers calls until it is retired
or worn out: BYE. A compiler has no LOAD: both stages, READY, then one COMPILE. What goes wrong before READY is told as
an OUTCOME of job 0; what goes wrong with the host after it ends the process without BYE, which is a crash to the
coordinator.

Descriptors: 0 to 2 /dev/null (with mounts a guest writes to 1 and 2), 3 control, 4 status, 5 to 7 what a job
or SERVE brings; a server's 7 is then the connection of a call. While the artifact is loaded 5 to 7 are taken, so that
the memfd of the module's image lies above them and is never closed or replaced by accident.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of it, at a price
import os
from time import monotonic_ns

from runner import invoke, seal, serve, wasi_files
from runner.allow import FIRST_JOB_FD, LAST_JOB_FD, SECOND_JOB_FD
from runner.callee import Callee, Functions
from runner.compile import compile_module
from runner.errors import EngineError, ProtocolError, RunnerError
from runner.files_callee import FilesCallee
from runner.inherit import Inheritance
from runner.messages import Mailbox
from runner.protocol import (
    CONTROL_FD,
    PROFILE_COMPILER,
    PROFILE_NAMES,
    PROFILE_RUNNER,
    PROFILE_SERVER,
    SERVERS,
    STATUS_FD,
    WITH_FILES,
)
from runner.protocol.control import (
    COMPILE,
    FLAG_ONE_JOB,
    FLAG_STDIN,
    FLAG_STUB_IMPORTS,
    FLAG_TRY_INSTANCE,
    JOB,
    LOAD,
    SERVE,
    STOP,
    decode_compile,
    decode_job,
    decode_load,
    decode_serve,
)
from runner.protocol.status import (
    BYE,
    HELLO,
    Outcome,
    Ready,
    encode_frame,
    encode_outcome,
    encode_ready,
    encode_started,
)
from runner.swallowed import Watch
from runner.syscalls import F_SEAL_SHRINK, F_SEAL_WRITE, close_range, map_read_only, seals_of, unmap
from runner.ticker import Ticker

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Callable
    from typing import NoReturn

    from runner.engine import Engine, LoadedModule
    from runner.protocol.control import Job, Load

MIB = 1 << 20
# Beyond a guest's memory: the engine's tables and stacks, Python's own.
SLACK_BYTES = 64 * MIB
FILES_SLACK_BYTES = 256 * MIB  # the runtime's threads, 2 MiB of stack each
# An artifact is held as it came, as wasmtime's copy, and as the module's image.
ARTIFACT_COPIES = 3
CHUNK_BYTES = 1 * MIB

EXIT_DONE = 0
EXIT_REFUSED = 69  # told as an OUTCOME of job 0
EXIT_HOST_FAILED = 70  # sysexits.h: EX_SOFTWARE

_HELLO, _BYE = encode_frame(HELLO), encode_frame(BYE)


class Prepared:
    """What the zygote makes ready for every child: engine, linker, ticker, mailbox, and the planned steps."""

    def __init__(
        self,
        inheritance: Inheritance,
        engine: Engine,
        mailbox: Mailbox,
        compiler: tuple[int, int],
        max_call_bytes: int,
    ) -> None:
        """`compiler` is what one may use: private memory in bytes, CPU time in seconds."""
        self.inheritance = inheritance
        self.engine = engine
        self.mailbox = mailbox
        self.max_call_bytes = max_call_bytes
        self.compiler_memory_bytes, self.compiler_cpu_s = compiler
        self.invoker = invoke.Invoker(engine, stub_imports=False)
        self.invoker.protect_callbacks()
        self.watch = Watch()
        self.ticker = Ticker(engine, mailbox, self.watch)
        self.functions = Functions()
        layers = inheritance.layers
        self.stage_one = seal.plan(seal.STAGE_ONE, layers)
        self.before_load = seal.plan(seal.BEFORE_LOAD, layers)
        self.stage_two = seal.plan(seal.STAGE_TWO, layers)
        self.masks = {profile: seal.layer_mask(layers, profile) for profile in PROFILE_NAMES}


def child_main(prepared: Prepared, subject: seal.Subject) -> NoReturn:
    """The child's half of the fork: never returns. Control and status are at their descriptors, the rest is closed."""
    code = EXIT_HOST_FAILED
    try:
        os.write(STATUS_FD, _HELLO)
        seal.apply_steps(prepared.stage_one, subject)
        if subject.profile == PROFILE_COMPILER:
            _compile(prepared, subject)
        else:
            _Runner(prepared, subject).live()
        os.write(STATUS_FD, _BYE)
        code = EXIT_DONE
    except Exception as exc:  # noqa: BLE001 - told where it still can be, and a crash after
        if not subject.ready:
            reason = "link_failed" if isinstance(exc, EngineError) and exc.step == "link" else "init_failed"
            detail = str(exc) if isinstance(exc, RunnerError) else repr(exc)
            os.write(STATUS_FD, encode_outcome(Outcome(0, reason, detail=detail)) + _BYE)
            code = EXIT_REFUSED
    finally:
        os._exit(code)


def _say_ready(prepared: Prepared, subject: seal.Subject, load_us: int) -> None:
    subject.ready = True
    os.write(STATUS_FD, encode_ready(Ready(prepared.masks[subject.profile], load_us, subject.uid)))


class _Runner:
    """A process that runs guests: any but a compiler."""

    __slots__ = ("_one_job", "_prepared", "_subject", "_tries")

    def __init__(self, prepared: Prepared, subject: seal.Subject) -> None:
        self._prepared = prepared
        self._subject = subject
        self._one_job = self._tries = False

    def live(self) -> None:
        """From LOAD to the end of the last job.

        Raises:
            SealError, EngineError: before READY alone.
            ProtocolError: what came on control is not what may come.
        """
        prepared = self._prepared
        os.close(FIRST_JOB_FD)  # the Landlock ruleset has done its work, and the artifact has to land here
        message, fds = prepared.mailbox.receive(CONTROL_FD)
        if not message:
            return
        if message[0] != LOAD or fds != (FIRST_JOB_FD,):
            raise ProtocolError(f"LOAD comes first, with an artifact, not {message[0]} with {len(fds)} descriptors")
        started_ns = monotonic_ns()
        module = self._load(decode_load(message))
        load_us = (monotonic_ns() - started_ns) // 1000
        if self._subject.profile in SERVERS:
            self._serve(module, load_us)
            return
        prepared.ticker.start()
        seal.apply_steps(prepared.stage_two, self._subject)
        _say_ready(prepared, self._subject, load_us)
        while True:
            message, fds = prepared.mailbox.receive(CONTROL_FD)
            if not message:
                return
            if message[0] == STOP:
                continue  # it crossed the outcome of the job that it was meant for
            if message[0] != JOB:
                raise ProtocolError(f"JOB or STOP may come now, not {message[0]}")
            self._run(module, decode_job(message), fds)
            if self._one_job:
                return
            close_range(FIRST_JOB_FD, LAST_JOB_FD)

    def _serve(self, module: invoke.Prepared, load_us: int) -> None:
        """The life of a server, from SERVE to its end."""
        prepared, subject = self._prepared, self._subject
        message, fds = prepared.mailbox.receive(CONTROL_FD)
        if not message:
            return
        if message[0] != SERVE or fds != (FIRST_JOB_FD, SECOND_JOB_FD, LAST_JOB_FD):
            raise ProtocolError(f"SERVE comes now, with three descriptors, not {message[0]} with {len(fds)}")
        service = decode_serve(message)
        if subject.profile == PROFILE_SERVER:  # the only file that it writes to is its log
            subject.file_bytes = service.output_bytes
        server = serve.Server(
            *(prepared.functions, prepared.watch, module, service, prepared.max_call_bytes),
            with_files=subject.profile in WITH_FILES,
        )
        seal.apply_steps(prepared.stage_two, subject)
        failed = server.try_instance() if self._tries else None
        if failed is not None:
            os.write(STATUS_FD, encode_outcome(failed))
            return
        _say_ready(prepared, subject, load_us)
        server.run()

    def _load(self, load: Load) -> invoke.Prepared:
        subject, prepared = self._subject, self._prepared
        size = os.fstat(FIRST_JOB_FD).st_size
        slack = FILES_SLACK_BYTES if subject.profile in WITH_FILES else SLACK_BYTES
        if subject.profile in SERVERS:
            # A request, and what a guest writes until it is over, with the answer that is made of it.
            copies = (FilesCallee if subject.profile in WITH_FILES else Callee).BODY_COPIES
            slack += copies * prepared.max_call_bytes + 2 * subject.inherited.file_bytes[PROFILE_RUNNER]
        subject.memory_bytes = load.memory_bytes + ARTIFACT_COPIES * size + slack
        subject.cpu_s = load.cpu_s
        self._one_job, self._tries = bool(load.flags & FLAG_ONE_JOB), bool(load.flags & FLAG_TRY_INSTANCE)
        seal.apply_steps(prepared.before_load, subject)
        linked = prepared.invoker.prepare(_load_artifact(prepared.engine, size), bool(load.flags & FLAG_STUB_IMPORTS))
        if subject.profile in WITH_FILES:
            linked.with_files()  # now: it makes callbacks, whose code is mapped executable
        close_range(FIRST_JOB_FD, LAST_JOB_FD)
        return linked

    def _run(self, module: invoke.Prepared, job: Job, fds: tuple[int, ...]) -> None:
        expected = (FIRST_JOB_FD, SECOND_JOB_FD, LAST_JOB_FD)[: 3 if job.flags & FLAG_STDIN else 2]
        if fds != expected:
            raise ProtocolError(f"this JOB comes with {len(expected)} descriptors, not with {len(fds)}")
        stdin = _read_all(LAST_JOB_FD) if job.flags & FLAG_STDIN else b""
        over = None
        if job.preopens:
            # The engine's WASI writes to 1 and 2, at any length: the ticker looks how much it was.
            for source, target in ((FIRST_JOB_FD, 1), (SECOND_JOB_FD, 2)):
                os.dup2(source, target, inheritable=False)
            over = _over_limit(job)
        ticker = self._prepared.ticker
        os.write(STATUS_FD, encode_started(job.job_id))
        _signal.setitimer(_signal.ITIMER_REAL, (job.wall_ms + invoke.ALARM_MARGIN_MS) / 1000)
        ticker.begin(job.wall_ms, over)
        outcome = invoke.run(module, job, stdin, FIRST_JOB_FD, SECOND_JOB_FD, ticker.stopped)
        if not self._one_job:
            ticker.end()
            _signal.setitimer(_signal.ITIMER_REAL, 0)
        os.write(STATUS_FD, encode_outcome(outcome))


def _over_limit(job: Job) -> Callable[[], bool]:
    return lambda: wasi_files.outputs_over((FIRST_JOB_FD, SECOND_JOB_FD), job.output_bytes)


def _load_artifact(engine: Engine, size: int) -> LoadedModule:
    """The module in the memfd at FIRST_JOB_FD. Only what nobody can cut or change any more is mapped."""
    try:
        sealed = seals_of(FIRST_JOB_FD)
    except OSError:
        sealed = 0
    if not sealed & F_SEAL_SHRINK or not sealed & F_SEAL_WRITE or not size:
        raise EngineError("load", "an artifact comes in a memfd that is sealed against change, and isn't empty")
    address = map_read_only(FIRST_JOB_FD, size)
    module = engine.load_mapped(address, size)
    unmap(address, size)
    return module


def _read_all(fd: int, size: int | None = None) -> bytes:
    """A file from its start: `size` bytes of it, or all."""
    chunks: list[bytes] = []
    position = 0
    while size is None or position < size:
        chunk = os.pread(fd, CHUNK_BYTES if size is None else min(CHUNK_BYTES, size - position), position)
        if not chunk:
            break
        chunks.append(chunk)
        position += len(chunk)
    return b"".join(chunks)


def _compile(prepared: Prepared, subject: seal.Subject) -> None:
    """The life of a compiler: seal, READY, one COMPILE, its OUTCOME."""
    subject.memory_bytes = prepared.compiler_memory_bytes
    subject.cpu_s = prepared.compiler_cpu_s
    close_range(FIRST_JOB_FD, LAST_JOB_FD)
    seal.apply_steps(prepared.before_load + prepared.stage_two, subject)
    _say_ready(prepared, subject, 0)
    message, fds = prepared.mailbox.receive(CONTROL_FD)
    if not message:
        return
    if message[0] != COMPILE or fds != (FIRST_JOB_FD, SECOND_JOB_FD):
        raise ProtocolError(
            f"COMPILE comes now, with module and artifact, not {message[0]} with {len(fds)} descriptors"
        )
    job_id, module_bytes = decode_compile(message)
    os.write(STATUS_FD, encode_started(job_id))
    started_ns = monotonic_ns()
    try:
        artifact = memoryview(compile_module(prepared.engine, _read_all(FIRST_JOB_FD, module_bytes)))
    except EngineError as exc:
        outcome = Outcome(job_id, "compile_failed", detail=exc.message)
    else:
        while artifact:
            artifact = artifact[os.write(SECOND_JOB_FD, artifact) :]
        outcome = Outcome(job_id, "exit")
    outcome.run_us = (monotonic_ns() - started_ns) // 1000
    os.write(STATUS_FD, encode_outcome(outcome))
