"""The first call of a function that has no runner: forked, sealed and loaded while its caller waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.bench import Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import CALL_WAGI, HELLO, HELLO_BODY, WAGI
from benchmarks.node import Client, deployed
from benchmarks.peers import Cli, PeerMissing
from benchmarks.timing import timed_ms

AIM = Aim("<=", 5, "ours")
FUNCTION = "cold"


def rows(bench: Bench) -> Iterator[Row]:
    """From zero, beside the same call warm and beside a process for each."""
    running = bench.node()
    bench.skip("first call with a spare runner (aim: 2 ms at most): the worker keeps no spares")
    peers: dict[str, Callable[[], object]] = {}
    try:
        cli = Cli(bench.directory, "hello", HELLO)
        assert cli.run() == HELLO_BODY
        peers["wasmtime run"] = cli.run
    except PeerMissing as missing:
        bench.skip(f"wasmtime run: {missing}")
    with (
        Client.of(running.port) as client,
        deployed(client, FUNCTION, WAGI, CALL_WAGI, min=0, max=1, idle_ms=1) as cold,
        deployed(client, "warm", WAGI, CALL_WAGI, min=1, max=1) as warm,
    ):
        turns = bench.effort.rounds * bench.effort.batch
        contenders: dict[str, Callable[[], list[float]]] = {
            "cold": lambda: _from_zero(client, cold),
            "the same call, warm": lambda: timed_ms(partial(_call, client, warm), 1),
            **{name: partial(timed_ms, work, 1) for name, work in peers.items()},
        }
        measured = bench.alternate(contenders, turns)
    ours = measured.pop("cold")
    for peer, samples in measured.items():
        yield Row.of("first call, from zero, wagi", "ms", ours, (peer, samples), AIM if "warm" in peer else None)


def _call(client: Client, path: str) -> None:
    assert client.ask("GET", path) == HELLO_BODY


def _from_zero(client: Client, path: str) -> list[float]:
    deadline = time.monotonic() + 30
    while client.runners(FUNCTION):
        assert time.monotonic() < deadline, "the runner was not given up"
        time.sleep(0.005)
    return timed_ms(partial(_call, client, path), 1)
