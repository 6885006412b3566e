"""Two workers behind HAProxy by `deploy/haproxy.cfg`: one is drained and one killed under load; all is counted."""

from __future__ import annotations

import collections
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.functions import deploy, deploy_export
from tests.e2e.haproxy import BROKE, READY, Clients, front
from tests.e2e.harness import Worker, await_dead, free_port, wait_for
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


@pytest.fixture(scope="module")
def pair(place: Path) -> Iterator[list[Served]]:
    served = [Served(place / "first"), Served(place / "second")]
    yield served
    for each in served:
        if each.worker.process is not None and each.worker.process.poll() is None:
            each.worker.stop()


@contextlib.contextmanager
def full(worker: Worker, function: str) -> Iterator[None]:
    """One call of a function that never ends is with its only runner, and another in the queue that takes no more."""

    def found() -> tuple[int, int]:
        (revision,) = worker.http.get(f"/revisions/{function}").json()["revisions"]
        return revision["runners"]["busy"], revision["queued"]

    with contextlib.ExitStack() as stack:
        for expected in ((1, 0), (1, 1)):
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port)))
            caller.sendall(f"GET /functions/{function} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_for(lambda expected=expected: found() == expected, f"{function} is {expected}")
        yield


def test_what_one_worker_is_too_full_for_the_other_is_given_and_nobody_sees_the_425(
    pair: list[Served], place: Path
) -> None:
    first, second = (each.worker for each in pair)
    never = {"scale": {"max": 1, "queue": 1}, "limits": {"wall_ms": 30_000, "fuel": 10**15}, "queue_ms": 30_000}
    tasks = [(first, deploy_export(first, "either", "forever", **never))]
    tasks += [(worker, deploy_export(worker, "neither", "forever", **never)) for worker in (first, second)]
    deploy_export(second, "either", "count")
    with (
        front([each.calls_port for each in pair], place / "haproxy.log") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/functions/") as client,
        full(first, "either"),
        full(first, "neither"),
        full(second, "neither"),
    ):
        answers = [client.get("either") for _ in range(20)]
        assert {(200, '{"result":[1]}')} == {(answer.status_code, answer.text) for answer in answers}
        refused = client.get("neither")
        assert (503, "function_queue_full") == (refused.status_code, refused.json()["code"])
        assert ("no", "1") == (refused.headers["x-galago-executed"], refused.headers["retry-after"])
    for worker, task in tasks:
        worker.order_stop(task["id"], force=True)


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
    assert 0 == first.worker.stop()
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
