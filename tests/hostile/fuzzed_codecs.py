"""What decodes bytes that a hostile runner, guest, fetcher or API worker could send, each as its reader does it.

`DECODERS` by name: each takes any bytes whatever, and raises nothing: what is wrong with them it tells by the one error
that it may raise, which is taken here. `test_fuzz.py` gives them messages that were changed, `fuzz_atheris.py` what a
fuzzer finds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from runner.errors import ProtocolError
from runner.module_caps import Caps
from runner.protocol import call, control, spawn, status
from worker.api.problems import Problem
from worker.api.wagi import Wagi
from worker.coordinator import fetch_wire
from worker.errors import ChannelError, FetchError
from worker.shared import channel_codec

Decoder = Callable[[bytes], object]
# What must not reach a client whatever a guest says; and what no line of a header may have.
KEPT_BACK = frozenset((b"content-length", b"transfer-encoding", b"connection", b"x-accel-redirect"))
_FETCHED = fetch_wire.FetchRequest("http://a.example/", None, 100, 1.0, Caps())
_FRAMES: dict[int, Decoder] = {
    status.READY: status.decode_ready,
    status.STARTED: status.decode_started,
    status.OUTCOME: status.decode_outcome,
}


def _read_status(data: bytes) -> None:
    reader = status.StatusReader()
    for at in range(0, len(data), 7):
        for frame in reader.feed(data[at : at + 7]):
            _FRAMES.get(frame.kind, bytes)(frame.payload)


def _with_its_length(data: bytes) -> bytes:
    """A call or an answer that tells the length that it has, so that what comes after that is looked at too."""
    return data[:4] + len(data).to_bytes(4, "little") + data[8:]


def _read_call(data: bytes) -> None:
    """As a runner does: the head first, then as much as that says."""
    if len(data) >= call.CALL_HEAD.size and call.call_length(data) == len(data):
        call.decode_call(data)


def _read_answer(data: bytes) -> None:
    """As an API worker does."""
    if len(data) >= call.ANSWER_HEAD.size and call.answer_length(data, 1 << 20) == len(data):
        call.decode_answer(data)


def _read_page(data: bytes) -> None:
    """What a guest answers, as it reaches a client."""
    status_code, fields, _ = Wagi.response(call.Answer("exit", data))
    assert 200 <= status_code <= 599
    assert [] == [name for name, value in fields if name in KEPT_BACK or set(name + value) & {0, 10, 13}]


def _survives(decode: Decoder, *errors: type[Exception]) -> Decoder:
    def decoded(data: bytes) -> None:
        with contextlib.suppress(*errors):
            decode(data)

    return decoded


_PROTOCOL: dict[str, Decoder] = {
    "status": _read_status,
    "load": control.decode_load,
    "job": control.decode_job,
    "serve": control.decode_serve,
    "compile": control.decode_compile,
    "call": _read_call,
    "whole call": lambda data: _read_call(_with_its_length(data)),
    "answer": _read_answer,
    "whole answer": lambda data: _read_answer(_with_its_length(data)),
    "spawn": spawn.decode_spawn,
    "spawned": spawn.decode_spawned,
}
DECODERS: dict[str, Decoder] = {
    **{name: _survives(decode, ProtocolError) for name, decode in _PROTOCOL.items()},
    "command": _survives(channel_codec.decode_command, ChannelError),
    "reply": _survives(channel_codec.decode_reply, ChannelError),
    "page": _survives(_read_page, Problem),
    "fetched": _survives(lambda data: fetch_wire.decode_answer(data, _FETCHED), FetchError),
}
