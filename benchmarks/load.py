"""Load by `wrk`, which costs a tenth of what it measures: requests a second, latencies, and how many went wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from benchmarks.peers import PeerMissing

_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """One run: requests a second, and the latency's median and 99th percentile in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def wrk_path() -> str:
    """Raises: PeerMissing: it isn't installed."""
    found = shutil.which("wrk")
    if found is None:
        raise PeerMissing("the load generator: apt-get install wrk")
    return found


def run(url: str, connections: int, seconds: float) -> Load:
    """GET `url` over so many kept connections; any answer that isn't 2xx is an error of the benchmark."""
    command = [
        wrk_path(),
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "30s",
        "--latency",
        url,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert per_second is not None, text
    return Load(float(per_second[1]), _latency_ms(text, 50), _latency_ms(text, 99))


def _latency_ms(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1]) * _UNITS_MS[found[2]]
