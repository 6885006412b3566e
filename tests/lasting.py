"""A child that is there until it is killed, and never longer than the tests: it waits for the end of their process.

No fixed time would do: a short one is luck, a long one leaves processes behind where a test breaks off.
"""

from __future__ import annotations

import os
import select
import sys


def outlast(tester: int) -> None:
    """Wait for the end of the process `tester`, by a pidfd: whose child this is does not matter, nor what it holds."""
    try:
        pidfd = os.pidfd_open(tester)
    except ProcessLookupError:
        return
    select.select([pidfd], [], [])


def lasting_argv(tester: int | None = None) -> tuple[str, ...]:
    """A program that does that; of this process by default. It needs no package and no environment."""
    code = f"import os, select; select.select([os.pidfd_open({tester or os.getpid()})], [], [])"
    return (sys.executable, "-I", "-S", "-c", code)
