"""Sections `warm call`, `cold call`, `density`: functions called through the API, beside what one would use instead."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import wasmtime

from benchmarks.load import Load, run, wrk_path
from benchmarks.measure import Row, Summary, alternate
from benchmarks.node import EXPORT, Client, Node, node, service_body, worker
from benchmarks.peers import PeerMissing, falcon_hello, wasmtime_cli, wasmtime_serve, workerd
from tests.guests.build import guest

API_WORKERS = 2
CONNECTIONS = (1, 16, 64, 256)
FUNCTIONS = 100

WAGI = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
 (memory (export "memory") 1) (data (i32.const 16) "Content-Type: text/plain\\n\\nhello world\\n")
 (func (export "_start") (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 38))
  (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
BODIES = {"export": b'{"result":[42]}', "wagi": b"hello world\n", "wagi in C": b"hello world\n"}


def deploy(client: Client, name: str, module: bytes, abi: dict[str, str], **scale: int) -> str:
    """Deploy a module as the default of function `name`, and wait until it runs: the path that calls it."""
    body = service_body(client.upload(module), name, abi, scale)
    client.service(body)
    return f"/functions/{name}"


def deploy_hellos(client: Client, runners: int) -> dict[str, str]:
    """A hello by each way: what it is called, and its path; each checked."""
    scale = {"min": runners, "max": runners, "queue": 512}
    wagi, export = {"abi": "wagi"}, {"abi": "export", "export": "hello"}
    paths = {
        "export": deploy(client, "export", bytes(wasmtime.wat2wasm(EXPORT)), export, **scale),
        "wagi": deploy(client, "wagi", bytes(wasmtime.wat2wasm(WAGI)), wagi, **scale),
        "wagi in C": deploy(client, "c", guest("handler"), wagi, **scale),
    }
    for name, path in paths.items():
        body = client.ask("GET", path)
        assert body == BODIES[name], (name, body)
    return paths


def warm(quick: bool) -> Iterator[Row]:
    """Calls a second and latency by number of connections, each of ours beside each peer in the same rounds."""
    wrk_path()  # before anything is started for it
    seconds, rounds = (1.0, 2) if quick else (3.0, 4)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(worker("--api-workers", str(API_WORKERS), "--max-runners", "16"))
        client = Client(port)
        ours = {name: f"http://127.0.0.1:{port}{path}" for name, path in deploy_hellos(client, 2).items()}
        peers = _peers(stack)
        for connections in CONNECTIONS[1:2] if quick else CONNECTIONS:
            urls = ours | peers
            measured = alternate(rounds, *[partial(_load, url, connections, seconds) for url in urls.values()])
            loads = dict(zip(urls, measured, strict=True))
            for name in ours:
                for peer in peers:
                    yield _row(name, connections, "calls/s", "higher", loads[name], peer, loads[peer])
                    yield _row(name, connections, "ms p99", "lower", loads[name], peer, loads[peer])
        client.close()


def _load(url: str, connections: int, seconds: float) -> list[Load]:
    return [run(url, connections, seconds)]


def _peers(stack: contextlib.ExitStack) -> dict[str, str]:
    urls: dict[str, str] = {}
    makers: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
        "wasmtime serve": lambda: wasmtime_serve(wasmtime_cli()),
        "workerd": workerd,
        "bare Falcon": lambda: falcon_hello(API_WORKERS),
    }
    for name, make in makers.items():
        try:
            urls[name] = stack.enter_context(make())
        except PeerMissing as missing:
            print(f"skipped: {missing}")
    return urls


def _row(
    name: str, connections: int, unit: str, better: str, ours: list[Load], peer_name: str, theirs: list[Load]
) -> Row:
    def samples(loads: list[Load]) -> list[float]:
        return [load.per_second if better == "higher" else load.p99_ms for load in loads]

    p50, p99 = (statistics.median(getattr(load, key) for load in ours) for key in ("p50_ms", "p99_ms"))
    what = f"{name}, {connections} connections"
    kept = {"ours": samples(ours), "peer": samples(theirs)}
    summaries = Summary.of(kept["ours"]), Summary.of(kept["peer"])
    return Row("warm call", what, unit, better, summaries[0], peer_name, summaries[1], f"p99/p50 {p99 / p50:.1f}", kept)


def cold(quick: bool) -> Iterator[Row]:
    """The first call of a function that has no runner, beside the same call warm."""
    rounds = 10 if quick else 40
    with node("--api-workers", str(API_WORKERS)) as running:
        client = Client(running.port)
        path = deploy(client, "cold", bytes(wasmtime.wat2wasm(WAGI)), {"abi": "wagi"}, min=0, max=1, idle_ms=1)
        first: list[float] = []
        second: list[float] = []
        for _ in range(rounds):
            _await(lambda: not running.runners(), "the runner was given up")
            for samples in (first, second):
                started = time.perf_counter()
                assert client.ask("GET", path) == BODIES["wagi"]
                samples.append((time.perf_counter() - started) * 1000)
        kept = {"ours": first, "peer": second}
        yield Row(
            "cold call", "wagi, from zero", "ms", "lower", Summary.of(first), "warm", Summary.of(second), samples=kept
        )
        client.close()


def density(quick: bool) -> Iterator[Row]:
    """A hundred functions with a runner each: what one costs in memory, and all of them in CPU while nobody calls."""
    seconds = 3.0 if quick else 10.0
    with node("--api-workers", str(API_WORKERS), "--max-runners", str(FUNCTIONS + 4)) as running:
        client = Client(running.port)
        module = bytes(wasmtime.wat2wasm(WAGI))
        paths = [deploy(client, f"f{number}", module, {"abi": "wagi"}, min=1, max=1) for number in range(FUNCTIONS)]
        yield _uss("idle runner, before its first call", running)
        for path in paths:
            assert client.ask("GET", path) == BODIES["wagi"]
        yield _uss("idle runner, after its first call", running)
        processes = running.processes()
        samples = []
        for _ in range(3):
            before = sum(sum(process.cpu_times()[:2]) for process in processes)
            time.sleep(seconds)
            used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
            samples.append(used / seconds * 100)
        yield Row("density", f"node with {FUNCTIONS} idle functions", "% of a core", "lower", Summary.of(samples))
        client.close()


def _uss(what: str, running: Node) -> Row:
    samples = [process.memory_full_info().uss / 1e6 for process in running.runners()]
    assert len(samples) >= FUNCTIONS, len(samples)
    return Row("density", what, "MB USS", "lower", Summary.of(samples))


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.002)
