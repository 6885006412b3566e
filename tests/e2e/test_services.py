"""Services: deployed, the default, switched, stopped, and there again after whatever dies."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guests
from tests.e2e.calling import call, connection, read_answer, send_call
from tests.e2e.functions import deploy
from tests.e2e.harness import EXPORTS, HELLO, STOP_S, Worker, await_dead, fields, running, wait_for, wasm

OPTIONS = ("--max-runners", "6", "--service-drain-s", "30", "--api-workers", "1", "--recycle-calls", "5")
FETCHED = ("--fetch-allow", "127.0.0.1", "--file-dir")


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "services", *OPTIONS, *FETCHED, str(place)) as started:
        yield started


@pytest.fixture(scope="module")
def hello(worker: Worker) -> str:
    return worker.upload(wasm(HELLO))


def revision(worker: Worker, function: str, name: str) -> dict[str, Any] | None:
    """What `/functions` says of it, once the coordinator has told."""
    answer = worker.http.get(f"/revisions/{function}")
    if answer.status_code == 404:
        return None
    return next((found for found in answer.json()["revisions"] if found["revision"] == name), None)


def default(worker: Worker, function: str) -> tuple[str | None, int]:
    answer = worker.http.get(f"/revisions/{function}")
    assert answer.status_code == 200, answer.text
    return answer.json()["default"], answer.json()["generation"]


def switch(worker: Worker, function: str, name: str, on: str = "on", **headers: str) -> tuple[int, dict[str, Any]]:
    answer = worker.http.put(f"/revisions/{function}/{name}/default/{on}", headers=headers)
    return answer.status_code, answer.json()


def events(task: dict[str, Any]) -> list[str]:
    return [event["event"] for event in task["events"]]


def stop(worker: Worker, *tasks: dict[str, Any], force: bool = True) -> None:
    for task in tasks:
        worker.order_stop(task["id"], force=force)
        assert ("completed", "stopped") == fields(worker.await_end(task["id"]), "state", "reason")


def sockets(worker: Worker) -> set[str]:
    return set(os.listdir(worker.data_dir / "run" / "calls"))


# -- deployed --------------------------------------------------------------------------------------------------------


def test_a_deployed_command_is_running_and_answers(worker: Worker, hello: str) -> None:
    task = deploy(worker, "hello", "r1", hello)
    assert ("service", None, None) == fields(task, "kind", "runner", "reason")
    for _ in range(3):
        answer = call(worker, task["id"])
        assert ("exit", 0, b"hello world\n") == (answer.reason, answer.exit_code, answer.body)
    assert task["id"] in sockets(worker)
    stop(worker, task)
    assert task["id"] not in sockets(worker)


def test_an_export_answers_with_its_raw_results(worker: Worker) -> None:
    digest = worker.upload(wasm(EXPORTS))
    task = deploy(worker, "add", "r1", digest, handler={"abi": "export", "export": "add"})
    answer = call(worker, task["id"], struct.pack("<QQ", 19, 23))
    assert ("exit", struct.pack("<Q", 42)) == (answer.reason, answer.body)
    stop(worker, task)


def test_a_service_whose_module_cannot_be_had_fails_and_may_be_deployed_again(worker: Worker, hello: str) -> None:
    posted = worker.post(
        kind="service",
        function={"name": "bad", "revision": "r1", "default": True},
        handler={"abi": "wagi"},
        module={"url": "http://127.0.0.1:1/nobody.wasm"},
    )
    assert 201 == posted.status_code, posted.text
    ended = worker.await_end(posted.json()["id"])
    assert ("failed", "fetch_failed") == fields(ended, "state", "reason")
    assert (None, None, 0) == (revision(worker, "bad", "r1"), *default(worker, "bad"))
    stop(worker, deploy(worker, "bad", "r1", hello))


STARTS = {
    "(func $s unreachable)": ({}, "trap", "unreachable_code_reached"),
    "(func $s (loop $l (br $l)))": ({"fuel": 10_000}, "fuel", None),
    "(func $s (loop $l (br $l)) (nop))": ({"fuel": 2**62, "wall_ms": 50}, "deadline", None),
    "(func $s (call $sleep (i64.const 3600000)))": ({"wall_ms": 50}, "killed_deadline", None),
    "(memory $m 100) (func $s)": ({"memory_bytes": 2**20}, "init_failed", None),
}


@pytest.mark.parametrize(("start", "limits", "reason", "trap"), [(text, *rest) for text, rest in STARTS.items()])
def test_a_service_that_no_instance_can_be_made_of_fails_by_the_reason_of_that(
    worker: Worker, start: str, limits: dict[str, int], reason: str, trap: str | None
) -> None:
    module = worker.upload(wasm(f'(module {guests.SLEEPING} {start} (start $s) (func (export "_start")))'))
    function = {"name": "stillborn", "revision": "r1", "default": True}
    task_id = worker.start_task(module, kind="service", function=function, handler={"abi": "wagi"}, limits=limits)
    ended = worker.await_end(task_id)
    assert ("failed", "scheduled", reason, trap) == fields(ended, "state", "previous_state", "reason", "trap_code")
    assert ended["detail"]
    assert (None, None, 0) == (revision(worker, "stillborn", "r1"), *default(worker, "stillborn"))


def test_a_service_that_names_its_module_by_url_knows_the_export_once_it_is_here(place: Path, worker: Worker) -> None:
    (place / "exports.wasm").write_bytes(wasm(EXPORTS))
    (place / "exports.wasm").chmod(0o644)
    handler = {"abi": "export", "export": "both"}
    spec = {"kind": "service", "handler": handler, "module": {"url": f"file://{place}/exports.wasm"}}
    posted = worker.post(**spec, function={"name": "fetched", "revision": "r1"}).json()
    task = worker.await_state(posted["id"], "running")
    answer = call(worker, task["id"], struct.pack("<QQ", 7, 2**63))
    assert ("exit", struct.pack("<QQ", 2**63, 7)) == (answer.reason, answer.body)
    stop(worker, task)
    unfit = {**spec, "handler": {"abi": "export", "export": "absent"}}
    ended = worker.await_end(worker.post(**unfit, function={"name": "fetched", "revision": "r1"}).json()["id"])
    assert ("failed", "link_failed") == fields(ended, "state", "reason")


def test_a_revision_is_deployed_once_at_a_time(worker: Worker, hello: str) -> None:
    task = deploy(worker, "once", "r1", hello)
    again = worker.post(
        kind="service",
        function={"name": "once", "revision": "r1"},
        handler={"abi": "wagi"},
        module={"digest": hello},
    )
    assert (409, "revision_exists") == worker.refused(again)
    stop(worker, task)
    stop(worker, deploy(worker, "once", "r1", hello))


# -- the default -----------------------------------------------------------------------------------------------------


def test_the_default_is_switched_by_generations(worker: Worker, hello: str) -> None:
    first = deploy(worker, "switched", "r1", hello)
    second = deploy(worker, "switched", "r2", hello, default=False)
    assert ("r1", 1) == default(worker, "switched")
    assert (200, {"function": "switched", "default": "r2", "previous": "r1", "generation": 2}) == switch(
        worker, "switched", "r2", **{"if-match": '"1"'}
    )
    assert 412 == switch(worker, "switched", "r1", **{"if-match": '"1"'})[0]
    assert (404, "revision_unknown") == (lambda found: (found[0], found[1]["code"]))(switch(worker, "switched", "r3"))
    assert 200 == switch(worker, "switched", "r1", "off")[0]  # it isn't the default: nothing changes
    assert ("r2", 2) == default(worker, "switched")
    stop(worker, second)
    assert (None, 3) == default(worker, "switched")
    stop(worker, first)
    assert (None, 3) == default(worker, "switched")


# -- stopped ---------------------------------------------------------------------------------------------------------


def test_a_stop_serves_what_waits_and_refuses_what_comes(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    handler = {"abi": "export", "export": "nap"}
    task = deploy(worker, "slow", "r1", digest, handler=handler, scale={"max": 1})
    with ExitStack() as stack:
        callers = [stack.enter_context(connection(worker, task["id"])) for _ in range(3)]
        for caller in callers:
            send_call(caller, struct.pack("<Q", 300))
        worker.order_stop(task["id"])
        wait_for(lambda: task["id"] not in sockets(worker), "nobody can connect any more")
        assert ["exit"] * 3 == [answer.reason for answer in map(read_answer, callers) if answer is not None]
    ended = worker.await_end(task["id"])
    assert ("completed", "stopped") == fields(ended, "state", "reason")
    assert None is revision(worker, "slow", "r1")


def test_a_forced_stop_waits_for_nobody(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = deploy(worker, "stuck", "r1", digest, handler={"abi": "export", "export": "nap"}, scale={"max": 1})
    with connection(worker, task["id"]) as runs, connection(worker, task["id"]) as waits:
        for caller in (runs, waits):
            send_call(caller, struct.pack("<Q", 60_000))
        wait_for(lambda: runs.recv(1, socket.MSG_PEEK), "it runs")
        stop(worker, task)
        assert [None, "reset"] == [end_of(runs), end_of(waits)]


def end_of(caller: socket.socket) -> object:
    """An answer, None where there was none, or that nobody has read the call."""
    try:
        return read_answer(caller)
    except ConnectionResetError:
        return "reset"


# -- runners come and go ---------------------------------------------------------------------------------------------


def test_idle_runners_go_and_a_call_brings_one_back(worker: Worker, hello: str) -> None:
    task = deploy(worker, "idle", "r1", hello, scale={"idle_ms": 1})
    for cold_starts in (1, 2):
        wait_for(lambda: runners(revision(worker, "idle", "r1")) == (0, 0, 0), "nobody serves any more")
        assert b"hello world\n" == call(worker, task["id"]).body
        found = revision(worker, "idle", "r1")
        assert found is not None
        assert cold_starts == found["cold_starts"]
    stop(worker, task)


def test_calls_that_wait_make_runners_grow_up_to_the_most(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    handler = {"abi": "export", "export": "nap"}
    task = deploy(worker, "grows", "r1", digest, handler=handler, scale={"max": 3})
    with ExitStack() as stack:
        callers = [stack.enter_context(connection(worker, task["id"])) for _ in range(5)]
        for caller in callers:
            send_call(caller, struct.pack("<Q", 60_000))
        wait_for(lambda: runners(revision(worker, "grows", "r1")) == (0, 3, 0), "three are busy")
        found = revision(worker, "grows", "r1")
        assert found is not None
        assert 2 == found["queued"]
        stop(worker, task)


def test_runners_that_are_worn_out_are_replaced_and_no_call_is_lost(worker: Worker, hello: str) -> None:
    task = deploy(worker, "worn", "r1", hello, scale={"max": 1})
    seen = set()
    for _ in range(16):
        assert b"hello world\n" == call(worker, task["id"]).body
        seen.update(process.pid for process in worker.role("fork"))
    assert 3 <= len(seen)
    assert None is worker.task(task["id"])["reason"]
    stop(worker, task)


# -- what dies -------------------------------------------------------------------------------------------------------


def test_a_runner_that_is_killed_is_replaced(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    handler = {"abi": "export", "export": "nap"}
    task = deploy(worker, "killed", "r1", digest, handler=handler, scale={"min": 1, "max": 1})
    with connection(worker, task["id"]) as caller:
        send_call(caller, struct.pack("<Q", 60_000))
        wait_for(lambda: caller.recv(1, socket.MSG_PEEK), "it runs")
        (server,) = servers(worker, task["id"])
        os.kill(server, signal.SIGKILL)
        assert None is read_answer(caller)
    assert "exit" == call(worker, task["id"], struct.pack("<Q", 1)).reason
    assert "running" == worker.task(task["id"])["state"]
    assert [server] != wait_for(lambda: servers(worker, task["id"]), "another serves")
    stop(worker, task)


def test_what_serves_outlives_the_zygote_and_the_next_one_makes_more(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    handler = {"abi": "export", "export": "nap"}
    task = deploy(worker, "outlives", "r1", digest, handler=handler, scale={"max": 2})
    (first,) = wait_for(lambda: servers(worker, task["id"]), "one serves")
    worker.one("zygote").kill()
    with connection(worker, task["id"]) as runs, connection(worker, task["id"]) as waits:
        for caller in (runs, waits):
            send_call(caller, struct.pack("<Q", 60_000))
        pids = wait_for(lambda: len(found := servers(worker, task["id"])) == 2 and found, "a second serves")
        assert first in pids
        stop(worker, task)


def servers(worker: Worker, task_id: str) -> list[int]:
    """The pids of those that serve a service; statistics are read once a second."""
    return [use["pid"] for use in worker.http.get("/stats").json()["running"] if use["task_id"] == task_id]


def test_services_are_back_when_the_coordinator_was_killed(worker: Worker, hello: str) -> None:
    tasks = [deploy(worker, "back", name, hello, default=name == "r1") for name in ("r1", "r2")]
    before = [worker.one("coordinator"), *worker.role("runner")]
    before[0].kill()
    await_dead(before, "what served goes with its coordinator, and answers no more")
    for task in tasks:
        assert b"hello world\n" == call(worker, task["id"]).body
    worker.await_ready()
    assert ("r1", 1) == default(worker, "back")
    for task in tasks:
        again = worker.await_state(task["id"], "running")
        assert (2, "running") == fields(again, "attempts", "state")
    stop(worker, *tasks)


# -- figures ---------------------------------------------------------------------------------------------------------


def test_what_runs_is_told(worker: Worker, hello: str) -> None:
    task = deploy(worker, "told", "r1", hello, scale={"min": 2, "max": 2})
    found = wait_for(
        lambda: runners(revision(worker, "told", "r1")) == (2, 0, 0) and revision(worker, "told", "r1"),
        "both runners are there",
    )
    assert (task["id"], 0, None) == fields(found, "task_id", "queued", "trouble")
    wait_for(lambda: worker.http.get("/stats").json()["runners"]["free"] == 4, "what ran before is gone")
    told = worker.http.get("/stats").json()["functions"]["told"]
    assert {"revisions": 1, "runners": 2, "queued": 0, "calls": 0, "errors": 0} == told
    full = (6, 4, 0)  # the page is written after the turn that has answered
    names = ("runners_total", "runners_free", "calls_waiting")
    wait_for(lambda: full == fields(worker.http.get("/readyz").json(), *names), "/readyz says so too")
    metrics = worker.http.get("/metrics").text
    assert 'galago_function_runners{function="told",revision="r1",state="idle"} 2.0\n' in metrics
    assert 'galago_seal_layer{layer="seccomp"} 1.0\n' in metrics
    stop(worker, task)


def runners(found: dict[str, Any] | None) -> tuple[int, int, int] | None:
    """Idle, busy and starting, where somebody told."""
    of = found and found["runners"]
    return None if of is None else (of["idle"], of["busy"], of["starting"])


# -- the end ---------------------------------------------------------------------------------------------------------


def test_a_drain_serves_to_the_end_and_the_next_start_serves_on(place: Path) -> None:
    with running(place / "drained", *OPTIONS, "--drain-s", "300", "--deregistration-delay-s", "1") as worker:
        digest = worker.upload(wasm(guests.SLEEPER))
        deploy(worker, "naps", "r1", digest, handler={"abi": "export", "export": "nap"}, scale={"max": 1})
        task = deploy(worker, "kept", "r1", wasm(HELLO))
        with ThreadPoolExecutor(1) as pool, worker.client() as client:
            napping = pool.submit(client.post, "/functions/naps", json={"params": [1500]})
            assert worker.process is not None
            worker.process.send_signal(signal.SIGTERM)
            ready = wait_for(lambda: (told := worker.http.get("/readyz")).status_code == 503 and told, "it drains")
            assert ("draining", "draining", False, 6) == fields(ready.json(), "code", "state", "ready", "runners_total")
            assert ready.json()["runners_free"] <= 4
            assert b"hello world\n" == call(worker, task["id"]).body
            assert (200, {"result": []}) == (napping.result().status_code, napping.result().json())
        assert 0 == worker.process.wait(STOP_S)
        assert set() == sockets(worker)
        worker.start()
        assert b"hello world\n" == call(worker, task["id"]).body
        again = worker.await_state(task["id"], "running")
        assert ("running", 2) == fields(again, "state", "attempts")
        assert ("r1", 1) == default(worker, "kept")
