"""The three lines of DESIGN 6 with their three names, memory, ceilings; and the figures of every ending.

Deaths from outside: see `tests/hostile/test_signals.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guests
from tests.e2e.harness import DEADLINE_S, EXPORTS, HELLO, Worker, alive, fields, pid_of, running, wait_for, wasm

PAGE = 65_536
MIB = 1 << 20
FUEL = 10**15  # more than a loop burns before its time is over
CEILINGS = {"fuel": FUEL, "memory_bytes": 256 * MIB, "wall_ms": 20_000, "output_bytes": 8 * MIB}
FIGURES = ("wall_us", "queue_us", "init_us", "run_us", "cpu_us", "peak_memory_bytes")


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    options = [f"--max-{name.replace('_', '-')}={value}" for name, value in CEILINGS.items()]
    with running(place / "data", *options) as worker:
        yield worker


def call(worker: Worker, text: str, export: str, *params: Any, **limits: int) -> dict[str, Any]:
    entry = {"export": export, "params": list(params)}
    return worker.run(worker.upload(wasm(text)), entry=entry, limits=limits)


def assert_figures(task: dict[str, Any], *absent: str) -> None:
    """Every figure is there (but for `absent`), is a duration or a size, and the spans fit into the whole."""
    for name in (*FIGURES, "fuel_used"):
        if name in absent:
            continue
        assert isinstance(task[name], int), f"{name} is {task[name]!r}"
        assert 0 <= task[name] < 2**62, f"{name} is {task[name]!r}"
    assert task["queue_us"] <= task["wall_us"]
    assert task["run_us"] <= task["wall_us"]
    assert task["peak_memory_bytes"] > 0
    if task["isolation"] == "process":  # else it is what some microseconds of one job took by the process's clock
        assert task["cpu_us"] > 0


# -- fuel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", "instance"])
def test_a_loop_ends_when_its_fuel_is_used_up(worker: Worker, isolation: str) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = worker.run(digest, entry={"export": "loop"}, limits={"fuel": 1_000_000}, isolation=isolation)
    assert ("failed", "fuel", 1_000_000, None) == fields(task, "state", "reason", "fuel_used", "trap_code")
    assert_figures(task)


def test_fuel_is_counted_the_same_each_time(worker: Worker) -> None:
    used = [call(worker, EXPORTS, "add", 1, 2)["fuel_used"] for _ in range(3)]
    assert len(set(used)) == 1
    assert 0 < used[0] < 100


def test_one_unit_of_fuel_is_not_enough_for_anything(worker: Worker) -> None:
    assert "fuel" == call(worker, EXPORTS, "add", 1, 2, fuel=1)["reason"]


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", "instance"])
def test_a_loop_with_fuel_to_burn_ends_at_its_deadline(worker: Worker, isolation: str) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    limits = {"wall_ms": 400, "fuel": FUEL}
    task = worker.run(digest, entry={"export": "loop"}, limits=limits, isolation=isolation)
    assert ("failed", "deadline", None) == (task["state"], task["reason"], task["signal"])
    assert task["run_us"] >= 390_000
    assert task["fuel_used"] > 0
    assert b"before\n" == worker.stdout(task["id"])
    assert_figures(task)


@pytest.mark.parametrize("isolation", ["process", "instance"])
def test_a_guest_that_blocks_in_the_host_is_killed_past_its_deadline(worker: Worker, isolation: str) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = worker.run(digest, entry={"export": "block"}, limits={"wall_ms": 300}, isolation=isolation)
    assert ("failed", "killed_deadline", None) == (task["state"], task["reason"], task["signal"])
    assert task["run_us"] >= 300_000
    assert b"before\n" == worker.stdout(task["id"])
    assert_figures(task, "fuel_used")


def test_a_guest_that_sleeps_less_than_its_deadline_wakes_up(worker: Worker) -> None:
    task = call(worker, guests.SLEEPER, "nap", 50, wall_ms=20_000)
    assert ("completed", b"before\nafter\n") == (task["state"], worker.stdout(task["id"]))
    assert task["run_us"] >= 50_000


# -- memory --------------------------------------------------------------------------------------------------------


def test_memory_grows_to_its_limit_and_a_refused_growth_is_minus_one(worker: Worker) -> None:
    limit = 16 * PAGE
    grown = [call(worker, guests.GROWER, "grow", pages, memory_bytes=limit) for pages in (0, 15, 16, 65_535)]
    assert [[1], [1], [-1], [-1]] == [task["result"] for task in grown]
    assert {"completed"} == {task["state"] for task in grown}
    assert [PAGE, limit, PAGE, PAGE] == [task["peak_memory_bytes"] for task in grown]


def test_a_guest_that_traps_at_its_memory_limit_is_out_of_memory(worker: Worker) -> None:
    task = call(worker, guests.GROWER, "hog", memory_bytes=4 * MIB)
    assert ("failed", "oom_guest", 4 * MIB) == (task["state"], task["reason"], task["peak_memory_bytes"])
    assert_figures(task)


def test_all_the_memory_that_is_allowed_can_be_used(worker: Worker) -> None:
    task = call(worker, guests.GROWER, "touch", 200 * MIB // PAGE - 1, memory_bytes=200 * MIB)
    assert ("exit", [7], 200 * MIB) == (task["reason"], task["result"], task["peak_memory_bytes"])


def test_a_module_whose_memory_begins_above_its_limit_ends_with_a_reason(worker: Worker) -> None:
    task = worker.run(
        worker.upload(wasm('(module (memory (export "memory") 17) (func (export "_start")))')),
        limits={"memory_bytes": MIB},
    )
    assert ("failed", "init_failed") == (task["state"], task["reason"])
    assert "memory" in task["detail"]


# -- the start function --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "limits", "reason"),
    [
        ("(loop $l (br $l))", {"fuel": 100_000}, "fuel"),
        ("(loop $l (br $l))", {"fuel": FUEL, "wall_ms": 300}, "deadline"),
        ("(call $sleep (i64.const 3600000))", {"wall_ms": 300}, "killed_deadline"),
        ("unreachable", {}, "trap"),
    ],
    ids=["fuel", "deadline", "killed_deadline", "trap"],
)
def test_the_start_function_is_under_all_three(worker: Worker, body: str, limits: dict[str, int], reason: str) -> None:
    task = worker.run(worker.upload(wasm(guests.with_start(body))), limits=limits)
    assert ("failed", reason) == (task["state"], task["reason"])
    absent = ("fuel_used",) if reason == "killed_deadline" else ()
    assert_figures(task, *absent)


def test_a_start_function_that_returns_is_no_fault(worker: Worker) -> None:
    assert "exit" == worker.run(worker.upload(wasm(guests.with_start("nop"))))["reason"]


# -- ceilings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CEILINGS)
def test_a_limit_above_the_operators_ceiling_is_refused_and_the_ceiling_is_not(worker: Worker, name: str) -> None:
    module = {"digest": worker.upload(wasm(HELLO))}
    answer = worker.post(module=module, limits={name: CEILINGS[name] + 1})
    assert (422, "limit_above_ceiling") == worker.refused(answer)
    assert (f"limits.{name}", "no") == (answer.json()["field"], answer.json()["executed"])
    assert str(CEILINGS[name]) in answer.json()["detail"]
    assert "completed" == worker.run(module["digest"], limits={name: CEILINGS[name]})["state"]


@pytest.mark.parametrize(
    "limits", [{"fuel": 0}, {"memory_bytes": PAGE - 1}, {"wall_ms": 0}, {"output_bytes": -1}, {"fuel": 2**63}]
)
def test_a_limit_out_of_its_range_is_refused(worker: Worker, limits: dict[str, int]) -> None:
    answer = worker.post(module={"digest": worker.upload(wasm(HELLO))}, limits=limits)
    assert (422, "field_range") == worker.refused(answer)


# -- figures -------------------------------------------------------------------------------------------------------


def test_every_figure_is_there_when_all_went_well(worker: Worker) -> None:
    for isolation in ("process", "instance"):
        task = worker.run(worker.upload(wasm(HELLO)), isolation=isolation)
        assert ("completed", 1, None) == (task["state"], task["attempts"], task["runner"])
        assert_figures(task)
        assert PAGE == task["peak_memory_bytes"]


def test_a_warm_runners_second_job_had_no_start_of_its_own_to_pay_for(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.COUNTER))
    cold, warm = (worker.run(digest, entry={"export": "count"}, isolation="instance") for _ in range(2))
    assert pid_of(cold) == pid_of(warm)
    assert (True, None) == (cold["init_us"] > 0, warm["init_us"])
    assert_figures(warm, "init_us")


def test_a_running_task_shows_its_runner_and_the_process_is_gone_at_the_end(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = worker.start_running(digest, entry={"export": "nap", "params": [300]})
    runner = task["runner"]
    assert {"pid", "uid", "layers"} == runner.keys()
    processes = [process for process in worker.role("fork") if process.pid == runner["pid"]]
    assert [runner["uid"]] == [process.uids().real for process in processes]
    assert {"seccomp", "no_new_privs", "rlimits"} <= set(runner["layers"])
    ended = worker.await_end(task["id"])
    assert (None, pid_of(ended)) == (ended["runner"], runner["pid"])
    wait_for(lambda: not any(map(alive, processes)), "the runner is gone", DEADLINE_S)
