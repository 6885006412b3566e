"""Descriptors 0 to 2: stdin from memory; stdout and stderr straight to the host's descriptors, each up to its cap.

A call's stdout is kept in memory, up to its cap. Its stderr goes to a file that all calls share, and what that takes no
more of is dropped: a function does not fail for its log.
"""

from __future__ import annotations

import os
from struct import Struct

from runner import wasi_abi as abi

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs every fork of the zygote its page faults
    from runner.wasi_abi import Words
    from runner.wasi_memory import GuestMemory

_FDSTAT = Struct("<BxHxxxxQQ")
_FILESTAT = Struct("<QQB7xQQQQQ")
_STREAM_FILESTAT = _FILESTAT.pack(0, 0, abi.FILETYPE_UNKNOWN, 0, 0, 0, 0, 0)
_STANDARD = {abi.STDIN: abi.STDIN, abi.STDOUT: abi.STDOUT, abi.STDERR: abi.STDERR}
_MAX_U32 = 0xFFFFFFFF


class Streams:
    """What a guest's descriptors stand for, and how much each stream may still take.

    `descriptors` maps the guest's number to a stream, for it may close and renumber them. `truncated` holds the
    streams that were cut at their cap: one in it means that the guest has to end. `collected` is a call's stdout so
    far, None for a job.
    """

    __slots__ = (
        *("_memory", "_outputs", "_room", "_stdin", "_stdin_position"),
        *("collected", "descriptors", "truncated"),
    )

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.descriptors: dict[int, int] = {}
        self.truncated: set[int] = set()
        self.begin(b"", (-1, -1), 0)

    def begin(self, stdin: bytes, outputs: tuple[int, int], output_bytes: int) -> None:
        self.collected: bytearray | None = None
        self._begin(stdin, output_bytes)
        self._outputs = {abi.STDOUT: outputs[0], abi.STDERR: outputs[1]}

    def begin_call(self, stdin: bytes | memoryview, stderr_fd: int, output_bytes: int) -> None:
        self.collected = bytearray()
        self._begin(stdin, output_bytes)
        self._outputs = {abi.STDERR: stderr_fd}

    def _begin(self, stdin: bytes | memoryview, output_bytes: int) -> None:
        if self.descriptors != _STANDARD:
            self.descriptors.clear()
            self.descriptors.update(_STANDARD)
        self.truncated.clear()
        self._stdin: bytes | memoryview = stdin
        self._stdin_position = 0
        self._room = {abi.STDOUT: output_bytes, abi.STDERR: output_bytes}

    def end(self) -> None:
        self._stdin = b""
        self.collected = None

    def fd_write(self, words: Words) -> int:
        fd, iovecs_at, count, written_at = words[0], words[4], words[8], words[12]
        buffers = self._memory.buffers(iovecs_at, count)
        stream = self.descriptors.get(fd, abi.STDIN)
        if stream == abi.STDIN:
            return abi.EBADF
        self._memory.need(written_at, 4)
        errno, written = self._emit(stream, buffers)
        self._memory.put_u32(written_at, written)
        return errno

    def _emit(self, stream: int, buffers: list[tuple[int, int]]) -> tuple[int, int]:
        """Write buffers to a stream as far as its room reaches: (errno, bytes written)."""
        room = self._room[stream]
        at = self._memory.at
        if len(buffers) == 1:
            address, length = buffers[0]
            data: bytes | memoryview = at(address, min(length, room))
            wanted = length
        else:
            wanted = 0
            parts = []
            for address, length in buffers:
                if wanted < room:
                    parts.append(at(address, min(length, room - wanted)))
                wanted += length
            data = b"".join(parts)
        if self.collected is not None:
            return self._emit_in_call(stream, data, wanted)
        errno, written = _write_all(self._outputs[stream], data) if len(data) else (abi.SUCCESS, 0)
        self._room[stream] = room - written
        if wanted > room and errno == abi.SUCCESS:
            self.truncated.add(stream)
        return errno, written

    def _emit_in_call(self, stream: int, data: bytes | memoryview, wanted: int) -> tuple[int, int]:
        """The same for a call, whose `wanted` bytes were cut to the stream's room."""
        if stream == abi.STDERR:
            if len(data):
                _write_all(self._outputs[stream], data)
            return abi.SUCCESS, min(wanted, _MAX_U32)  # all of it is gone, wherever to
        assert self.collected is not None
        self.collected += data
        self._room[stream] -= len(data)
        if wanted > len(data):
            self.truncated.add(stream)
        return abi.SUCCESS, len(data)

    def fd_read(self, words: Words) -> int:
        fd, iovecs_at, count, read_at = words[0], words[4], words[8], words[12]
        buffers = self._memory.buffers(iovecs_at, count)
        if self.descriptors.get(fd) != abi.STDIN:
            return abi.EBADF
        self._memory.need(read_at, 4)
        start = position = self._stdin_position
        for address, length in buffers:
            data = self._stdin[position : position + length]
            self._memory.put(address, data)
            position += len(data)
            if len(data) < length:
                break
        self._stdin_position = position
        self._memory.put_u32(read_at, position - start)
        return abi.SUCCESS

    def fd_pread(self, words: Words) -> int:
        return self._positioned(words, abi.STDIN)

    def fd_pwrite(self, words: Words) -> int:
        return self._positioned(words, abi.STDOUT, abi.STDERR)

    def _positioned(self, words: Words, *streams: int) -> int:
        self._memory.buffers(words[4], words[8])
        return abi.ESPIPE if self.descriptors.get(words[0]) in streams else abi.EBADF

    def fd_seek(self, words: Words) -> int:
        if words[8] >= abi.WHENCES:
            return abi.EINVAL
        return self.fd_tell(words)

    def fd_tell(self, words: Words) -> int:
        return abi.ESPIPE if words[0] in self.descriptors else abi.EBADF

    def fd_close(self, words: Words) -> int:
        return abi.EBADF if self.descriptors.pop(words[0], None) is None else abi.SUCCESS

    def fd_renumber(self, words: Words) -> int:
        source, target = words[0], words[4]
        if source not in self.descriptors or target not in self.descriptors:
            return abi.EBADF
        if source != target:
            self.descriptors[target] = self.descriptors.pop(source)
        return abi.SUCCESS

    def fd_fdstat_get(self, words: Words) -> int:
        stream = self.descriptors.get(words[0])
        if stream is None:
            return abi.EBADF
        rights = abi.RIGHT_FD_READ if stream == abi.STDIN else abi.RIGHT_FD_WRITE
        self._memory.put(words[4], _FDSTAT.pack(abi.FILETYPE_UNKNOWN, 0, rights, rights))
        return abi.SUCCESS

    def fd_filestat_get(self, words: Words) -> int:
        if words[0] not in self.descriptors:
            return abi.EBADF
        self._memory.put(words[4], _STREAM_FILESTAT)
        return abi.SUCCESS

    def fd_prestat_dir_name(self, words: Words) -> int:
        return abi.ENOTDIR if words[0] in self.descriptors else abi.EBADF


def _write_all(fd: int, data: bytes | memoryview) -> tuple[int, int]:
    """Write all of `data`: (errno, bytes written). An error after some bytes is told by the next call."""
    view = memoryview(data)
    position = 0
    while position < len(view):
        try:
            position += os.write(fd, view[position:])
        except OSError as exc:
            if position:
                break
            return abi.FROM_HOST.get(exc.errno or 0, abi.EIO), 0
    return abi.SUCCESS, position
