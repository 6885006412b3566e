"""Writing blobs from the loop: in threads, within a token's quota, and with a full disk told from a broken one."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from worker.api.problems import Problem, internal
from worker.api.services import Services

P = ParamSpec("P")
T = TypeVar("T")

_FULL = (errno.ENOSPC, errno.EDQUOT)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread`, but whoever is cancelled leaves only when the thread has.

    Else the caller would close a file that the thread still writes to, and somebody else may have its number by then.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError:
                continue
        if not running.cancelled():
            running.exception()  # read, so that asyncio doesn't complain of it
        raise


@contextmanager
def storing() -> Iterator[None]:
    """What a disk or the system refuses becomes a Problem within. Raises: Problem: storage_full, internal."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _FULL:
            raise internal(exc, "storing a blob", executed="no") from exc
        raise Problem("storage_full", "the worker's disk is full; free some of it, or ask another worker") from exc


def check_quota(services: Services, token: str, new_bytes: int) -> None:
    """Raises: Problem: storage_full, where a token has more than it may with so many bytes on top."""
    allowed = services.config.max_stored_bytes_per_token
    stored = services.reader.usage(token).stored_bytes
    if stored + new_bytes > allowed:
        detail = f"this token has {stored} bytes stored and may have {allowed}; {new_bytes} more don't fit"
        raise Problem("storage_full", detail)
