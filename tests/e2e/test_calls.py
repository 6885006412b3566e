"""Calls to a real worker: switched, reloaded, killed and stopped under load; what one caller leaves, no other finds."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.functions import EXPORTS, SIPPER, Callers, deploy, deploy_export, refusal, speaker
from tests.e2e.harness import Worker, wait_for
from tests.guests.build import guest


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    running = Worker(place / "data", "--max-runners", "24")
    running.start()
    yield running
    assert 0 == running.stop()


def call(worker: Worker, path: str, method: str = "GET", **more: object) -> httpx.Response:
    answer = worker.http.request(method, f"/functions/{path}", **more)  # type: ignore[arg-type]
    assert answer.headers["x-galago-executed"] in ("no", "maybe", "yes"), answer.headers
    return answer


def test_six_switches_under_load_fail_no_call(worker: Worker) -> None:
    deploy(worker, "switched", "a", speaker("from a"))
    deploy(worker, "switched", "b", speaker("from b"), default=False)
    with Callers(worker, "/functions/switched", 32) as callers:
        for revision in "babaab":
            callers.await_more(200)
            answer = worker.http.put(f"/revisions/switched/{revision}/default/on")
            assert 200 == answer.status_code, answer.text
        callers.await_more(200)
    assert {(200, b"from a"), (200, b"from b")} == callers.kinds
    assert [] == callers.broken


def test_a_reload_under_load_fails_no_call(worker: Worker) -> None:
    deploy(worker, "reloaded", "a", speaker("still here"))
    with Callers(worker, "/functions/reloaded", 8) as callers:
        for _ in range(2):
            callers.await_more(100)
            before = {process.pid for process in worker.role("api")}
            assert worker.process is not None
            os.kill(worker.process.pid, signal.SIGHUP)
            wait_for(lambda was=before: not was & {each.pid for each in worker.role("api")}, "new API workers serve")
        callers.await_more(100)
    assert {(200, b"still here")} == callers.kinds
    assert [] == callers.broken


# The signal, the time that a call has, and what its caller is told.
STRUCK = {
    "KILL": (signal.SIGKILL, 20_000, (502, "runner_died", "maybe")),
    "SEGV": (signal.SIGSEGV, 20_000, (502, "runner_died", "maybe")),
    "STOP": (signal.SIGSTOP, 1_000, (504, "killed_deadline", "yes")),
}


@pytest.mark.parametrize("how", STRUCK)
def test_a_runner_struck_in_a_call_costs_that_call_alone(worker: Worker, how: str) -> None:
    number, wall_ms, told = STRUCK[how]
    name = f"struck-by-{how.lower()}"
    limits = {"wall_ms": wall_ms, "fuel": 10**15}
    task = deploy_export(worker, name, "forever", scale={"min": 1, "max": 1}, limits=limits)
    before = {process.pid for process in worker.role("runner")}
    answers: list[httpx.Response] = []
    client = worker.client()
    thread = threading.Thread(target=lambda: answers.append(client.post(f"/functions/{name}")))
    thread.start()
    os.kill(_await_burning(worker), number)
    thread.join()
    client.close()
    assert told == refusal(answers[0])
    wait_for(lambda: {process.pid for process in worker.role("runner")} - before, "another took its place")
    answer = call(worker, name, "POST", headers={"x-galago-limit-wall-ms": "50"})
    assert (504, "deadline", "yes") == refusal(answer)
    worker.order_stop(task["id"])


def _await_burning(worker: Worker) -> int:
    """The pid of a runner that uses CPU time: more than a tenth of a second since now."""
    before: dict[int, float] = {}

    def burning() -> int:
        for process in worker.role("runner"):
            used = process.cpu_times().user
            if used - before.setdefault(process.pid, used) > 0.1:
                return process.pid
        return 0

    found: int = wait_for(burning, "a runner is in a call")
    return found


def test_warm_functions_go_on_while_the_coordinator_is_stopped(worker: Worker) -> None:
    deploy(worker, "warm", "a", speaker("warm"), scale={"min": 1, "max": 1})
    assert 200 == call(worker, "warm").status_code
    coordinator = worker.one("coordinator")
    coordinator.suspend()
    try:
        for _ in range(50):
            assert (200, b"warm") == (call(worker, "warm").status_code, call(worker, "warm").content)
    finally:
        coordinator.resume()
    worker.await_ready()


def test_what_a_caller_leaves_no_other_finds(worker: Worker) -> None:
    """Its globals, its memory; and by C's stdio its body, of which the first caller's guest reads nothing."""
    deploy_export(worker, "globals", "count", scale={"min": 1, "max": 1})
    assert [{"result": [1]}] * 5 == [call(worker, "globals").json() for _ in range(5)]
    deploy_export(worker, "memory", "peek", scale={"min": 1, "max": 1})
    assert [{"result": [0]}] * 5 == [call(worker, "memory").json() for _ in range(5)]
    deploy(worker, "unread", "a", guest("handler"), scale={"min": 1, "max": 1})
    told = call(worker, "unread?tell", "POST", content=b"a secret of mine")
    assert b"hello" not in told.content
    echoed = call(worker, "unread", "POST", content=b"mine", headers={"content-type": "text/x-mine"})
    assert (201, b"mine") == (echoed.status_code, echoed.content)
    assert b"hello world\n" == call(worker, "unread").content


@pytest.mark.parametrize(("reuse", "counted"), [(1, "11111"), (3, "12312")])
def test_what_a_guest_leaves_unread_no_other_call_reads(worker: Worker, reuse: int, counted: str) -> None:
    """A kept instance has its memory still, as its deployer wished, and its own call's body alone."""
    name = f"sips-{reuse}"
    deploy(worker, name, "a", SIPPER, scale={"min": 1, "max": 1}, reuse={"max_calls": reuse})
    bodies = (b"secret, and more of it", b"mine", b"", b"long" * 100_000, b"")
    answers = [call(worker, name, "POST", content=body).content for body in bodies]
    assert [f"{n}".encode() + body[:8] for n, body in zip(counted, bodies, strict=True)] == answers


def test_an_instance_is_kept_where_the_deployer_says_so(worker: Worker) -> None:
    deploy_export(worker, "kept", "count", scale={"min": 1, "max": 1}, reuse={"max_calls": 3})
    assert [1, 2, 3, 1, 2] == [call(worker, "kept").json()["result"][0] for _ in range(5)]


def test_slow_clients_hold_no_runner(worker: Worker) -> None:
    """One that sends its body by and by, and one that takes nothing of its answer, while the only runner serves on."""
    deploy(worker, "one", "a", guest("handler"), scale={"min": 1, "max": 1}, limits={"output_bytes": 16 << 20})
    large = os.urandom(8 << 20)
    with connected(worker, 10, b"half ") as sends, connected(worker, len(large), large) as takes:
        wait_for(lambda: takes.recv(1, socket.MSG_PEEK), "its answer is there")
        for _ in range(10):
            assert b"hello world\n" == call(worker, "one").content
        sends.sendall(b"whole")
        assert read_whole(sends).endswith(b"\r\n\r\nhalf whole")
        assert read_whole(takes).endswith(large)


@pytest.mark.parametrize("body", [b"", b'{"params": []}'])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_call_is_cancelled_with_its_client_where_the_deployer_says_so(
    worker: Worker, body: bytes, at_once: bool
) -> None:
    name = f"cancelled-{len(body)}-{at_once}".lower()
    limits = {"wall_ms": 30_000, "fuel": 10**15}
    handler = {"abi": "export", "export": "forever", "on_disconnect": "cancel"}
    task = deploy(worker, name, "r1", EXPORTS, handler=handler, scale={"min": 1, "max": 1}, limits=limits)
    head = f"POST /functions/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", worker.port)) as caller:
        caller.sendall(head.encode() + body)
        if not at_once:
            _await_burning(worker)
    errors = f"/revisions/{name}"
    wait_for(
        lambda: worker.http.get(errors).json()["revisions"][0]["errors"] == {"client_gone": 1}, "its client is missed"
    )
    answer = call(worker, name, "POST", headers={"x-galago-limit-wall-ms": "50"})
    assert (504, "deadline", "yes") == refusal(answer)
    worker.order_stop(task["id"], force=True)


def connected(worker: Worker, length: int, body: bytes) -> socket.socket:
    """A connection on which a call of `one` has begun."""
    fields = ["Host: x", "Content-Type: a/b", "Connection: close", f"Content-Length: {length}"]
    head = "\r\n".join(["POST /functions/one HTTP/1.1", *fields, "", ""])
    connection = socket.create_connection(("127.0.0.1", worker.port), timeout=30)
    connection.sendall(head.encode() + body)
    return connection


def read_whole(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_slow_function_does_not_delay_a_fast_one(worker: Worker) -> None:
    deploy_export(worker, "slow", "forever", limits={"wall_ms": 700, "fuel": 10**15}, scale={"max": 2})
    deploy(worker, "fast", "a", speaker("fast"), scale={"min": 1})
    with Callers(worker, "/functions/slow", 4) as callers:
        _await_burning(worker)
        before = len(callers.answers)
        for _ in range(20):
            assert b"fast" == call(worker, "fast").content
        assert len(callers.answers) - before <= 4, "each of these took the fast one less time than two slow calls"
    assert {504} == {status for status, _ in callers.answers}


def test_a_full_backlog_is_told_at_once(worker: Worker) -> None:
    deploy_export(
        worker, "full", "forever", limits={"wall_ms": 500, "fuel": 10**15}, scale={"max": 1, "queue": 1}, queue_ms=20
    )
    with Callers(worker, "/functions/full", 6) as callers:
        wait_for(lambda: [body for status, body in callers.answers if status == 429], "one too many")
    codes = {
        (status, "function_queue_full" if b"function_queue_full" in body else "") for status, body in callers.answers
    }
    assert (429, "function_queue_full") in codes
    assert {429, 503, 504} >= {status for status, _ in codes}


@pytest.mark.parametrize(
    ("export", "params", "limits", "expected"),
    [
        ("trap", "[]", {}, (502, "guest_trap", "yes")),
        ("forever", "[]", {"fuel": 100_000}, (504, "fuel", "yes")),
        ("forever", "[]", {"fuel": 10**15, "wall_ms": 40}, (504, "deadline", "yes")),
    ],
)
def test_how_a_call_went_wrong_is_told(
    worker: Worker, export: str, params: str, limits: dict[str, int], expected: tuple[int, str, str]
) -> None:
    name = f"{export}{len(limits)}"
    deploy_export(worker, name, export, limits=limits)
    headers = {"content-type": "application/json"}
    assert expected == refusal(call(worker, name, "POST", content=f'{{"params": {params}}}', headers=headers))


def test_what_calls_came_to_is_told_in_every_place(worker: Worker) -> None:
    deploy_export(worker, "counted", "add", scale={"idle_ms": 1})

    def told() -> dict[str, Any]:
        (found,) = worker.http.get("/revisions/counted").json()["revisions"]
        return dict(found)

    wait_for(lambda: {0} == set(told()["runners"].values()), "its idle runner is given up")
    for body, status in ((b'{"params": [1, 2]}', 200), (b'{"params": [3, 4]}', 200), (b"{}", 422), (b"[", 400)):
        assert status == call(worker, "counted", "POST", content=body).status_code
    found = wait_for(lambda: (now := told())["calls"] == 4 and now, "every call is counted")
    assert {"field_missing": 1, "bad_json": 1} == found["errors"]
    assert 1 <= found["cold_starts"] <= 2
    assert found["fuel"] > 0
    for times in ("queue_us", "init_us", "run_us"):
        assert None not in [found[times][of] for of in ("p50", "p90", "p99", "mean")]
    stats = worker.http.get("/stats").json()["functions"]["counted"]
    assert (1, 4, 2) == (stats["revisions"], stats["calls"], stats["errors"])
    named = 'function="counted",revision="r1"'
    lines = worker.http.get("/metrics").text.splitlines()
    expected = [f'galago_function_calls_total{{code="{code}",{named}}}' for code in ("bad_json", "field_missing", "ok")]
    counts = [f"{line} {count}" for line, count in zip(expected, ("1.0", "1.0", "2.0"), strict=True)]
    counts += [f"galago_function_{times}_seconds_count{{{named}}} 2.0" for times in ("queue", "init", "run")]
    counts += [f"galago_function_cold_starts_total{{{named}}} {found['cold_starts']}.0"]
    counts += [f"galago_function_fuel_total{{{named}}} {found['fuel']}.0"]
    assert set() == set(counts) - set(lines)


def test_a_function_starts_from_nothing_and_goes_back_to_it(worker: Worker) -> None:
    before = len(worker.role("runner"))
    task = deploy(worker, "rare", "a", speaker("rare"), scale={"min": 0, "max": 2, "idle_ms": 50})
    wait_for(lambda: len(worker.role("runner")) <= before, "its idle runner is given up")
    assert b"rare" == call(worker, "rare").content
    worker.order_stop(task["id"])
    ended = worker.await_end(task["id"])
    assert ("completed", "stopped") == (ended["state"], ended["reason"])
    assert (404, "no_default_revision", "no") == refusal(call(worker, "rare"))
    assert (404, "revision_unknown", "no") == refusal(call(worker, "rare/a"))
