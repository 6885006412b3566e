"""Sections `cold job` and `job throughput`: a hello job, sealed and recorded, beside the CLI and a bare fork."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import wasmtime

from benchmarks.measure import Row, Summary, alternate
from benchmarks.node import HELLO, Client, job_body, worker
from benchmarks.peers import PeerMissing, precompile, run_once, wasmtime_cli

CLIENTS = 16


def rows(quick: bool) -> Iterator[Row]:
    """The rows of both sections, each as soon as it is measured."""
    module = bytes(wasmtime.wat2wasm(HELLO))
    with tempfile.TemporaryDirectory(prefix="galago-bench-") as directory:
        artifact = Path(directory) / "hello.cwasm"
        try:
            cli: str | None = wasmtime_cli()
            assert cli is not None
            source = Path(directory) / "hello.wasm"
            source.write_bytes(module)
            precompile(cli, source, artifact)
            assert run_once(cli, artifact) == b"hello world\n"
        except PeerMissing as missing:
            cli = None
            print(f"skipped: {missing}")
        with worker() as port:
            client = Client(port)
            digest = client.upload(module)
            checked = client.job(job_body(digest))
            assert client.ask("GET", f"/tasks/{checked['id']}/stdout") == b"hello world\n"
            yield from _cold(client, digest, cli, artifact, 3 if quick else 10)
            client.close()
            yield from _throughput(port, digest, cli, artifact, 2 if quick else 5, 1.5 if quick else 4.0)


def _cold(client: Client, digest: str, cli: str | None, artifact: Path, rounds: int) -> Iterator[Row]:
    def ours(**task: object) -> list[float]:
        return _timed(lambda: client.job(job_body(digest, **task)), 30)

    def theirs() -> list[float]:
        assert cli is not None
        return _timed(lambda: run_once(cli, artifact), 15)

    true = shutil.which("true") or "/bin/true"

    def bare() -> list[float]:
        return _timed(lambda: subprocess.run([true], check=True, close_fds=False), 30)

    ours()
    contenders = [ours, lambda: ours(isolation="instance"), bare, *([theirs] if cli else [])]
    process, instance, floor, *peer = alternate(rounds, *contenders)
    for name, samples in (("process", process), ("instance", instance)):
        what = f"hello job, {name} isolation, submit to finish"
        for peer_name, others in (("wasmtime run", peer[0] if peer else []), ("fork+exec+wait", floor)):
            if others:
                yield Row(
                    "cold job",
                    what,
                    "ms",
                    "lower",
                    Summary.of(samples),
                    peer_name,
                    Summary.of(others),
                    samples={"ours": samples, "peer": others},
                )


def _throughput(port: int, digest: str, cli: str | None, artifact: Path, rounds: int, seconds: float) -> Iterator[Row]:
    def ours(**task: object) -> list[float]:
        body = job_body(digest, **task)
        return [_rate(lambda client: client.job(body), lambda: Client(port), CLIENTS, seconds)]

    def theirs() -> list[float]:
        assert cli is not None
        return [_rate(lambda _: run_once(cli, artifact), lambda: None, os.cpu_count() or 2, seconds)]

    contenders = [ours, lambda: ours(isolation="instance"), *([theirs] if cli else [])]
    process, instance, *peer = alternate(max(2, rounds), *contenders)
    for name, samples in (("process", process), ("instance", instance)):
        yield Row(
            "job throughput",
            f"hello jobs, {name} isolation, {CLIENTS} clients",
            "jobs/s",
            "higher",
            Summary.of(samples),
            f"wasmtime run, {os.cpu_count()} at a time" if peer else "",
            Summary.of(peer[0]) if peer else None,
            samples={"ours": samples, "peer": peer[0] if peer else []},
        )


def _timed(work, times: int) -> list[float]:  # type: ignore[no-untyped-def]
    """Milliseconds of each of `times` runs."""
    samples = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        samples.append((time.perf_counter() - start) * 1000)
    return samples


def _rate(work, make, clients: int, seconds: float) -> float:  # type: ignore[no-untyped-def]
    """How often a second `work(make())` was done by `clients` threads together."""
    done = [0] * clients
    go = threading.Event()
    ends = [0.0]

    def one(index: int) -> None:
        client = make()
        go.wait()
        while time.perf_counter() < ends[0]:
            work(client)
            done[index] += 1
        if client is not None:
            client.close()

    threads = [threading.Thread(target=one, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    ends[0] = start + seconds
    go.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)
