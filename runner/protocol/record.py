"""**Records**, in shared memory: what a serving runner is doing. Untrusted by the coordinator, and never waited on.

One memfd, sealed against a change of its size, with a page for each runner slot. A runner maps its own page and closes
the memfd before any tenant's code runs; the coordinator maps them all. Each figure is one aligned 8-byte store.

u64[0]  busy_since_us     CLOCK_MONOTONIC at which the call was read; 0: none runs
u64[1]  deadline_us       by when it should be over, its alarm included
u64[2]  calls             that were answered
u64[3]  retire            the coordinator's word, the only one: not 0 where the runner is to end after its call
"""

from __future__ import annotations

import os

RECORD_BYTES = os.sysconf("SC_PAGE_SIZE")  # what is mapped apart can't be reached by a neighbour
BUSY_SINCE, DEADLINE, CALLS, RETIRE = range(4)
WORDS = 4
