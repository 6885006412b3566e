"""What a job waits for its artifact: compiled because its module is new, read from disk, or there in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.bench import Bench
from benchmarks.measure import Row
from benchmarks.modules import cpython, never_seen, worker_in_c
from benchmarks.node import Client, job_body, node
from benchmarks.peers import RUNNERS_SETTINGS, Cli, PeerMissing
from benchmarks.timing import timed_ms

SOURCE = "json"


def rows(bench: Bench) -> Iterator[Row]:
    """A C program's job in all three ways beside the CLI's, then CPython's compilation."""
    try:
        module = worker_in_c(SOURCE)
    except PeerMissing as missing:
        bench.skip(f"compile and cache: {missing}")
        return
    what = f"job of a C program of {len(module) // 1000} kB"
    with ExitStack() as stack:
        ours = _ours(bench, stack, module)
        peers = _peers(bench, module)
        batch = max(1, bench.effort.batch // 2)
        contenders = {name: partial(timed_ms, work, batch) for name, work in (ours | peers).items()}
        measured = bench.alternate(contenders)
    for name, peer in (
        ("compiled", "compile and run"),
        ("read from disk", "precompiled"),
        ("in memory", "precompiled"),
    ):
        beside = (f"wasmtime run, {peer}", measured[peer]) if peer in measured else None
        yield Row.of(f"{what}, {name}", "ms", measured[name], beside)
    if bench.effort.large_guests:
        yield from _large(bench)


def _ours(bench: Bench, stack: ExitStack, module: bytes) -> dict[str, Callable[[], object]]:
    """By where the artifact comes from; a worker without room for artifacts in memory reads each from disk."""
    memory = stack.enter_context(Client.of(bench.node().port))
    disk = stack.enter_context(Client.of(stack.enter_context(node("--artifact-cache-bytes", "0")).port))
    numbers = itertools.count()

    def compiled() -> None:
        _job(memory, memory.upload(never_seen(module, next(numbers))))

    known = memory.upload(module), disk.upload(module)
    return {
        "compiled": compiled,
        "read from disk": partial(_job, disk, known[1]),
        "in memory": partial(_job, memory, known[0]),
    }


def _job(client: Client, digest: str) -> None:
    ended = client.job(job_body(digest))
    assert len(client.stdout(ended["id"]).split()) == 2


def _peers(bench: Bench, module: bytes) -> dict[str, Callable[[], object]]:
    try:
        cli = Cli(bench.directory, "compiled-json", module, RUNNERS_SETTINGS)
    except PeerMissing as missing:
        bench.skip(f"wasmtime run: {missing}")
        return {}
    assert len(cli.run().split()) == 2
    return {"compile and run": cli.run_source, "precompiled": cli.run}


def _large(bench: Bench) -> Iterator[Row]:
    """The largest real program that there is here, once in each round."""
    try:
        module = cpython()
        cli = Cli(bench.directory, "compiled-cpython", module, RUNNERS_SETTINGS)
    except PeerMissing as missing:
        bench.skip(f"CPython: {missing}")
        return
    with Client.of(bench.node().port) as client:
        numbers = itertools.count()

        def ours() -> None:
            digest = client.upload(never_seen(module, next(numbers)))
            ended = client.job(job_body(digest, name="python", args=["-c", "print(6 * 7)"]))
            assert client.stdout(ended["id"]) == b"42\n"

        contenders = {"ours": partial(timed_ms, ours, 1), "cli": partial(timed_ms, cli.compile, 1)}
        measured = bench.alternate(contenders, max(2, bench.effort.rounds // 3))
    what = "CPython, 26 MB: upload, admit, compile, run"
    yield Row.of(what, "ms", measured["ours"], ("wasmtime compile, one thread", measured["cli"]))
