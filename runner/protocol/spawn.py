"""**Spawn**, coordinator to zygote, SOCK_SEQPACKET (the zygote's fd 3), trusted both ways.

SPAWN    u8 kind, u64 request_id, u8 profile, u32 uid, u32 gid, u16 mounts, mounts   fds: control, status
SPAWNED  u8 kind, u64 request_id, i32 pid, i32 errno, step (utf-8)                  fds: pidfd, where errno is 0
BEAT     u8 kind                                                                    zygote to coordinator, 250 ms
"""

from __future__ import annotations

import struct

from runner.errors import ProtocolError
from runner.protocol import MAX_DETAIL_BYTES
from runner.protocol.strings import pack_binding, pack_strings, unpack_binding, unpack_head, unpack_strings

SPAWN, SPAWNED, BEAT = range(20, 23)

# The exit codes of a zygote that lacks a layer which no runner may do without, and wasn't told `allow_unsealed`.
EXIT_WITHOUT = {"no_new_privs": 78, "seccomp": 79}

_SPAWN = struct.Struct("<BQBIIH")
_SPAWNED = struct.Struct("<BQii")


class Spawn:
    """SPAWN: fork one process. `mounts` are (volume name, path within it, read-only), in the order of the preopens."""

    __slots__ = ("gid", "mounts", "profile", "request_id", "uid")

    def __init__(
        self, request_id: int, profile: int, uid: int, gid: int, mounts: tuple[tuple[bytes, bytes, bool], ...] = ()
    ) -> None:
        self.request_id = request_id
        self.profile = profile
        self.uid = uid
        self.gid = gid
        self.mounts = mounts


class Spawned:
    """SPAWNED: the answer to one SPAWN. `errno` 0 means that `pid` lives and its pidfd came along."""

    __slots__ = ("errno", "pid", "request_id", "step")

    def __init__(self, request_id: int, pid: int, errno: int = 0, step: str = "") -> None:
        self.request_id = request_id
        self.pid = pid
        self.errno = errno
        self.step = step


def encode_spawn(spawn: Spawn) -> bytes:
    mounts = [pack_binding(mount) for mount in spawn.mounts]
    head = _SPAWN.pack(SPAWN, spawn.request_id, spawn.profile, spawn.uid, spawn.gid, len(mounts))
    return head + pack_strings(mounts)


def decode_spawn(message: bytes) -> Spawn:
    _, request_id, profile, uid, gid, count = unpack_head(_SPAWN, message, "SPAWN")
    mounts, end = unpack_strings(message, _SPAWN.size)
    if len(mounts) != count or end != len(message):
        raise ProtocolError(f"SPAWN announces {count} mounts and has {len(mounts)}, and nothing after them")
    return Spawn(request_id, profile, uid, gid, tuple(unpack_binding(mount) for mount in mounts))


def encode_spawned(spawned: Spawned) -> bytes:
    head = _SPAWNED.pack(SPAWNED, spawned.request_id, spawned.pid, spawned.errno)
    return head + spawned.step.encode()[:MAX_DETAIL_BYTES]


def decode_spawned(message: bytes) -> Spawned:
    _, request_id, pid, errno = unpack_head(_SPAWNED, message, "SPAWNED")
    return Spawned(request_id, pid, errno, message[_SPAWNED.size :].decode("utf-8", "replace"))
