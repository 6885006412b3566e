"""Hello jobs a second, sealed and recorded, from many clients at once; and how that grows with the runners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial

from benchmarks.bench import CORES, Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import HELLO, HELLO_BODY
from benchmarks.node import Client, job_body, node
from benchmarks.peer_processes import pool
from benchmarks.peers import Cli, PeerMissing
from benchmarks.sections.cold_job import ISOLATIONS
from benchmarks.timing import rate

CLIENTS = 16
AIMS = {
    ("process", "wasmtime run"): Aim(">=", 1.5),
    ("instance", "wasmtime run"): Aim(">=", 10),
    ("instance", "process pool with wasmtime"): Aim(">=", 1),
}


def rows(bench: Bench) -> Iterator[Row]:
    """Both isolations beside as many processes of a peer as there are cores; then with more and more runners."""
    effort = bench.effort
    with ExitStack() as stack:
        ours = _ours(bench.node().port, effort.load_s)
        workers = stack.enter_context(pool(HELLO, CORES))
        peers: dict[str, Callable[[], list[float]]] = {
            "process pool with wasmtime": lambda: [workers.rate(effort.load_s)]
        }
        try:
            cli = Cli(bench.directory, "hello", HELLO)
            assert cli.run() == HELLO_BODY
            run = partial(rate, lambda _: cli.run(), partial(nullcontext, None), CORES, effort.load_s)
            peers = {"wasmtime run": lambda: [run()], **peers}
        except PeerMissing as missing:
            bench.skip(f"wasmtime run: {missing}")
        measured = bench.alternate(ours | peers)
    for name in ours:
        for peer in peers:
            what = f"hello jobs, {name} isolation, {CLIENTS} clients"
            aim = AIMS.get((name, peer))
            yield Row.of(what, "jobs/s", measured[name], (f"{peer}, {CORES} at a time", measured[peer]), aim)
    bench.release()
    yield from _by_runners(bench)


def _ours(port: int, seconds: float) -> dict[str, Callable[[], list[float]]]:
    """By isolation, what measures jobs a second; one of each was looked at."""
    found: dict[str, Callable[[], list[float]]] = {}
    with Client.of(port) as client:
        digest = client.upload(HELLO)
        for name in ISOLATIONS:
            body = job_body(digest, isolation=name)
            assert client.stdout(client.job(body)["id"]) == HELLO_BODY
            found[name] = partial(_rate, port, body, seconds)
    return found


def _rate(port: int, body: bytes, seconds: float) -> list[float]:
    return [rate(lambda client: client.job(body), partial(Client.of, port), CLIENTS, seconds)]


def _by_runners(bench: Bench) -> Iterator[Row]:
    """A worker for each number of runners, from one to four a core."""
    for runners in bench.effort.some(sorted({1, CORES, 2 * CORES, 3 * CORES, 4 * CORES})):
        with node("--max-runners", str(runners)) as running:
            measured = bench.alternate(_ours(running.port, bench.effort.load_s), max(2, bench.effort.rounds // 2))
        for name, samples in measured.items():
            yield Row.of(f"hello jobs, {name} isolation", "jobs/s", samples, axis="runners", at=runners)
