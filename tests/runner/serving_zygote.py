"""A zygote whose servers have little patience; and what a call's variable PLAY says is played as native code.

`played_zygote` does the same for jobs. What the code leaves in `result` is the answer. A last argument
`lacking=PROFILE:NAME` takes a rule out of a filter, as `lacking_zygote` has it.
"""

from __future__ import annotations

import os
import sys
from time import monotonic_ns
from typing import Any, NoReturn

import played_zygote  # type: ignore[import-not-found]
from lacking_zygote import leave_out  # type: ignore[import-not-found]

from runner import asker, callee, serve, zygote

PATIENCE_MS = 300
_call, _settle = callee.Callee.call, callee.Callee.settle
_played: list[bool] = []


def _play(self: Any, fuel: int, ticks: int, variables: bytes, body: Any) -> Any:
    _played[:] = [variables.startswith(b"PLAY=")]
    if not _played[0]:
        return _call(self, fuel, ticks, variables, body)
    scene: dict[str, Any] = {"raw": played_zygote.raw, "ctypes": played_zygote.ctypes, "os": os, "result": ""}
    self.ready_ns = monotonic_ns()
    exec(variables[5:-1], scene)
    return str(scene["result"]).encode()


def _settle_what_ran(self: Any) -> None:
    if not _played[0]:  # which has no instance
        _settle(self)


def main(argv: list[str]) -> NoReturn:
    asker.PATIENCE_MS = serve.PATIENCE_MS = PATIENCE_MS
    callee.Callee.call, callee.Callee.settle = _play, _settle_what_ran  # type: ignore[method-assign]
    if argv[-1].startswith("lacking="):
        leave_out(argv.pop())
    zygote.main(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
