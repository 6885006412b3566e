"""How calls grow: with the connections, with the runners, and with the size of their bodies."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from benchmarks import load
from benchmarks.bench import API_WORKERS, CORES, Bench
from benchmarks.load import Load
from benchmarks.measure import Row
from benchmarks.modules import CALL_WAGI, HELLO_BODY, worker_in_c
from benchmarks.node import Client, deployed
from benchmarks.peer_servers import Server, falcon_hello, servers, workerd
from benchmarks.peers import PeerMissing
from benchmarks.sections.warm_call import hellos

CONNECTIONS = (1, 4, 16, 64, 128, 256, 512)
BODIES = (0, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
BODY_CONNECTIONS = 8


def rows(bench: Bench) -> Iterator[Row]:
    """A curve each; every contender is measured at a point before the next point."""
    load.wrk_path()  # before anything is started for it
    with ExitStack() as stack:
        client = stack.enter_context(Client.of(bench.node().port))
        ours = hellos(bench, stack, client)
        peers = bench.peers(stack, servers(API_WORKERS))
        for connections in bench.effort.some(CONNECTIONS):
            loads = _loaded(bench, ours, peers, connections)
            yield from _point(ours, loads, "connections", connections)
    try:
        handler = worker_in_c("mirror")
    except PeerMissing as missing:
        bench.skip(f"runners and bodies of calls: {missing}")
        return
    yield from _by_runners(bench, handler)
    yield from _by_body(bench, handler)


def _loaded(
    bench: Bench, ours: dict[str, str], peers: dict[str, str], connections: int, body_bytes: int = 0
) -> dict[str, list[Load]]:
    def one(name: str, url: str) -> list[Load]:
        seconds, breaks = bench.effort.load_s, name in peers
        return [load.run(url, connections, seconds, body_bytes=body_bytes, may_break=breaks)]

    contenders = {name: partial(one, name, url) for name, url in (ours | peers).items()}
    return bench.alternate(contenders, max(1, bench.effort.rounds // 2))


def _point(ours: dict[str, str], loads: dict[str, list[Load]], axis: str, at: int) -> Iterator[Row]:
    """Each of ours beside each peer, in calls a second and in latency."""
    peers: list[str] = [name for name in loads if name not in ours]
    for name in ours:
        for peer in peers or [""]:
            for unit in ("calls/s", "ms p50", "ms p99"):
                beside = (peer, _figures(loads[peer], unit)) if peer else None
                row = Row.of(name, unit, _figures(loads[name], unit), beside, axis=axis, at=at)
                if peer and (broken := sum(one.broken for one in loads[peer])):
                    row.note = f"{peer} broke off {broken} connections at {at:,} {axis}"
                yield row


def _figures(loads: list[Load], unit: str) -> list[float]:
    return [one.per_second if unit == "calls/s" else one.ms[int(unit[4:])] for one in loads]


def _by_runners(bench: Bench, handler: bytes) -> Iterator[Row]:
    """One function with more and more runners, called by more clients than it ever has."""
    with Client.of(bench.node().port) as client:
        for runners in bench.effort.some(sorted({1, CORES, 2 * CORES, 3 * CORES, 4 * CORES})):
            with deployed(client, "many", handler, CALL_WAGI, min=runners, max=runners, queue=1024) as path:
                assert client.ask("GET", path) == HELLO_BODY
                url = f"http://127.0.0.1:{bench.node().port}{path}"
                ours = {"wagi in C": url}
                yield from _point(ours, _loaded(bench, ours, {}, 8 * CORES), "runners", runners)


def _by_body(bench: Bench, handler: bytes) -> Iterator[Row]:
    """A body that goes in and comes back, each size beside who only reads and writes it."""
    with ExitStack() as stack:
        client = stack.enter_context(Client.of(bench.node().port))
        path = stack.enter_context(deployed(client, "mirror", handler, CALL_WAGI, min=CORES, max=CORES))
        ours = {"wagi in C": f"http://127.0.0.1:{bench.node().port}{path}"}
        makers: dict[str, Server] = {"workerd": workerd, "bare Falcon": partial(falcon_hello, API_WORKERS)}
        peers = bench.peers(stack, makers)
        for size in bench.effort.some(BODIES):
            for name, url in (ours | peers).items():
                assert _echo(url, size) == (b"x" * size or HELLO_BODY), (name, size)
            yield from _point(ours, _loaded(bench, ours, peers, BODY_CONNECTIONS, size), "bytes of body", size)


def _echo(url: str, size: int) -> bytes:
    body = b"x" * size if size else None
    request = urllib.request.Request(url, body, {"content-type": "text/plain"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: bytes = answer.read()
    return found
