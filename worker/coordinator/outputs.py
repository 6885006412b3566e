"""The files of tasks that are out of the table: removed in the background, and swept when a crash has left some."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from worker.coordinator.background import Background
from worker.errors import TableError
from worker.shared.blobs import OUTPUT_SHARDS, Blobs
from worker.shared.table import TableReader


class Outputs:
    """
    Args:
        reader: used by the background's thread alone from now on.
    """

    def __init__(self, blobs: Blobs, reader: TableReader, background: Background) -> None:
        self._blobs = blobs
        self._reader = reader
        self._background = background
        self.swept = 0

    def remove(self, task_ids: tuple[str, ...]) -> None:
        """The output of these goes; who reads it has it open, and reads on."""

        def work() -> None:
            for task_id in task_ids:
                for path in self._blobs.output_paths(task_id):
                    with suppress(OSError):  # what stays is swept at the next start
                        path.unlink(missing_ok=True)

        self._background.submit(work, lambda _: None)

    def sweep(self) -> None:
        """Once, after a start: what belongs to no task goes, one directory after another, others' work in between."""
        self._sweep(list(OUTPUT_SHARDS))

    def _sweep(self, shards: list[str]) -> None:
        shard = shards.pop()

        def then(swept: Any) -> None:
            if isinstance(swept, int):
                self.swept += swept
            if shards:
                self._sweep(shards)

        self._background.submit(lambda: self._sweep_one(shard), then)

    def _sweep_one(self, shard: str) -> int:
        # A file is made after its task's row: what is listed and has none has none any more.
        listed = self._blobs.listed_outputs(shard)
        known: Callable[[list[str]], set[str]] = self._reader.known
        try:
            orphans = set(listed) - known(list(listed))
        except TableError:  # whoever needs the table tells what it has
            return 0
        for task_id in orphans:
            for path in listed[task_id]:
                path.unlink(missing_ok=True)
        return sum(len(listed[task_id]) for task_id in orphans)
