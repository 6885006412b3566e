"""A runner that serves: it accepts the calls of one function, one at a time, until it is told to end or is worn out.

Each connection on the listener is a call (`runner.protocol.call`). Nothing is executed before the whole request is here
and its asker still waits. While a call runs, all three lines of its limits are drawn: fuel, the ticker's epoch, and an
alarm 200 ms after the deadline whose default is death. The first runner of a service tries an instance before it is
ready, under the same three, so that a start function which can't succeed ends the deployment and not a call.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enumerations of it, at a price
import ctypes
import os
from ctypes import addressof
from struct import Struct
from time import monotonic_ns

from runner.asker import CALL_FD, PATIENCE_MS, Asker
from runner.call_ticker import CallTicker
from runner.callee import Callee
from runner.errors import ProtocolError
from runner.files_callee import FilesCallee
from runner.invoke import ALARM_MARGIN_MS, TICK_MS, ticks_of
from runner.protocol.call import (
    ANSWER_HEAD,
    EXIT,
    FLAG_CANCEL,
    FLAG_EXIT_CODE,
    MAGIC,
    RETIRE,
    VERSION,
    Answer,
    call_parts,
    encode_answer,
)
from runner.protocol.control import ABI_WAGI
from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE, RECORD_BYTES, WORDS
from runner.protocol.record import RETIRE as RETIRE_WORD
from runner.protocol.status import NO_TRAP, Outcome
from runner.syscalls import (
    F_SEAL_SHRINK,
    WRITABLE,
    call,
    give_large_blocks_back,
    map_shared,
    number,
    seals_of,
    view_memory,
)
from runner.traps import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from runner.callee import Functions
    from runner.linking import Prepared
    from runner.protocol.control import Serve
    from runner.swallowed import Watch

    Request = tuple[tuple[int, ...], bytes, memoryview]  # CALL_HEAD's fields, variables, body

# How often the process looks at what it has used. A call that ran longer than a tick makes it look at once.
LOOK_EVERY_CALLS = 64
# What a runner may have come to beyond its start, a guest's memory, a request and its answer, before it gives way to a
# fresh one.
WORN_BYTES = 32 << 20

_SIGXFSZ = 25
_GETRUSAGE = number("getrusage")
_RUSAGE = Struct("<4q q")  # user and system time in seconds and microseconds, peak of resident memory in KiB


class Server:
    """Everything that one serving runner is, made before its seal is whole."""

    __slots__ = (
        *("_answered", "_asker", "_callee", "_flags", "_most_bytes", "_over", "_record", "_serve", "_ticker", "_usage"),
    )

    def __init__(
        self,
        functions: Functions,
        watch: Watch,
        module: Prepared,
        serve: Serve,
        max_call_bytes: int,
        *,
        with_files: bool,
    ) -> None:
        """Map the record from descriptor 7, which is closed then, and start the ticker.

        Args:
            max_call_bytes: the longest request.

        Raises:
            EngineError: the module hasn't the function that is served, with step `link`.
            ProtocolError: there is no such record.
        """
        # The guest's log is full when the file is; a signal for that would end the process.
        _signal.signal(_SIGXFSZ, _signal.SIG_IGN)
        give_large_blocks_back()
        _give_way()  # before the ticker starts, which takes it over, and before the filter
        self._serve = serve
        self._record = _map_record(serve.record)
        self._asker = Asker(max_call_bytes, keeps_number=with_files)
        self._ticker = CallTicker(module.invoker.engine, self._asker, watch)
        made_by = FilesCallee if with_files else Callee
        self._callee = made_by(functions, module, serve, self._ticker.stopped)
        self._over = self._callee.is_over if with_files else None
        self._flags = FLAG_EXIT_CODE if serve.abi == ABI_WAGI else 0
        self._usage = ctypes.create_string_buffer(256)  # struct rusage
        self._answered = 0
        call_bytes = made_by.BODY_COPIES * max_call_bytes + 2 * serve.output_bytes
        self._most_bytes = self._used()[1] + serve.memory_bytes + call_bytes + WORN_BYTES
        self._ticker.start()

    def run(self) -> None:
        """Serve until retired, worn out, or the listener is shut down.

        Raises:
            RunnerError: the host failed, not the guest.
            OSError: the listener is none.
        """
        asker = self._asker
        while asker.accept():
            request = self._read()
            if request is None:
                asker.close()
                continue
            if request[0][2] == RETIRE:
                asker.close()
                return
            is_worn = self._take(*request)
            del request  # a long one isn't kept while none comes, nor beside the next
            if is_worn:
                return

    def try_instance(self) -> Outcome | None:
        """Make an instance as a call would, and drop it: how that ended, as job 0, or None if it is well.

        Raises:
            RunnerError: the host failed, not the guest.
        """
        serve, callee, ticker = self._serve, self._callee, self._ticker
        ticks = ticks_of(serve.wall_ms)
        _signal.setitimer(_signal.ITIMER_REAL, (serve.wall_ms + ALARM_MARGIN_MS) / 1000)
        ticker.begin(ticks, False, self._over)  # its mark finds no connection
        ending = callee.try_instance(serve.fuel, ticks)
        ticker.end()
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        if ending is None:
            return None
        return Outcome(
            *(0, ending.reason),
            trap_code=ending.trap_code,
            exit_code=ending.exit_code,
            fuel_used=callee.fuel_used,
            detail=ending.detail,
        )

    def _read(self) -> Request | None:
        """A request that can be executed, whose asker still waits for the answer; None where there is none."""
        try:
            read = self._asker.read()
            if read is None:
                return None
            message, fields = read
            if fields[2] == RETIRE:
                return fields, b"", message
            variables, body = call_parts(fields, message)
            self._callee.check_body(len(body))
        except (ProtocolError, MemoryError):
            return None
        return (fields, variables, body) if self._asker.is_there() else None

    def _take(self, fields: tuple[int, ...], variables: bytes, body: memoryview) -> bool:
        """Execute a request and answer it: whether the process is worn out after it."""
        _, _, _, _, flags, fuel, wall_ms, sent_us, _, _ = fields
        serve, callee, ticker, record = self._serve, self._callee, self._ticker, self._record
        fuel, wall_ms = min(fuel, serve.fuel), min(wall_ms, serve.wall_ms)
        started_ns = monotonic_ns()
        started_us = started_ns // 1000
        record[DEADLINE] = started_us + (wall_ms + ALARM_MARGIN_MS) * 1000
        record[BUSY_SINCE] = started_us
        ticks = ticks_of(wall_ms)
        _signal.setitimer(_signal.ITIMER_REAL, (wall_ms + ALARM_MARGIN_MS) / 1000)
        ticker.begin(ticks, flags & FLAG_CANCEL != 0, self._over)
        answer = callee.call(fuel, ticks, variables, body)
        ticker.end()
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        done_ns = monotonic_ns()
        ready_ns = callee.ready_ns
        times = max(started_us - sent_us, 0), (ready_ns - started_ns) // 1000, (done_ns - ready_ns) // 1000
        record[CALLS] += 1
        self._answer(answer, times)
        self._asker.close()
        callee.settle()
        record[BUSY_SINCE] = 0
        return self._is_worn(times[2] > TICK_MS * 1000)

    def _answer(self, answer: bytes | bytearray | Ending, times: tuple[int, int, int]) -> None:
        """Send how the call ended; `times` are microseconds in the queue, to the instance, and in the guest."""
        callee = self._callee
        if isinstance(answer, Ending):
            message = encode_answer(_failed(answer, times, callee))
        else:
            whole = ANSWER_HEAD.size + len(answer)
            used = callee.fuel_used, *times, callee.memory_bytes
            message = ANSWER_HEAD.pack(MAGIC, VERSION, EXIT, whole, NO_TRAP, self._flags, 0, 0, *used) + answer
        sent = self._asker.begin_answer(message)
        if 0 <= sent < len(message):
            self._record[DEADLINE] = monotonic_ns() // 1000 + PATIENCE_MS * 1000
            self._asker.finish_answer(message, sent)

    def _is_worn(self, long: bool) -> bool:
        """Whether the process has done enough, or is told to end, and gives way to a fresh one."""
        serve = self._serve
        self._answered += 1
        if self._answered >= serve.recycle_calls or self._record[RETIRE_WORD]:
            return True
        if not long and self._answered % LOOK_EVERY_CALLS:
            return False
        cpu_us, peak_bytes = self._used()
        return cpu_us >= serve.recycle_cpu_us or peak_bytes > self._most_bytes

    def _used(self) -> tuple[int, int]:
        """CPU time in microseconds, and the peak of resident memory in bytes, of this process."""
        call(_GETRUSAGE, 0, addressof(self._usage))
        user_s, user_us, system_s, system_us, peak_kib = _RUSAGE.unpack_from(self._usage)
        return (user_s + system_s) * 1_000_000 + user_us + system_us, peak_kib * 1024


def _give_way() -> None:
    """Let whoever wakes this process go on with what it does (sched(7), SCHED_BATCH), as far as that may be said here.

    An API worker wakes a runner twice for each call, by connect and by what it sends, and would be preempted by it for
    as long as the guest runs. Measured, 16 connections, two cores: 6 to 17 us less CPU for a call there, 7 to 11 here.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        return


def _failed(ending: Ending, times: tuple[int, int, int], callee: Callee) -> Answer:
    queue_us, init_us, run_us = times
    return Answer(
        ending.reason,
        b"",
        trap_code=ending.trap_code,
        exit_code=ending.exit_code,
        fuel_used=callee.fuel_used,
        queue_us=queue_us,
        init_us=init_us,
        run_us=run_us,
        peak_memory_bytes=callee.memory_bytes,
        detail=ending.detail,
    )


def _map_record(index: int) -> memoryview:
    """The record of this process, in the memfd at CALL_FD, which is closed."""
    offset = index * RECORD_BYTES
    if not seals_of(CALL_FD) & F_SEAL_SHRINK or os.fstat(CALL_FD).st_size < offset + RECORD_BYTES:
        raise ProtocolError(f"records come in a memfd that can't shrink, and that has one of number {index}")
    address = map_shared(CALL_FD, RECORD_BYTES, offset)
    os.close(CALL_FD)
    words: memoryview = view_memory(address, 8 * WORDS, WRITABLE)
    return words.cast("Q")
