"""What the seal costs, from the fork to READY, to a job's reaped end, and a call, beside unsealed.

Below the worker: a zygote of our own, as `tests/runner` start one, and no coordinator. Unsealed is the same zygote with
every layer taken out that a child applies by itself; what was inherited costs nobody anything and stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.bench import Bench
from benchmarks.measure import Aim, Row
from benchmarks.modules import EXPORT, HELLO
from runner.protocol import I32
from runner.protocol.control import FLAG_ONE_JOB
from tests.runner.call_host import Service
from tests.runner.zygote_host import ZygoteHost

READY_AIM, JOB_AIM, CALL_AIM = Aim("<=", 0.3, "extra"), Aim("<=", 2.0, "ours"), Aim("<=", 1.03)
PEER = "unsealed"
CALLS_PER_SHOT = 20
# A zygote in which nothing is found possible that a child would have to do: it plans no step of the seal.
UNSEALED = "benchmarks.unsealed_zygote"


def rows(bench: Bench) -> Iterator[Row]:
    """Each figure as soon as it is measured; as root with every layer, as an ordinary user with what it has."""
    with zygotes() as (sealed, unsealed):
        artifact = compiled(sealed)
        try:
            for what, measure, aim in (
                ("fork to sealed and ready", ready_ms, READY_AIM),
                ("fork, sealed, hello job, reaped", job_ms, JOB_AIM),
                ("the same, CPU time of the process", job_cpu_ms, None),  # told apart from how busy the machine is
            ):
                contenders = {
                    name: _timed(measure, zygote, artifact, 2 * bench.effort.batch)
                    for name, zygote in (("ours", sealed), ("peer", unsealed))
                }
                measured = bench.alternate(contenders)
                yield Row.of(what, "ms", measured["ours"], (PEER, measured["peer"]), aim)
        finally:
            os.close(artifact)
        yield warm_call(bench, sealed, unsealed)


def warm_call(bench: Bench, sealed: ZygoteHost, unsealed: ZygoteHost) -> Row:
    """A call of an export over its runner's socket, API and HTTP left out; both runners were made beforehand."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="galago-bench-")))
        contenders = {}
        for name, zygote in (("ours", sealed), ("peer", unsealed)):
            artifact = compiled(zygote, EXPORT)
            service = stack.enter_context(Service(zygote, artifact, directory / name))
            os.close(artifact)
            service.serve_export(b"hello", (), (I32,)).ready()
            assert service.export() == [42]
            contenders[name] = partial(call_us, service, CALLS_PER_SHOT * bench.effort.batch)
        measured = bench.alternate(contenders, bench.effort.rounds * 5)
    return Row.of("warm call of an export", "us a call", measured["ours"], (PEER, measured["peer"]), CALL_AIM)


def call_us(service: Service, calls: int) -> list[float]:
    """One call's time, as the mean of many."""
    start = time.perf_counter()
    for _ in range(calls):
        asker = service.ask()
        while asker.recv(4096):
            pass
        asker.close()
    return [(time.perf_counter() - start) * 1e6 / calls]


@contextmanager
def zygotes() -> Iterator[tuple[ZygoteHost, ZygoteHost]]:
    """A sealing zygote and one that doesn't."""
    with TemporaryDirectory(prefix="galago-bench-") as directory:
        hosts: list[ZygoteHost] = []
        try:
            for arguments, module in (((), "runner.zygote"), (("allow_unsealed=1",), UNSEALED)):
                root = Path(directory) / module
                root.mkdir(mode=0o755)
                hosts.append(ZygoteHost(root, *arguments, module=module).wait_ready())
            yield hosts[0], hosts[1]
        finally:
            for host in hosts:
                host.close()


def compiled(zygote: ZygoteHost, module: bytes = HELLO) -> int:
    """The artifact of a module, by default of a hello command, in a sealed memfd."""
    outcome, artifact = zygote.compile(module)
    assert outcome.reason == "exit", outcome.detail
    return artifact


def _timed(
    measure: Callable[[ZygoteHost, int], float], zygote: ZygoteHost, artifact: int, times: int
) -> Callable[[], list[float]]:
    return lambda: [measure(zygote, artifact) for _ in range(times)]


def ready_ms(zygote: ZygoteHost, artifact: int) -> float:
    """From asking for the fork to READY, the artifact's load within it; the runner's end isn't timed."""
    start = time.perf_counter()
    run = zygote.spawn()
    run.load(artifact)
    run.ready_layers()
    elapsed = time.perf_counter() - start
    run.hang_up()
    assert run.finish() == 0
    zygote.runs.clear()
    return elapsed * 1000


def job_ms(zygote: ZygoteHost, artifact: int) -> float:
    """From asking for the fork to the reaped process, a job with its output in between."""
    return _job(zygote, artifact)[0] * 1000


def job_cpu_ms(zygote: ZygoteHost, artifact: int) -> float:
    """What the kernel counted of the same: from the fork, whose page faults are most of it, to the end."""
    return _job(zygote, artifact)[1] * 1000


def _job(zygote: ZygoteHost, artifact: int) -> tuple[float, float]:
    """One job's time and CPU time, in seconds."""
    start = time.perf_counter()
    run = zygote.spawn()
    run.load(artifact, flags=FLAG_ONE_JOB)
    run.job()
    outcome = run.outcome()
    assert run.finish() == 0
    elapsed = time.perf_counter() - start
    assert (outcome.reason, run.stdout()) == ("exit", b"hello world\n")
    run.close_outputs()
    zygote.runs.clear()
    return elapsed, run.cpu_s
