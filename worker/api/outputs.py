"""`/tasks/{id}/stdout` and `/stderr`: what a guest wrote, as far as it has, straight from its file.

Guests are not trusted and browsers are eager: nothing here is ever rendered (`sandbox`, `nosniff`, text or bytes).
"""

from __future__ import annotations

import codecs
import os

from falcon.asgi import Request, Response

from worker.api.query import read_query
from worker.api.resource import Resource
from worker.api.services import Services
from worker.api.storing import in_thread
from worker.api.tasks import find_task

PIECE_BYTES = 256 * 1024
SMALL_BYTES = 64 * 1024  # read at once: the way to a thread and back takes longer
_TEXT, _BYTES = "text/plain; charset=utf-8", "application/octet-stream"
_HEADERS = {
    "content-security-policy": "sandbox",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Output(Resource):
    """GET streams one stream of a task. `which`: 0 stdout, 1 stderr."""

    scopes = {"GET": "read"}  # noqa: RUF012 - as Resource declares it

    def __init__(self, services: Services, which: int) -> None:
        self._services = services
        self._which = which

    async def on_get(self, req: Request, resp: Response, task_id: str) -> None:
        read_query(req.scope["query_string"], ())
        find_task(self._services, task_id)
        path = self._services.blobs.output_paths(task_id)[self._which]
        resp.set_headers(_HEADERS)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # it hasn't begun, or retention was quicker than we
            find_task(self._services, task_id)
            resp.data, resp.content_type = b"", _TEXT
            return
        output = FileStream(fd)
        try:
            first = await output.next_piece()
        except BaseException:
            await output.close()
            raise
        resp.content_type = _TEXT if is_text(first) else _BYTES
        if len(first) == output.size_bytes:
            await output.close()
            resp.data = first
        else:
            output.rewind()
            resp.content_length = output.size_bytes
            if req.method == "HEAD":
                await output.close()
            else:
                resp.stream = output


class FileStream:
    """A file from its start to the size that it had when it was opened, in pieces, for Falcon to send.

    Raises OSError where it got shorter: the length was announced, so the connection has to break.
    """

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        self._fd = fd
        self._position = 0
        self.size_bytes = os.fstat(fd).st_size

    async def next_piece(self) -> bytes:
        """The next piece, empty at the end."""
        wanted = min(PIECE_BYTES, self.size_bytes - self._position)
        if wanted <= 0:
            return b""
        if self.size_bytes <= SMALL_BYTES:
            data = os.pread(self._fd, wanted, self._position)
        else:
            data = await in_thread(os.pread, self._fd, wanted, self._position)
        if not data:
            raise OSError(f"an output of {self.size_bytes} bytes ended at {self._position}")
        self._position += len(data)
        return data

    def rewind(self) -> None:
        self._position = 0

    def __aiter__(self) -> FileStream:
        return self

    async def __anext__(self) -> bytes:
        data = await self.next_piece()
        if not data:
            raise StopAsyncIteration
        return data

    async def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_text(beginning: bytes) -> bool:
    """Whether what begins so is UTF-8 without NUL; a character that is cut off at the end doesn't tell."""
    if b"\0" in beginning:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return True
