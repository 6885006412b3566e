"""**Control**, coordinator to runner, SOCK_SEQPACKET (the runner's fd 3), one message each, trusted.

LOAD  u8 kind, u8 flags, u64 memory_bytes, u32 cpu_s             fds: artifact (a sealed memfd)
JOB   u8 kind, JOB_HEAD, strings                                 fds: stdout, stderr, then stdin if FLAG_STDIN
COMPILE u8 kind, u64 job_id, u64 module_bytes                    fds: module (read), artifact (memfd, written)
SERVE u8 kind, SERVE_HEAD, strings                               fds: listener, stderr, records (a sealed memfd)
STOP  u8 kind                                                    interrupt the job that runs now
EOF                                                              say BYE and end

A server reads nothing after SERVE: it is told to end by a call (`runner.protocol.call`) or its record.
"""

from __future__ import annotations

import struct

from runner.errors import ProtocolError
from runner.protocol.strings import pack_binding, pack_strings, unpack, unpack_binding, unpack_head, unpack_strings

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from collections.abc import Iterable

# A SEQPACKET message must fit the default socket buffer (212,992 bytes) with the kernel's own overhead.
MAX_CONTROL_BYTES = 192 * 1024

LOAD, JOB, COMPILE, STOP = range(16, 20)
SERVE = 23  # 20 to 22 are the zygote's (runner.protocol.spawn)

ABI_WAGI, ABI_EXPORT = range(2)

ENTRY_COMMAND, ENTRY_EXPORT = range(2)
FLAG_STDIN = 1
FLAG_STUB_IMPORTS = 2
FLAG_ONE_JOB = 4  # LOAD: say BYE and end after the first job, without waiting for EOF
FLAG_TRY_INSTANCE = 8  # LOAD: a server makes one instance before READY, and drops it

_LOAD = struct.Struct("<BBQI")
# kind, job_id, entry, flags, fuel, memory_bytes, wall_ms, output_bytes, then five counted blocks
_JOB = struct.Struct("<BQBBQQIQ")
# kind, abi, fuel, memory_bytes, wall_ms, output_bytes, reuse calls and bytes, recycle calls and CPU us, record,
# then five counted blocks
_SERVE = struct.Struct("<BBQQIQIQIQI")
_COMPILE = struct.Struct("<BQQ")
_VALUE = struct.Struct("<BQ")


class Load:
    """LOAD: seal for good around the artifact that comes with it. `flags`: FLAG_STUB_IMPORTS and those for LOAD."""

    __slots__ = ("cpu_s", "flags", "memory_bytes")

    def __init__(self, memory_bytes: int, cpu_s: int, flags: int = 0) -> None:
        self.memory_bytes = memory_bytes
        self.cpu_s = cpu_s
        self.flags = flags


class Job:
    """JOB: what one instance runs, and within which limits.

    `entry` is ENTRY_COMMAND or ENTRY_EXPORT; `export` the name then, `params` tuples of (value kind, raw 64 bits).
    `args` holds argv[0] too. `preopens` are (path in the chroot, guest path, read-only) for PROFILE_FILES.
    """

    __slots__ = (
        "args",
        "entry",
        "env",
        "export",
        "flags",
        "fuel",
        "job_id",
        "memory_bytes",
        "output_bytes",
        "params",
        "preopens",
        "wall_ms",
    )

    def __init__(
        self,
        job_id: int,
        *,
        entry: int = ENTRY_COMMAND,
        flags: int = 0,
        fuel: int,
        memory_bytes: int,
        wall_ms: int,
        output_bytes: int,
        export: bytes = b"_start",
        params: tuple[tuple[int, int], ...] = (),
        args: tuple[bytes, ...] = (),
        env: tuple[bytes, ...] = (),
        preopens: tuple[tuple[bytes, bytes, bool], ...] = (),
    ) -> None:
        self.job_id = job_id
        self.entry = entry
        self.flags = flags
        self.fuel = fuel
        self.memory_bytes = memory_bytes
        self.wall_ms = wall_ms
        self.output_bytes = output_bytes
        self.export = export
        self.params = params
        self.args = args
        self.env = env
        self.preopens = preopens


class Serve:
    """SERVE: answer the calls on the listener until told to end.

    `abi` is ABI_WAGI or ABI_EXPORT; `export` the name then, `params` and `results` its value kinds. Limits are those of
    each call. An instance answers up to `reuse_calls` calls and is dropped past `reuse_memory_bytes`; the process ends
    after `recycle_calls` calls or `recycle_cpu_us` of CPU time. `record` is its page in the records' memfd.
    """

    __slots__ = (
        "abi",
        "args",
        "env",
        "export",
        "fuel",
        "memory_bytes",
        "output_bytes",
        "params",
        "preopens",
        "record",
        "recycle_calls",
        "recycle_cpu_us",
        "results",
        "reuse_calls",
        "reuse_memory_bytes",
        "wall_ms",
    )

    def __init__(
        self,
        abi: int,
        *,
        fuel: int,
        memory_bytes: int,
        wall_ms: int,
        output_bytes: int,
        record: int,
        reuse_calls: int = 1,
        reuse_memory_bytes: int = 0,
        recycle_calls: int = 100_000,
        recycle_cpu_us: int = 3600 * 1_000_000,
        export: bytes = b"",
        params: tuple[int, ...] = (),
        results: tuple[int, ...] = (),
        args: tuple[bytes, ...] = (),
        env: tuple[bytes, ...] = (),
        preopens: tuple[tuple[bytes, bytes, bool], ...] = (),
    ) -> None:
        self.abi = abi
        self.fuel = fuel
        self.memory_bytes = memory_bytes
        self.wall_ms = wall_ms
        self.output_bytes = output_bytes
        self.record = record
        self.reuse_calls = reuse_calls
        self.reuse_memory_bytes = reuse_memory_bytes
        self.recycle_calls = recycle_calls
        self.recycle_cpu_us = recycle_cpu_us
        self.export = export
        self.params = params
        self.results = results
        self.args = args
        self.env = env
        self.preopens = preopens


def encode_serve(serve: Serve) -> bytes:
    """SERVE's bytes.

    Raises:
        ProtocolError: longer than MAX_CONTROL_BYTES.
    """
    head = _SERVE.pack(
        *(SERVE, serve.abi, serve.fuel, serve.memory_bytes, serve.wall_ms, serve.output_bytes),
        *(serve.reuse_calls, serve.reuse_memory_bytes, serve.recycle_calls, serve.recycle_cpu_us, serve.record),
    )
    signature = bytes(serve.params), bytes(serve.results)
    preopens = [pack_binding(preopen) for preopen in serve.preopens]
    return _message("SERVE", head, (serve.export,), signature, serve.args, serve.env, preopens)


def decode_serve(message: bytes) -> Serve:
    """A Serve from its bytes.

    Raises:
        ProtocolError: cut short, too long, or a block that isn't one.
    """
    head = unpack_head(_SERVE, message, "SERVE")
    _, abi, fuel, memory_bytes, wall_ms, output_bytes, reuse_calls, reuse_bytes, calls, cpu_us, record = head
    blocks, position = unpack_blocks(message, _SERVE.size)
    exports, kinds, args, env, preopens = blocks
    if len(exports) != 1 or len(kinds) != 2 or position != len(message):
        raise ProtocolError("SERVE has one export, its two signatures, and nothing after its preopens")
    return Serve(
        abi,
        fuel=fuel,
        memory_bytes=memory_bytes,
        wall_ms=wall_ms,
        output_bytes=output_bytes,
        record=record,
        reuse_calls=reuse_calls,
        reuse_memory_bytes=reuse_bytes,
        recycle_calls=calls,
        recycle_cpu_us=cpu_us,
        export=exports[0],
        params=tuple(kinds[0]),
        results=tuple(kinds[1]),
        args=args,
        env=env,
        preopens=tuple(unpack_binding(preopen) for preopen in preopens),
    )


def _message(name: str, head: bytes, *blocks: Iterable[bytes]) -> bytes:
    message = head + b"".join([pack_strings(block) for block in blocks])
    if len(message) > MAX_CONTROL_BYTES:
        raise ProtocolError(f"{name} has at most {MAX_CONTROL_BYTES} bytes, this has {len(message)}")
    return message


def unpack_blocks(message: bytes, position: int) -> tuple[list[tuple[bytes, ...]], int]:
    """The five counted blocks that JOB and SERVE end with, and where they end."""
    blocks = []
    for _ in range(5):
        strings, position = unpack_strings(message, position)
        blocks.append(strings)
    return blocks, position


def encode_load(load: Load) -> bytes:
    return _LOAD.pack(LOAD, load.flags, load.memory_bytes, load.cpu_s)


def decode_load(message: bytes) -> Load:
    _, flags, memory_bytes, cpu_s = unpack(_LOAD, message, "LOAD")
    return Load(memory_bytes, cpu_s, flags)


def encode_compile(job_id: int, module_bytes: int) -> bytes:
    return _COMPILE.pack(COMPILE, job_id, module_bytes)


def decode_compile(message: bytes) -> tuple[int, int]:
    """(job_id, module_bytes)."""
    _, job_id, module_bytes = unpack(_COMPILE, message, "COMPILE")
    return job_id, module_bytes


def encode_stop() -> bytes:
    return bytes((STOP,))


def encode_job(job: Job) -> bytes:
    """JOB's bytes.

    Raises:
        ProtocolError: longer than MAX_CONTROL_BYTES.
    """
    head = _JOB.pack(JOB, job.job_id, job.entry, job.flags, job.fuel, job.memory_bytes, job.wall_ms, job.output_bytes)
    params = [_VALUE.pack(kind, bits) for kind, bits in job.params]
    preopens = [pack_binding(preopen) for preopen in job.preopens]
    return _message("JOB", head, (job.export,), params, job.args, job.env, preopens)


def decode_job(message: bytes) -> Job:
    """A Job from its bytes.

    Raises:
        ProtocolError: cut short, too long, or a block that isn't one.
    """
    _, job_id, entry, flags, fuel, memory_bytes, wall_ms, output_bytes = unpack_head(_JOB, message, "JOB")
    blocks, position = unpack_blocks(message, _JOB.size)
    exports, params, args, env, preopens = blocks
    if len(exports) != 1 or position != len(message):
        raise ProtocolError("JOB has one export and nothing after its preopens")
    return Job(
        job_id,
        entry=entry,
        flags=flags,
        fuel=fuel,
        memory_bytes=memory_bytes,
        wall_ms=wall_ms,
        output_bytes=output_bytes,
        export=exports[0],
        params=tuple(_unpack_value(value) for value in params),
        args=args,
        env=env,
        preopens=tuple(unpack_binding(preopen) for preopen in preopens),
    )


def _unpack_value(value: bytes) -> tuple[int, int]:
    kind, bits = unpack(_VALUE, value, "a parameter")
    return kind, bits
