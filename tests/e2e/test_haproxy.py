"""Two workers behind HAProxy by `deploy/haproxy.cfg`: one is drained and one killed under load; all is counted."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.functions import deploy
from tests.e2e.haproxy import BROKE, READY, Clients, front
from tests.e2e.harness import Worker, await_dead, free_port
from tests.guests.build import guest
from worker.shared.blobs import Blobs

CLIENTS = 8


class Served:
    """A worker with a calls listener and the function `tell`."""

    def __init__(self, data_dir: Path) -> None:
        self.calls_port = free_port()
        options = ("--calls-bind", f"127.0.0.1:{self.calls_port}", "--deregistration-delay-s", "2")
        self.worker = Worker(data_dir, *options, "--max-runners", "6", "--api-workers", "1")
        self.worker.start()
        self.task_id = deploy(self.worker, "tell", "r1", guest("teller"), scale={"min": 1, "max": 4})["id"]

    def executed(self) -> list[str]:
        """Every call that a guest here began, in its own words."""
        stderr = Blobs(self.worker.data_dir).output_paths(self.task_id)[1]
        return [line for line in stderr.read_text().splitlines() if line != READY]


@pytest.fixture
def pair(place: Path) -> Iterator[list[Served]]:
    served = [Served(place / "first"), Served(place / "second")]
    yield served
    for each in served:
        if each.worker.process is not None and each.worker.process.poll() is None:
            each.worker.stop()


def test_a_drain_and_a_death_under_load_cost_no_call_that_could_have_been_repeated(
    pair: list[Served], place: Path
) -> None:
    first, second = pair
    with front([each.calls_port for each in pair], place / "haproxy.log") as port, Clients(port, CLIENTS) as clients:
        clients.await_more(200)
        assert 0 == first.worker.stop()  # SIGTERM: /readyz says so, HAProxy turns away, what is in flight is served
        clients.await_more(200)
        assert {} == clients.count.failed
        first.worker.start()
        first.worker.await_state(first.task_id, "running")
        clients.await_more(200)
        tree = second.worker.tree()
        second.worker.kill()
        await_dead(tree, "a worker's tree goes with its launcher")
        clients.await_more(400)
    counted = clients.count
    assert [] == counted.wrong
    runs = collections.Counter(first.executed() + second.executed())
    assert {} == {call: times for call, times in runs.items() if times > 1}
    assert set() == counted.answered - set(runs)
    # What failed was in the killed worker's hands, as far as anybody could know: of each client one call whose runner
    # died before the API worker, which could still say so, and the next one, whose connection HAProxy lost.
    # None has "no": what a worker had known not to be executed would have been repeated.
    assert set(counted.failed.values()) <= {BROKE, (502, ""), (502, "maybe")}, counted.failed
    losses = collections.Counter(call.partition("-")[0] for call in counted.failed)
    assert max(losses.values(), default=0) <= 2, counted.failed
