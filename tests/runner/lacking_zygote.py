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


def leave_out(argument: str) -> None:
    """Take what `lacking=PROFILE:NAME,NAME` names out of a profile's rules, all of which have to be there."""
    profile, _, names = argument.removeprefix("lacking=").partition(":")
    if names:
        rules = allow.RULES[int(profile)]
        lacking = set(names.split(","))
        assert lacking <= {rule.name for rule in rules}, names
        allow.RULES[int(profile)] = tuple(rule for rule in rules if rule.name not in lacking)


def main(argv: list[str]) -> NoReturn:
    leave_out(argv.pop())
    invoke.run, process.compile_module = _run, _compile
    zygote.main(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
