"""A stand-in for the API worker: a listener, the record, and calls of a serving runner."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from runner.protocol import PROFILE_FILES_SERVER, PROFILE_SERVER
from runner.protocol.call import ANSWER_HEAD, MARK, RETIRE_BYTES, Answer, answer_length, decode_answer, encode_call
from runner.protocol.control import ABI_EXPORT, ABI_WAGI, Serve, encode_serve
from runner.protocol.record import RECORD_BYTES, RETIRE, WORDS
from runner.protocol.status import BYE
from tests.runner.zygote_host import DEADLINE_S, F_ADD_SEALS, MIB, Run, ZygoteHost

SEAL_SHRINK, SEAL_GROW = 2, 4
RECORD = 3  # any but the first, so that a wrong offset shows


class Service:
    """One serving runner. `with`: nothing of it is left but its process, which is the zygote host's."""

    def __init__(
        self,
        zygote: ZygoteHost,
        artifact: int,
        path: Path,
        mounts: tuple[tuple[bytes, bytes, bool], ...] = (),
        flags: int = 0,
    ) -> None:
        self.run: Run = zygote.spawn(PROFILE_FILES_SERVER if mounts else PROFILE_SERVER, mounts=mounts)
        self.run.load(artifact, flags=flags)
        self.address = str(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen(63)
        self.stderr = os.memfd_create("stderr")
        fcntl.fcntl(self.stderr, fcntl.F_SETFL, os.O_APPEND)
        self.records = os.memfd_create("records", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.records, (RECORD + 2) * RECORD_BYTES)
        fcntl.fcntl(self.records, F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW)
        self.mapped = mmap.mmap(self.records, 0)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.listener.close()
        self.mapped.close()
        for fd in (self.stderr, self.records):
            os.close(fd)
        os.unlink(self.address)

    def serve(self, abi: int = ABI_WAGI, **options: Any) -> Service:
        settings: dict[str, Any] = {
            "fuel": 10**9,
            "memory_bytes": 64 * MIB,
            "wall_ms": 5_000,
            "output_bytes": MIB,
            "record": RECORD,
        }
        self.run.send(
            encode_serve(Serve(abi, **(settings | options))), [self.listener.fileno(), self.stderr, self.records]
        )
        return self

    def serve_export(self, name: bytes, params: tuple[int, ...], results: tuple[int, ...], **options: Any) -> Service:
        return self.serve(ABI_EXPORT, export=name, params=params, results=results, **options)

    def ready(self) -> Service:
        self.run.ready_layers()
        return self

    def connect(self) -> socket.socket:
        asker = socket.socket(socket.AF_UNIX)
        asker.settimeout(DEADLINE_S)
        try:
            asker.connect(self.address)
        except OSError:
            asker.close()
            raise
        return asker

    def ask(self, body: bytes = b"", *variables: bytes, **options: Any) -> socket.socket:
        """Send a call; its connection, to `hear` the answer on."""
        asker = self.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it reads, if anything, tells why
            asker.sendall(request(body, *variables, **options))
        return asker

    def call(self, body: bytes = b"", *variables: bytes, **options: Any) -> Answer:
        marks, answer = hear(self.ask(body, *variables, **options))
        assert answer is not None, f"it ended without an answer, after {marks} marks"
        return answer

    def export(self, *bits: int, **options: Any) -> list[int]:
        answer = self.call(struct.pack(f"<{len(bits)}Q", *bits), **options)
        assert ("exit", "") == (answer.reason, answer.detail)
        return [bits for (bits,) in struct.iter_unpack("<Q", answer.body)]

    def retire(self) -> None:
        with self.connect() as asker:
            asker.sendall(RETIRE_BYTES)

    def tell_to_end(self) -> None:
        """By its record, as it is told that is at a call."""
        struct.pack_into("<Q", self.mapped, RECORD * RECORD_BYTES + 8 * RETIRE, 1)

    def resident_bytes(self) -> int:
        """Its private memory."""
        status = Path(f"/proc/{self.run.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    def shut(self) -> None:
        self.listener.shutdown(socket.SHUT_RD)

    def record(self) -> list[int]:
        return list(struct.unpack_from(f"<{WORDS}Q", self.mapped, RECORD * RECORD_BYTES))

    def log(self) -> bytes:
        return os.pread(self.stderr, 64 * MIB, 0)

    def finish(self) -> tuple[int, bool]:
        """Its exit code, and whether it said BYE."""
        code = self.run.finish()
        return code, BYE in [kind for kind, _ in self.run.frames]


def request(
    body: bytes = b"", *variables: bytes, fuel: int = 10**9, wall_ms: int = 5_000, flags: int = 0, sent_us: int = 0
) -> bytes:
    sent_us = sent_us or time.monotonic_ns() // 1000
    return encode_call(body, list(variables), flags=flags, fuel=fuel, wall_ms=wall_ms, sent_us=sent_us)


def read_all(asker: socket.socket) -> bytes:
    """What comes until the other end closes."""
    data = b""
    with asker, contextlib.suppress(ConnectionResetError):
        while chunk := asker.recv(1 << 20):
            data += chunk
    return data


def hear(asker: socket.socket) -> tuple[int, Answer | None]:
    """How many marks came, and the answer; None where the connection ended without one."""
    data = read_all(asker)
    marks = len(data) - len(data.lstrip(MARK))
    rest = data[marks:]
    if not rest:
        return marks, None
    assert len(rest) == answer_length(rest[: ANSWER_HEAD.size], 64 * MIB)
    return marks, decode_answer(rest)
