"""A signal that wasmtime's handler takes for no trap and swallows: the process dies of it all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from runner.engine import find_library
from runner.syscall_numbers import MACHINE, X86_64
from tests.runner.zygote_host import ROOT

HEAD = f"""import os, signal, sys; sys.path.append({ROOT!r})
from runner import engine
from runner.swallowed import Watch
def sent(number):
    os.kill(os.getpid(), number)
def looked():
    for _ in range(8): watch.look()
engine.open_library({os.fsencode(find_library())!r})
"""
MADE = "made = engine.Engine(1 << 20); watch = Watch(); "
SWALLOWED = [signal.SIGSEGV, *([signal.SIGILL, signal.SIGFPE] if MACHINE == X86_64 else [])]


def played(code: str) -> int:
    argv = [sys.executable, "-I", "-c", HEAD + code]
    return subprocess.run(argv, env={}, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize("number", SWALLOWED)
def test_a_signal_that_was_sent_is_swallowed_once_by_the_engine_alone(number: signal.Signals) -> None:
    """What the watch is for. Were this not so any more, it could go."""
    assert 0 == played(f"{MADE}sent({int(number)}); os._exit(0)")
    assert -number == played(f"{MADE}sent({int(number)}); sent({int(number)}); os._exit(0)")


@pytest.mark.parametrize("number", SWALLOWED)
def test_a_signal_that_was_swallowed_ends_the_process_when_it_is_looked_for(number: signal.Signals) -> None:
    assert -number == played(f"{MADE}sent({int(number)}); looked(); os._exit(0)")


def test_nothing_happens_where_no_signal_came() -> None:
    assert 0 == played(f"{MADE}looked(); os._exit(0)")


def test_handlers_that_never_were_there_are_not_missed() -> None:
    assert 0 == played("watch = Watch(); looked(); os._exit(0)")
