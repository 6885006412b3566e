"""A whole worker in whose runners native code can be played: `python -m worker`, but for the zygote that it starts.

    python played_worker.py -m worker serve ...            the launcher, as `harness.Worker` calls it
    python -m tests.hostile.played_worker worker.coordinator   the coordinator, as that launcher starts it

It puts another zygote (`played_runner`) into it.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLAYED = str(HERE / "played_worker.py")
PATHS = [str(HERE), str(HERE.parent / "runner")]
# It has to name runner.zygote, for the harness to know a zygote by.
BOOT = (
    "import sys; sys.path += [{root!r}, " + ", ".join(map(repr, PATHS)) + "]; import runner.zygote; "
    "from played_runner import main; main(sys.argv[1:])"
)


def _coordinate() -> int:
    from worker.coordinator import __main__ as coordinator
    from worker.coordinator import zygote_program

    zygote_program._BOOT = BOOT
    return coordinator.main()


if __name__ == "__main__":
    if sys.argv[1:] == ["worker.coordinator"]:
        sys.exit(_coordinate())
    sys.path[0] = str(ROOT)
    assert sys.argv[1:3] == ["-m", "worker"], sys.argv
    from tests.hostile.other_worker import launch

    sys.exit(launch(("tests.hostile.played_worker",), sys.argv[3:]))
