"""**Calls**, between an API worker and a runner, a byte stream on a Unix socket: one connection is one call.

CALL     CALL_HEAD, variables, body      API worker to runner; then it reads to the end
RETIRE   CALL_HEAD                       coordinator to whichever runner takes it: end; no answer, but the close
MARK     one byte                        runner to API worker, once a call runs longer than a tick of the epoch
ANSWER   ANSWER_HEAD, detail, body       runner to API worker; then it closes

Variables are `NAME=value`, each ended by a NUL. A call's body is the guest's stdin (wagi), or the raw 64 bits of each
parameter (export); an answer's is the guest's stdout, or the raw 64 bits of each result.

A runner starts nothing before the whole request is read and the other end still is there: an API worker that gives up
shuts its side down, asks how much is unread (SIOCOUTQ), and where anything is, nothing was executed nor will be. What
comes from a runner is hostile input.
"""

from __future__ import annotations

import struct

from runner.errors import ProtocolError
from runner.protocol import MAX_DETAIL_BYTES
from runner.protocol.status import NO_TRAP, REASONS, TRAP_CODES
from runner.protocol.strings import unpack_head

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from typing import Any

MAGIC = b"gC"
VERSION = 1
CALL, RETIRE = 1, 2
MARK = b"+"

FLAG_CANCEL = 1  # the guest is stopped when the API worker closes: the service says on_disconnect cancel
FLAG_EXIT_CODE = 1

# magic, version, kind, whole length, flags, fuel, wall_ms, sent_us (CLOCK_MONOTONIC), variables, their bytes
CALL_HEAD = struct.Struct("<2sBBIIQIQII")
# magic, version, reason, whole length, trap code, flags, detail bytes, exit code, fuel, queue, init, run us, memory
ANSWER_HEAD = struct.Struct("<2sBBIBBHiQQQQQ")

RETIRE_BYTES = CALL_HEAD.pack(MAGIC, VERSION, RETIRE, CALL_HEAD.size, 0, 0, 0, 0, 0, 0)
EXIT = REASONS.index("exit")


class Call:
    """One call as its runner reads it. `variables` are b"NAME=value"; `sent_us` when it was sent (CLOCK_MONOTONIC)."""

    __slots__ = ("body", "flags", "fuel", "sent_us", "variables", "wall_ms")

    def __init__(
        self, flags: int, fuel: int, wall_ms: int, sent_us: int, variables: tuple[bytes, ...], body: bytes
    ) -> None:
        self.flags = flags
        self.fuel = fuel
        self.wall_ms = wall_ms
        self.sent_us = sent_us
        self.variables = variables
        self.body = body


class Answer:
    """How one call ended. `reason` is one of REASONS, `trap_code` one of TRAP_CODES or None; times in microseconds."""

    __slots__ = (
        "body",
        "detail",
        "exit_code",
        "fuel_used",
        "init_us",
        "peak_memory_bytes",
        "queue_us",
        "reason",
        "run_us",
        "trap_code",
    )

    def __init__(
        self,
        reason: str,
        body: bytes,
        *,
        trap_code: str | None = None,
        exit_code: int | None = None,
        fuel_used: int = 0,
        queue_us: int = 0,
        init_us: int = 0,
        run_us: int = 0,
        peak_memory_bytes: int = 0,
        detail: str = "",
    ) -> None:
        self.reason = reason
        self.body = body
        self.trap_code = trap_code
        self.exit_code = exit_code
        self.fuel_used = fuel_used
        self.queue_us = queue_us
        self.init_us = init_us
        self.run_us = run_us
        self.peak_memory_bytes = peak_memory_bytes
        self.detail = detail


def encode_call(body: bytes, variables: list[bytes], *, flags: int = 0, fuel: int, wall_ms: int, sent_us: int) -> bytes:
    """CALL's bytes. `variables` must have no NUL: whoever makes them sees to it."""
    block = b"\0".join(variables) + b"\0" if variables else b""
    return encode_call_block(body, block, len(variables), flags, fuel, wall_ms, sent_us)


def encode_call_block(
    body: bytes, block: bytes, count: int, flags: int, fuel: int, wall_ms: int, sent_us: int
) -> bytes:
    """The same, for `count` variables that are one block already."""
    whole = CALL_HEAD.size + len(block) + len(body)
    head = CALL_HEAD.pack(MAGIC, VERSION, CALL, whole, flags, fuel, wall_ms, sent_us, count, len(block))
    return head + block + body


def call_length(start: bytes | memoryview) -> int:
    """The length of the whole message whose first bytes (CALL_HEAD.size at least) these are.

    Raises:
        ProtocolError: not the head of a call.
    """
    return checked_length(CALL_HEAD.unpack_from(start))


def checked_length(fields: tuple[Any, ...]) -> int:
    """The same of CALL_HEAD's fields."""
    magic, version, kind, whole = fields[:4]
    if magic != MAGIC or version != VERSION or kind not in (CALL, RETIRE) or whole < CALL_HEAD.size:
        raise ProtocolError(f"no call of version {VERSION} begins with {fields[:4]}")
    length: int = whole
    return length


def decode_call(message: bytes) -> Call | None:
    """A whole message; None for RETIRE.

    Raises:
        ProtocolError: its parts aren't as long as it says.
    """
    fields = CALL_HEAD.unpack_from(message)
    _, _, kind, whole, flags, fuel, wall_ms, sent_us, _, _ = fields
    if whole != len(message):
        raise ProtocolError(f"a call says that it has {whole} bytes, and has {len(message)}")
    if kind == RETIRE:
        return None
    block, body = call_parts(fields, memoryview(message))
    return Call(flags, fuel, wall_ms, sent_us, tuple(block.split(b"\0")[:-1]), bytes(body))


def call_parts(fields: tuple[Any, ...], message: memoryview) -> tuple[bytes, memoryview]:
    """The variables (each ended by a NUL) and the body of a whole CALL, `fields` being its head's.

    Raises:
        ProtocolError: the variables aren't as many or as long as it says.
    """
    count, size = fields[8:]
    body_at = CALL_HEAD.size + size
    block = bytes(message[CALL_HEAD.size : body_at])
    if len(block) != size or block.count(b"\0") != count or (size and block[-1]):
        raise ProtocolError(f"a call announces {count} variables in {size} bytes, and has others")
    return block, message[body_at:]


def encode_answer(answer: Answer) -> bytes:
    """ANSWER's bytes; a longer detail is cut."""
    detail = answer.detail.encode("utf-8", "replace")[:MAX_DETAIL_BYTES]
    head = ANSWER_HEAD.pack(
        MAGIC,
        VERSION,
        REASONS.index(answer.reason),
        ANSWER_HEAD.size + len(detail) + len(answer.body),
        NO_TRAP if answer.trap_code is None else TRAP_CODES.index(answer.trap_code),
        0 if answer.exit_code is None else FLAG_EXIT_CODE,
        len(detail),
        answer.exit_code or 0,
        answer.fuel_used,
        answer.queue_us,
        answer.init_us,
        answer.run_us,
        answer.peak_memory_bytes,
    )
    return head + detail + answer.body


def answer_length(start: bytes, most: int) -> int:
    """The length of the whole answer whose first bytes (ANSWER_HEAD.size at least) these are; hostile input.

    Args:
        most: the longest body that the service may answer.

    Raises:
        ProtocolError: not the head of an answer, or of one that is too long.
    """
    magic, version, _, whole, _, _, detail_bytes = ANSWER_HEAD.unpack_from(start)[:7]
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(f"no answer of version {VERSION} begins with {start[:8]!r}")
    if not ANSWER_HEAD.size + detail_bytes <= whole <= ANSWER_HEAD.size + detail_bytes + most:
        raise ProtocolError(f"an answer says {whole} bytes with a detail of {detail_bytes}; its body may have {most}")
    length: int = whole
    return length


def decode_answer(message: bytes) -> Answer:
    """A whole answer, whose length `answer_length` has checked; hostile input.

    Raises:
        ProtocolError: not as long as it says, or with a reason, a trap code or a flag that there isn't.
    """
    fields = unpack_head(ANSWER_HEAD, message, "an answer")
    _, _, reason, whole, trap, flags, detail_bytes, exit_code, fuel, queue_us, init_us, run_us, memory = fields
    if whole != len(message):
        raise ProtocolError(f"an answer says that it has {whole} bytes, and has {len(message)}")
    if reason >= len(REASONS) or (trap != NO_TRAP and trap >= len(TRAP_CODES)) or flags & ~FLAG_EXIT_CODE:
        raise ProtocolError(f"an answer has reason {reason}, trap code {trap}, flags {flags:#x}: one is unknown")
    if detail_bytes > MAX_DETAIL_BYTES:
        raise ProtocolError(f"a detail has at most {MAX_DETAIL_BYTES} bytes, this says {detail_bytes}")
    body_at = ANSWER_HEAD.size + detail_bytes
    return Answer(
        REASONS[reason],
        message[body_at:],
        trap_code=None if trap == NO_TRAP else TRAP_CODES[trap],
        exit_code=exit_code if flags & FLAG_EXIT_CODE else None,
        fuel_used=fuel,
        queue_us=queue_us,
        init_us=init_us,
        run_us=run_us,
        peak_memory_bytes=memory,
        detail=message[ANSWER_HEAD.size : body_at].decode("utf-8", "replace"),
    )
