"""A hello job, sealed and recorded, from the request to its end, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks.bench import CORES, Bench
from benchmarks.measure import Row
from benchmarks.modules import HELLO, HELLO_BODY
from benchmarks.node import Client, job_body
from benchmarks.peer_processes import bare_fork, fork_and_exec, pool
from benchmarks.peers import Cli, PeerMissing
from benchmarks.timing import timed_ms

ISOLATIONS = ("process", "instance")


def rows(bench: Bench) -> Iterator[Row]:
    """Both isolations beside what one would use instead, and beside the least that a process costs."""
    with ExitStack() as stack:
        client = stack.enter_context(Client.of(bench.node().port))
        digest = client.upload(HELLO)
        ours = {name: partial(client.job, job_body(digest, isolation=name)) for name in ISOLATIONS}
        for job in ours.values():
            assert client.stdout(job()["id"]) == HELLO_BODY
        workers = stack.enter_context(pool(HELLO, CORES))
        assert workers.job() == HELLO_BODY
        peers = {
            "process pool with wasmtime": workers.job,
            "fork + exec + wait": fork_and_exec,
            "fork + wait": bare_fork,
        }
        try:
            cli = Cli(bench.directory, "hello", HELLO)
            assert cli.run() == HELLO_BODY
            peers = {"wasmtime run": cli.run, **peers}
        except PeerMissing as missing:
            bench.skip(f"wasmtime run: {missing}")
        batch = bench.effort.batch
        measured = bench.alternate({name: partial(timed_ms, work, batch) for name, work in (ours | peers).items()})
    for name in ours:
        for peer in peers:
            what = f"hello job, {name} isolation, request to end"
            yield Row.of(what, "ms", measured[name], (peer, measured[peer]))
