"""Compiles C guests, of this directory or another, with Zig's C compiler into a cache outside of the repository.

A guest's file in the cache is named by the hash of its source, flags and compiler, so that it is compiled once. The
first build of all takes some 20 seconds, because Zig builds its libc then.

    from tests.guests.build import guest
    wasm = guest("echo")            # bytes of tests/guests/echo.c
    wasm = guest("maths", reactor=True)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ("-target", "wasm32-wasi", "-O2", "-s", "-Wall", "-Wextra", "-Werror")
# The default stack of 16 MB has to be made ready for each instance; no guest here needs more than this.
STACK_FLAG = "-Wl,-z,stack-size=65536"
BUILD_TIMEOUT_S = 300


def cache_dir() -> Path:
    """Where compiled guests lie: GALAGO_GUEST_CACHE, else below the user's cache directory."""
    given = os.environ.get("GALAGO_GUEST_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "galago-worker-guests"


@cache
def guest(name: str, *, reactor: bool = False, directory: Path = HERE) -> bytes:
    """The Wasm bytes of guest `name`; `reactor` for one that exports functions and has no `main`.

    Raises:
        RuntimeError: the compiler refused the source; its messages are the text.
    """
    source = directory / f"{name}.c"
    flags = (*FLAGS, STACK_FLAG, *(("-mexec-model=reactor",) if reactor else ()))
    compiler = importlib.metadata.version("ziglang")
    digest = hashlib.sha256(b"\0".join([source.read_bytes(), compiler.encode(), " ".join(flags).encode()])).hexdigest()
    target = cache_dir() / f"{name}-{digest[:16]}.wasm"
    if not target.exists():
        _compile(source, target, flags)
    return target.read_bytes()


def _compile(source: Path, target: Path, flags: tuple[str, ...]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        command = [sys.executable, "-m", "ziglang", "cc", *flags, "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{source.name} can't be compiled:\n{done.stderr}")
        made.rename(target)  # atomic: two test processes may build the same guest


if __name__ == "__main__":
    for each in sorted(HERE.glob("*.c")):
        is_reactor = "REACTOR" in each.read_text().partition("\n")[0]
        sys.stdout.write(f"{each.stem}: {len(guest(each.stem, reactor=is_reactor))} bytes\n")
