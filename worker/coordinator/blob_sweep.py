"""What a dead API worker or fetcher was writing is removed while the coordinator lives."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from worker.coordinator.background import Background
from worker.errors import BadName
from worker.shared.blobs import Blobs

# A blob that was made this moment may not be locked yet.
BLOB_GRACE_S = 1.0


class BlobSweep:
    """Lists in the background what nobody holds, and judges in the loop, afterwards, what nobody names either.

    A writer lets go of a blob in the turn of the loop in which its name comes to what is on its way to the disk, or
    holds it until it was told that it is there: what is listed and isn't wanted later has no writer, or its final name.

    Args:
        wanted: names of those that are on their way to the disk.
    """

    def __init__(self, blobs: Blobs, background: Background, wanted: Callable[[], Collection[str]]) -> None:
        self._blobs = blobs
        self._background = background
        self._wanted = wanted

    def begin(self) -> None:
        self._background.submit(partial(self._blobs.unclaimed, BLOB_GRACE_S), self._judge)

    def _judge(self, found: Any) -> None:
        if not isinstance(found, list):  # an OSError: the next sweep looks again
            return
        wanted = self._wanted()
        left = [name for name in found if name not in wanted]
        if left:
            self._background.submit(partial(self._drop, left), lambda _: None)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            with suppress(BadName):  # not ours: the audit names it
                self._blobs.drop_temporary(name)
