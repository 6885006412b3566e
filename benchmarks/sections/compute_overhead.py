"""Real work inside a runner beside the wasmtime CLI with the same settings; each guest times its own work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import GUESTS, cpython, worker_in_c
from benchmarks.node import Client, job_body
from benchmarks.peers import RUNNERS_SETTINGS, Cli, PeerMissing

AIM = Aim("<=", 1.02)
# How often each guest does its work: a third of a second on a machine of its time.
TIMES = {"json": 150, "compress": 40, "hash": 40, "regex": 15, "sort": 12, "matrix": 15}
LIMITS = {"fuel": 10**15, "wall_ms": 30_000}
SAME, USUAL, NATIVE = "wasmtime run, same settings", "wasmtime run, no fuel or epoch", "native code"
SCRIPT = """
import time, json, hashlib, re
started = time.perf_counter_ns()
data = [{"id": i, "name": f"record {i}", "square": i * i} for i in range(3000)]
text = json.dumps(data)
total = sum(one["square"] for one in json.loads(text)) + len(re.findall("[0-9]+", text))
digest = hashlib.sha256(text.encode()).hexdigest()
words = sorted(text.split(), key=lambda word: word[::-1])
print(f"{digest[:8]}{total}{len(words)}", time.perf_counter_ns() - started)
"""

Contenders = dict[str, Callable[[], list[float]]]


def rows(bench: Bench) -> Iterator[Row]:
    """Each guest in turn; then all of them together, by the geometric mean of each round."""
    everything: dict[str, list[list[float]]] = {}
    with Client.of(bench.node().port) as client:
        for name, times in TIMES.items():
            try:
                contenders = _guest(bench, client, name, str(max(1, round(times * bench.effort.work))))
            except PeerMissing as missing:
                bench.skip(f"compute overhead: {missing}")
                return
            measured = bench.alternate(contenders)
            for who, samples in measured.items():
                everything.setdefault(who, []).append(samples)
            yield from _beside(f"{name}, in a runner", measured)
        together = {
            who: [prod(each) ** (1 / len(each)) for each in zip(*of, strict=True)] for who, of in everything.items()
        }
        yield from _beside("all six, geometric mean", together)
        if bench.effort.large_guests:
            yield from _python(bench, client)


def _beside(what: str, measured: dict[str, list[float]]) -> Iterator[Row]:
    peers = [name for name in measured if name != "ours"]
    for peer in peers:
        aim = AIM if peer == SAME else None
        yield Row.of(what, "ms", measured["ours"], (peer, measured[peer]), aim)


def _guest(bench: Bench, client: Client, name: str, times: str) -> Contenders:
    """By who runs it, what gives the milliseconds of its work; its checksum must be that of its native code."""
    module = worker_in_c(name)
    native = bench.directory / f"{name}-native"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-O2", "-s", "-o", str(native), str(GUESTS / f"{name}.c")]
    subprocess.run(compiler, check=True, capture_output=True)
    expected = _native(native, times).split()[0]
    ours, runs = _runs(bench, client, name, module, (times,))
    all_runs: dict[str, Callable[[], bytes]] = {"ours": ours, **runs, NATIVE: partial(_native, native, times)}
    return {who: partial(_own_time_ms, run, expected) for who, run in all_runs.items()}


def _native(path: Path, times: str) -> bytes:
    return subprocess.run([str(path), times], capture_output=True, check=True).stdout


def _runs(
    bench: Bench, client: Client, name: str, module: bytes, args: tuple[str, ...]
) -> tuple[Callable[[], bytes], dict[str, Callable[[], bytes]]]:
    """What gives the guest's stdout: a job of ours, and the CLI both ways."""
    body = job_body(client.upload(module), name="guest", args=list(args), limits=LIMITS | {"memory_bytes": 256 << 20})

    def ours() -> bytes:
        return client.stdout(client.job(body)["id"])

    try:
        same, usual = (Cli(bench.directory, name, module, settings) for settings in (RUNNERS_SETTINGS, ()))
    except PeerMissing as missing:
        bench.skip(f"wasmtime run: {missing}")
        return ours, {}
    return ours, {SAME: partial(same.run, *args), USUAL: partial(usual.run, *args)}


def _own_time_ms(run: Callable[[], bytes], expected: bytes) -> list[float]:
    """What the guest says that its work took, once its checksum is right."""
    checksum, nanoseconds = run().split()
    assert checksum == expected, (checksum, expected)
    return [int(nanoseconds) / 1e6]


def _python(bench: Bench, client: Client) -> Iterator[Row]:
    try:
        ours, runs = _runs(bench, client, "cpython", cpython(), ("-c", SCRIPT))
    except PeerMissing as missing:
        bench.skip(f"CPython: {missing}")
        return
    ours()  # the module is compiled by it
    here = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout
    everybody = {"ours": ours, **runs}
    measured = bench.alternate({who: partial(_own_time_ms, run, here.split()[0]) for who, run in everybody.items()})
    yield from _beside("CPython: JSON, regex, hash, sort, in a runner", measured)
