"""What the machine lacks for the moment: processes, descriptors, memory, room on the disk. Another try may have it."""

from __future__ import annotations

import errno

# A task isn't ended for what may be there again in a moment.
PASSING = frozenset(
    (
        *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS),
        *(errno.ENOSPC, errno.EDQUOT),
    )
)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.01, 0.5
# Where no deadline of the task's own bounds the tries.
PATIENCE_S = 5.0


def is_passing(error: BaseException) -> bool:
    """Of an OSError, and of whatever else has its `errno`."""
    return getattr(error, "errno", 0) in PASSING


class Tries:
    """How often something was tried in vain, and how long to wait before the next try: twice as long each time."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._next_s = FIRST_WAIT_S

    def next_wait_s(self) -> float:
        wait_s = self._next_s
        self.waited_s += wait_s
        self._next_s = min(2 * wait_s, LONGEST_WAIT_S)
        return wait_s

    @property
    def over(self) -> bool:
        """Whether it was tried for PATIENCE_S."""
        return self.waited_s >= PATIENCE_S

    def told(self, detail: str) -> str:
        """The failure in words, with what was done about it."""
        return f"{detail}; tried again for {self.waited_s:.1f} s" if self.waited_s else detail
