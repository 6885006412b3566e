"""Calls of functions that are warm: a second, and how long each takes, beside what else serves functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from time import perf_counter

from benchmarks import load
from benchmarks.bench import API_WORKERS, Bench
from benchmarks.load import Load
from benchmarks.measure import Aim, Row
from benchmarks.modules import CALL_EXPORT, CALL_WAGI, EXPORT, EXPORT_BODY, HELLO, HELLO_BODY, WAGI, worker_in_c
from benchmarks.node import Client, deployed
from benchmarks.peer_processes import InProcess
from benchmarks.peer_servers import Server, fork_per_request, servers
from benchmarks.peers import PeerMissing

CONNECTIONS = 16
RUNNERS = 2
IN_PROCESS = "wasmtime-py in a loop"
RATE_AIMS = {
    ("export", "wasmtime serve"): Aim(">=", 1),
    ("wagi", "wasmtime serve"): Aim(">=", 0.85),
    ("wagi in C", "wasmtime serve"): Aim(">=", 0.6),
    ("export", "bare Falcon"): Aim(">=", 0.42),
    ("wagi", "bare Falcon"): Aim(">=", 0.42),
}
LATENCY_AIMS = {("export", "workerd"): Aim("<", 1), ("wagi", "workerd"): Aim("<", 1)}
TAIL_AIM = Aim("<", 3, "ours")


def rows(bench: Bench) -> Iterator[Row]:
    """At one number of connections, each of ours beside each peer; then what share of calls took how long."""
    load.wrk_path()  # before anything is started for it
    with ExitStack() as stack:
        client = stack.enter_context(Client.of(bench.node().port))
        ours = hellos(bench, stack, client)
        forking = partial(fork_per_request, API_WORKERS, bench.directory, HELLO)
        makers: dict[str, Server] = {**servers(API_WORKERS), "fork per request": forking}
        peers = bench.peers(stack, makers)
        contenders = {name: partial(_load, url, bench.effort.load_s) for name, url in (ours | peers).items()}
        loads = bench.alternate(contenders)
        loop = bench.alternate({"export": partial(_in_process_rate, bench.effort.load_s)})["export"]
    for name in ours:
        yield from _beside(name, loads, list(peers))
        what = f"{name}, {CONNECTIONS} connections"
        yield Row.of(what, "calls/s", _rates(loads[name]), (f"{IN_PROCESS}, no HTTP", loop))
        tails = [load.ms[99] / load.ms[50] for load in loads[name]]
        yield Row.of(what, "p99/p50", tails, aim=TAIL_AIM if name in ("export", "wagi") else None)
    yield from _distribution(loads, list(ours))


def hellos(bench: Bench, stack: ExitStack, client: Client) -> dict[str, str]:
    """A hello by each way, deployed until `stack` ends: what it is called, and its URL; each was looked at."""
    modules = {"export": (EXPORT, CALL_EXPORT, EXPORT_BODY), "wagi": (WAGI, CALL_WAGI, HELLO_BODY)}
    try:
        modules["wagi in C"] = (worker_in_c("mirror"), CALL_WAGI, HELLO_BODY)
    except PeerMissing as missing:
        bench.skip(f"wagi in C: {missing}")
    urls = {}
    for name, (module, handler, body) in modules.items():
        function = name.replace(" ", "-").lower()
        path = stack.enter_context(deployed(client, function, module, handler, min=RUNNERS, max=RUNNERS, queue=1024))
        found = client.ask("GET", path)
        assert found == body, (name, found)
        urls[name] = f"http://127.0.0.1:{bench.node().port}{path}"
    return urls


def _load(url: str, seconds: float) -> list[Load]:
    return [load.run(url, CONNECTIONS, seconds)]


def _rates(loads: list[Load]) -> list[float]:
    return [load.per_second for load in loads]


def _beside(name: str, loads: dict[str, list[Load]], peers: list[str]) -> Iterator[Row]:
    what = f"{name}, {CONNECTIONS} connections"
    for peer in peers:
        aim = RATE_AIMS.get((name, peer))
        yield Row.of(what, "calls/s", _rates(loads[name]), (peer, _rates(loads[peer])), aim)
    for peer in peers:
        for percent in (50, 99):
            ours, theirs = ([load.ms[percent] for load in loads[who]] for who in (name, peer))
            aim = LATENCY_AIMS.get((name, peer)) if percent == 99 else None
            yield Row.of(what, f"ms p{percent}", ours, (peer, theirs), aim)


def _distribution(loads: dict[str, list[Load]], ours: list[str]) -> Iterator[Row]:
    """Everybody once: the peers stand beside the first of ours."""
    peers = [name for name in loads if name not in ours]
    for percent in loads[ours[0]][0].ms:
        samples = {name: [run.ms[percent] for run in runs] for name, runs in loads.items()}
        for name in ours:
            for peer in peers if peers and name == ours[0] else [""]:
                beside = (peer, samples[peer]) if peer else None
                yield Row.of(name, "ms", samples[name], beside, axis="percent of calls", at=percent)


def _in_process_rate(seconds: float) -> list[float]:
    """A call's bare price for whoever writes the loop: one thread, no isolation but the instance."""
    loop = InProcess(EXPORT)
    assert loop.call("hello") == 42
    calls, started = 0, perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        for _ in range(50):
            loop.call("hello")
        calls += 50
    return [calls / elapsed]
