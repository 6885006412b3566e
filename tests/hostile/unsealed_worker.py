"""A whole worker on a machine that lacks layers of the seal: `python -m worker`, but for what zygote and probe find.

    python unsealed_worker.py LAYER,... -m worker serve ...     the launcher, as `harness.Worker` calls it
    python -m tests.hostile.unsealed_worker LAYER,...           the coordinator, as that launcher starts it

It puts another zygote and another probe into it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNSEALED = str(Path(__file__).resolve())
# What the layer's trial says in a zygote: not permitted. It has to name runner.zygote, for the harness to know it by.
LACKS = {
    "seccomp": "def refuse(): raise PermissionError(1, 'no')\ninherit._try_filter = refuse",
    "no_new_privs": "inherit.give_up_privileges = lambda: False",
}
BOOT = """import sys; sys.path.append({{root!r}})
from runner import inherit
{lacks}
from runner.zygote import main; main(sys.argv[1:])"""


def _coordinate(layers: list[str]) -> int:
    from runner import probe
    from worker.coordinator import __main__ as coordinator
    from worker.coordinator import zygote_program

    zygote_program._BOOT = BOOT.format(lacks="\n".join(LACKS[layer] for layer in layers))
    lines = "".join(f"{name}\t{int(name in layers)}\n" for name in probe.HOW_TO_GET)
    probe.command = lambda *_, answer_fd=1, **__: [
        sys.executable,
        "-c",
        f"import os; os.write({answer_fd}, {lines.encode()!r})",
    ]
    return coordinator.main()


if __name__ == "__main__":
    if sys.argv[2:] == ["worker.coordinator"]:
        sys.exit(_coordinate(sys.argv[1].split(",")))
    sys.path[0] = str(ROOT)
    assert sys.argv[2:4] == ["-m", "worker"], sys.argv
    from tests.hostile.other_worker import launch

    sys.exit(launch(("tests.hostile.unsealed_worker", sys.argv[1]), sys.argv[4:]))
