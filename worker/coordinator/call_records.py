"""What serving runners say of themselves in shared memory (`runner.protocol.record`): a page for each runner slot.

Whatever stands there is a guest's word as soon as one has broken out: it is read as figures and as nothing else.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE, RECORD_BYTES, RETIRE, WORDS
from worker.coordinator.memfd import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, create

_WORD_BYTES = 8
_STRIDE = RECORD_BYTES // _WORD_BYTES


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One runner's figures. Times in microseconds; `busy_since_us` (CLOCK_MONOTONIC) is 0 where no call runs."""

    busy_since_us: int = 0
    deadline_us: int = 0
    calls: int = 0


class CallRecords:
    """The records of `slots` runners. `fd` is for the runners: they can change what is in it and not its size."""

    def __init__(self, slots: int) -> None:
        self.fd = create("galago-records")
        try:
            os.ftruncate(self.fd, slots * RECORD_BYTES)
            fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
            self._mapping = mmap.mmap(self.fd, slots * RECORD_BYTES)
        except BaseException:
            os.close(self.fd)
            raise
        self._words = memoryview(self._mapping).cast("Q")

    def close(self) -> None:
        self._words.release()
        self._mapping.close()
        os.close(self.fd)

    def clear(self, slot: int) -> None:
        """Before a slot's next runner is made: nothing of the last one's stays."""
        for word in range(WORDS):
            self._words[slot * _STRIDE + word] = 0

    def retire(self, slot: int) -> None:
        """Tell the slot's runner to end after the call that it is at, or after its next."""
        self._words[slot * _STRIDE + RETIRE] = 1

    def read(self, slot: int) -> CallRecord:
        words, base = self._words, slot * _STRIDE
        return CallRecord(words[base + BUSY_SINCE], words[base + DEADLINE], words[base + CALLS])
