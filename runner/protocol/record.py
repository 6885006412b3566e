"""**Records**, runner to coordinator: what a serving runner is doing, in shared memory. Untrusted, and never waited on.

One memfd, sealed against a change of its size, with a page for each runner slot. A runner maps its own page and closes
the memfd before any tenant's code runs; the coordinator maps them all. Each figure is one aligned 8-byte store.

u64[0]  busy_since_us     CLOCK_MONOTONIC at which the call was read; 0: none runs
u64[1]  deadline_us       by when it should be over, its alarm included
u64[2]  calls             that were answered
u64[3]  busy_us           time spent in calls, all together
u64[4]  peak_memory_bytes the most that an instance had
"""

from __future__ import annotations

RECORD_BYTES = 4096  # a page: what is mapped apart can't be reached by a neighbour
BUSY_SINCE, DEADLINE, CALLS, BUSY, PEAK_MEMORY = range(5)
WORDS = 5
