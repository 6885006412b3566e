"""A zygote one of whose filters lacks a rule: what dies for it shows what the rule is for.

Its last argument is `lacking=PROFILE:NAME`, or `lacking=` for none. A runner plays a job whose first argument begins
with PLAYED as native code, as `played_zygote` has it, and runs the guest of any other; so does a compiler with the
bytes of its module.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import played_zygote  # type: ignore[import-not-found]

from runner import allow, invoke, process, zygote
from runner.protocol.status import Outcome

PLAYED = b"#"


def _run(*arguments: Any) -> Outcome:
    played = arguments[1].args and arguments[1].args[0].startswith(PLAYED)
    return (played_zygote.play if played else _run_guest)(*arguments)


def _compile(engine: Any, source: bytes) -> Any:
    if not source.startswith(PLAYED):
        return _compile_module(engine, source)
    exec(source, {"raw": played_zygote.raw, "ctypes": played_zygote.ctypes})
    return b"played"


_run_guest, _compile_module = invoke.run, process.compile_module


def main(argv: list[str]) -> NoReturn:
    profile, _, name = argv.pop().removeprefix("lacking=").partition(":")
    if name:
        rules = allow.RULES[int(profile)]
        allow.RULES[int(profile)] = tuple(rule for rule in rules if rule.name not in name.split(","))
    invoke.run, process.compile_module = _run, _compile
    zygote.main(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
