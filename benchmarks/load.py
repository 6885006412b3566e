"""Load by `wrk`, which costs a tenth of what it measures: requests a second, latencies, and how many went wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import PeerMissing

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """One run: requests a second, and the latency in milliseconds by percentile (from 1 to 100)."""

    per_second: float
    ms: dict[float, float]
    broken: int = 0  # connections that ended before their answer; only of a peer, ours may break none


def wrk_path() -> str:
    """Raises: PeerMissing: it isn't installed."""
    found = shutil.which("wrk")
    if found is None:
        raise PeerMissing("the load generator: apt-get install wrk")
    return found


def run(url: str, connections: int, seconds: float, *, body_bytes: int = 0, may_break: bool = False) -> Load:
    """Requests to `url` over so many kept connections; any answer that isn't 2xx is an error of the benchmark.

    Args:
        seconds: At least one: less can't be asked of `wrk`.
        body_bytes: POST so much instead of GET.
        may_break: A connection that ends before its answer is counted instead of being an error.
    """
    command = [wrk_path(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    settings = {"BENCH_BODY_BYTES": str(body_bytes)}
    ran = subprocess.run(
        [*command, "-s", str(SCRIPT), url], capture_output=True, text=True, check=True, env=os.environ | settings
    )
    said = json.loads(ran.stdout.splitlines()[-1])
    assert may_break or not said["broken"], ran.stdout
    assert not said["not_2xx"], ran.stdout
    assert said["requests"], ran.stdout
    latencies = {float(percent): us / 1000 for percent, us in said["us"].items()}
    return Load(said["requests"] / said["seconds"], latencies, said["broken"])
