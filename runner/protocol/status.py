"""**Status**, runner to coordinator, a byte stream on a pipe (the runner's fd 4). Everything here is hostile input.

0      2    3     4          8
+------+----+-----+----------+=================+
| "gR" | v  |kind | length   | payload         |   length <= MAX_FRAME_PAYLOAD
+------+----+-----+----------+=================+

HELLO    (empty)                                        first frame, right after the fork
READY    u32 layers, u64 load_us, u32 uid               sealed, artifact loaded; layers is a bit mask of LAYERS
STARTED  u64 job_id                                     the job was read, the guest is about to run
OUTCOME  OUTCOME_HEAD, n * (u8 kind, u64 bits), detail  how it ended, with usage
BYE      (empty)                                        last frame; EOF without it is a crash

HELLO -> READY -> (STARTED -> OUTCOME)* -> BYE. Anything else is a ProtocolError.
A runner that can't load its artifact, or whose trial of an instance failed, answers HELLO -> OUTCOME (job_id 0) -> BYE.
"""

from __future__ import annotations

import struct

from runner.errors import ProtocolError
from runner.protocol import F64, MAX_DETAIL_BYTES, VERSION
from runner.protocol.strings import unpack, unpack_head

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Iterator

MAGIC = b"gR"
FRAME_HEAD = struct.Struct("<2sBBI")
# 1,000 results of 9 bytes, a 4 KiB detail and the head: 13.2 KiB.
MAX_FRAME_PAYLOAD = 16 * 1024

HELLO, READY, STARTED, OUTCOME, BYE = range(1, 6)
FRAME_NAMES = {HELLO: "HELLO", READY: "READY", STARTED: "STARTED", OUTCOME: "OUTCOME", BYE: "BYE"}

# Why a job ended, as the runner saw it. The names are the task's reasons (DESIGN 5).
REASONS = (
    "exit",
    "nonzero_exit",
    "trap",
    "fuel",
    "deadline",
    "oom_guest",
    "output_limit",
    "init_failed",
    "link_failed",
    "compile_failed",
    "stopped",
)
REASON_CODES = {name: index for index, name in enumerate(REASONS)}

# wasmtime's trap codes (wasmtime/trap.h), snake_case; NO_TRAP where the job did not trap.
TRAP_CODES = (
    "stack_overflow",
    "memory_out_of_bounds",
    "heap_misaligned",
    "table_out_of_bounds",
    "indirect_call_to_null",
    "bad_signature",
    "integer_overflow",
    "integer_division_by_zero",
    "bad_conversion_to_integer",
    "unreachable_code_reached",
    "interrupt",
    "out_of_fuel",
    "atomic_wait_non_shared_memory",
    "null_reference",
    "array_out_of_bounds",
    "allocation_too_large",
    "cast_failure",
    "cannot_enter_component",
    "no_async_result",
    "unhandled_tag",
    "continuation_already_consumed",
    "disabled_opcode",
    "async_deadlock",
    "cannot_leave_component",
    "cannot_block_sync_task",
    "invalid_char",
    "debug_assert_string_encoding_finished",
    "debug_assert_equal_code_units",
    "debug_assert_pointer_aligned",
    "debug_assert_upper_bits_unset",
    "string_out_of_bounds",
    "list_out_of_bounds",
    "invalid_discriminant",
    "unaligned_pointer",
    "task_cancel_not_cancelled",
    "task_cancel_or_return_twice",
    "subtask_cancel_after_terminal",
    "task_return_invalid",
    "waitable_set_drop_has_waiters",
    "subtask_drop_not_resolved",
    "thread_new_indirect_invalid_type",
    "thread_new_indirect_uninitialized",
    "backpressure_overflow",
    "unsupported_callback_code",
    "cannot_resume_thread",
    "concurrent_future_stream_op",
    "reference_count_overflow",
    "stream_op_too_big",
    "waitable_sync_and_async",
    "uncaught_exception",
)
NO_TRAP = 255

FLAG_EXIT_CODE = 1
FLAG_STDOUT_TRUNCATED = 2
FLAG_STDERR_TRUNCATED = 4

_READY = struct.Struct("<IQI")
_STARTED = struct.Struct("<Q")
# job_id, reason, trap_code, flags, exit_code, fuel_used, init_us, run_us, cpu_us, peak_memory_bytes, results, detail
_OUTCOME = struct.Struct("<QBBBxiQQQQQHH")
_VALUE = struct.Struct("<BQ")


class Frame:
    """One status frame: `kind` (HELLO to BYE) and its raw `payload`."""

    __slots__ = ("kind", "payload")

    def __init__(self, kind: int, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload


class Ready:
    """READY: `layers` is a bit mask of LAYER_BITS, `load_us` how long the artifact took to load, `uid` who it now is.

    The uid is the runner's to tell: with a writable volume it is the owner's, which is looked up where it is mounted.
    """

    __slots__ = ("layers", "load_us", "uid")

    def __init__(self, layers: int, load_us: int, uid: int) -> None:
        self.layers = layers
        self.load_us = load_us
        self.uid = uid


class Outcome:
    """How one job ended, as its runner saw it.

    `reason` is one of REASONS, `trap_code` one of TRAP_CODES or None, `exit_code` None where there was none.
    `results` is a tuple of (value kind, raw 64 bits). Times are microseconds, memory is bytes, fuel is wasmtime's unit.
    """

    __slots__ = (
        "cpu_us",
        "detail",
        "exit_code",
        "fuel_used",
        "init_us",
        "job_id",
        "peak_memory_bytes",
        "reason",
        "results",
        "run_us",
        "stderr_truncated",
        "stdout_truncated",
        "trap_code",
    )

    def __init__(
        self,
        job_id: int,
        reason: str,
        *,
        trap_code: str | None = None,
        exit_code: int | None = None,
        fuel_used: int = 0,
        init_us: int = 0,
        run_us: int = 0,
        cpu_us: int = 0,
        peak_memory_bytes: int = 0,
        stdout_truncated: bool = False,
        stderr_truncated: bool = False,
        results: tuple[tuple[int, int], ...] = (),
        detail: str = "",
    ) -> None:
        self.job_id = job_id
        self.reason = reason
        self.trap_code = trap_code
        self.exit_code = exit_code
        self.fuel_used = fuel_used
        self.init_us = init_us
        self.run_us = run_us
        self.cpu_us = cpu_us
        self.peak_memory_bytes = peak_memory_bytes
        self.stdout_truncated = stdout_truncated
        self.stderr_truncated = stderr_truncated
        self.results = results
        self.detail = detail


def encode_frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame's bytes, header and payload."""
    if len(payload) > MAX_FRAME_PAYLOAD:
        raise ProtocolError(f"a frame's payload is at most {MAX_FRAME_PAYLOAD} bytes, this has {len(payload)}")
    return FRAME_HEAD.pack(MAGIC, VERSION, kind, len(payload)) + payload


def encode_ready(ready: Ready) -> bytes:
    return encode_frame(READY, _READY.pack(ready.layers, ready.load_us, ready.uid))


def decode_ready(payload: bytes) -> Ready:
    return Ready(*unpack(_READY, payload, "READY"))


def encode_started(job_id: int) -> bytes:
    return encode_frame(STARTED, _STARTED.pack(job_id))


def decode_started(payload: bytes) -> int:
    """The job's id."""
    job_id: int = unpack(_STARTED, payload, "STARTED")[0]
    return job_id


def encode_outcome(outcome: Outcome) -> bytes:
    """OUTCOME as a frame; the detail is cut to MAX_DETAIL_BYTES of UTF-8."""
    detail = outcome.detail.encode("utf-8", "replace")[:MAX_DETAIL_BYTES]
    flags = (
        (FLAG_EXIT_CODE if outcome.exit_code is not None else 0)
        | (FLAG_STDOUT_TRUNCATED if outcome.stdout_truncated else 0)
        | (FLAG_STDERR_TRUNCATED if outcome.stderr_truncated else 0)
    )
    head = _OUTCOME.pack(
        outcome.job_id,
        REASON_CODES[outcome.reason],
        NO_TRAP if outcome.trap_code is None else TRAP_CODES.index(outcome.trap_code),
        flags,
        outcome.exit_code or 0,
        outcome.fuel_used,
        outcome.init_us,
        outcome.run_us,
        outcome.cpu_us,
        outcome.peak_memory_bytes,
        len(outcome.results),
        len(detail),
    )
    return encode_frame(OUTCOME, head + b"".join([_VALUE.pack(k, bits) for k, bits in outcome.results]) + detail)


def decode_outcome(payload: bytes) -> Outcome:
    """An Outcome from hostile bytes.

    Raises:
        ProtocolError: a length, a reason, a trap code or a value kind that isn't one.
    """
    head = unpack_head(_OUTCOME, payload, "OUTCOME")
    job_id, reason, trap, flags, exit_code, fuel, init, run, cpu, peak, count, size = head
    end = _OUTCOME.size + count * _VALUE.size
    if len(payload) != end + size:
        raise ProtocolError(f"OUTCOME announces {end + size} bytes and has {len(payload)}")
    if reason >= len(REASONS):
        raise ProtocolError(f"OUTCOME's reason is below {len(REASONS)}, this is {reason}")
    if trap != NO_TRAP and trap >= len(TRAP_CODES):
        raise ProtocolError(f"OUTCOME's trap code is below {len(TRAP_CODES)} or {NO_TRAP}, this is {trap}")
    results = tuple(_VALUE.iter_unpack(payload[_OUTCOME.size : end]))
    if any(kind > F64 for kind, _ in results):
        raise ProtocolError("OUTCOME has a value that is neither i32, i64, f32 nor f64")
    return Outcome(
        job_id,
        REASONS[reason],
        trap_code=None if trap == NO_TRAP else TRAP_CODES[trap],
        exit_code=exit_code if flags & FLAG_EXIT_CODE else None,
        fuel_used=fuel,
        init_us=init,
        run_us=run,
        cpu_us=cpu,
        peak_memory_bytes=peak,
        stdout_truncated=bool(flags & FLAG_STDOUT_TRUNCATED),
        stderr_truncated=bool(flags & FLAG_STDERR_TRUNCATED),
        results=results,
        detail=payload[end:].decode("utf-8", "replace"),
    )


# Which frame may follow which. The empty set after BYE: nothing may.
FOLLOWS: dict[int, frozenset[int]] = {
    0: frozenset({HELLO}),
    HELLO: frozenset({READY, OUTCOME, BYE}),
    READY: frozenset({STARTED, BYE}),
    STARTED: frozenset({OUTCOME}),
    OUTCOME: frozenset({STARTED, BYE}),
    BYE: frozenset(),
}


class StatusReader:
    """A runner's status stream, bytes in, frames out: holds at most one frame, and the order in which they may come."""

    __slots__ = ("_buffer", "_last")

    def __init__(self) -> None:
        self._buffer = b""
        self._last = 0

    @property
    def finished(self) -> bool:
        """Whether BYE was read, so that EOF is the end and no crash."""
        return self._last == BYE

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes.

        Raises:
            ProtocolError: wrong magic, version, kind or order, or a payload over MAX_FRAME_PAYLOAD.
        """
        self._buffer += data
        while len(self._buffer) >= FRAME_HEAD.size:
            magic, version, kind, length = FRAME_HEAD.unpack_from(self._buffer)
            if magic != MAGIC or version != VERSION:
                raise ProtocolError(f"a frame starts with {MAGIC!r} and version {VERSION}, not {magic!r} and {version}")
            if length > MAX_FRAME_PAYLOAD:
                raise ProtocolError(f"a frame's payload is at most {MAX_FRAME_PAYLOAD} bytes, this announces {length}")
            if kind not in FOLLOWS[self._last]:
                named = FRAME_NAMES.get(kind, str(kind))
                raise ProtocolError(f"{named} can't follow {FRAME_NAMES.get(self._last, 'the start')}")
            if length and kind in (HELLO, BYE):
                raise ProtocolError(f"{FRAME_NAMES[kind]} has no payload, this announces {length} bytes")
            end = FRAME_HEAD.size + length
            if len(self._buffer) < end:
                return
            payload, self._buffer = self._buffer[FRAME_HEAD.size : end], self._buffer[end:]
            self._last = kind
            yield Frame(kind, payload)
