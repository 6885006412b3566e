"""Jobs over REST, from the upload to the end: what goes in arrives, and what comes out is what the guest gave."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import guests
from tests.e2e.harness import EXPORTS, HELLO, Worker, fields, pid_of, running, stdin_bytes, wasm
from tests.guests.build import guest

FUEL = 10**15  # more than any guest here comes to use before its time is over


@pytest.fixture(scope="module")
def worker(place: Path) -> Iterator[Worker]:
    with running(place / "data") as worker:
        yield worker


def stderr(worker: Worker, task_id: str) -> bytes:
    answer = worker.http.get(f"/tasks/{task_id}/stderr")
    assert answer.status_code == 200, answer.text
    return answer.content


def call(worker: Worker, digest: str, export: str, *params: Any, **task: Any) -> dict[str, Any]:
    return worker.run(digest, entry={"export": export, "params": list(params)}, **task)


# -- commands ------------------------------------------------------------------------------------------------------


def test_a_command_says_hello_and_ends_with_exit_code_0(worker: Worker) -> None:
    digest = worker.upload(wasm(HELLO))
    task = worker.run(digest, name="greeter")
    assert ("completed", "running", "exit", 0) == fields(task, "state", "previous_state", "reason", "exit_code")
    assert (None, None, None, False) == fields(task, "result", "trap_code", "signal", "truncated")
    assert ("greeter", {"digest": digest, "url": None}) == (task["name"], task["module"])
    assert (b"hello world\n", b"") == (worker.stdout(task["id"]), stderr(worker, task["id"]))


def test_a_tasks_story_is_told_in_order_with_times(worker: Worker) -> None:
    task = worker.run(worker.upload(wasm(HELLO)))
    events = [(event["event"], event["state"]) for event in task["events"]]
    expected = [
        ("accepted", "pending"),
        ("slot_assigned", "scheduled"),
        ("runner_started", "running"),
        ("ended", "completed"),
    ]
    assert expected == events
    times = [event["at"] for event in task["events"]]
    assert times == sorted(times)
    points = ("created_at", "scheduled_at", "started_at", "finished_at")
    assert times == [task[name] for name in points]


def test_arguments_and_environment_arrive_and_argv_0_is_the_tasks_name(worker: Worker) -> None:
    digest = worker.upload(guest("echo"))
    task = worker.run(digest, name="echo-1", args=["--fast", "", "two words", "käse"], env={"LANG": "C", "EMPTY": ""})
    expected = ["arg 0: echo-1", "arg 1: --fast", "arg 2: ", "arg 3: two words", "arg 4: käse", "env: LANG=C"]
    assert [*expected, "env: EMPTY="] == worker.stdout(task["id"]).decode().splitlines()


def test_without_a_name_argv_0_is_the_modules_short_digest(worker: Worker) -> None:
    digest = worker.upload(guest("echo"))
    task = worker.run(digest)
    short = digest.removeprefix("sha256:")[:12]
    assert (short, f"arg 0: {short}\n".encode()) == (task["name"], worker.stdout(task["id"]))


def test_a_worker_gives_guests_nothing_of_its_own_environment(worker: Worker) -> None:
    task = worker.run(worker.upload(guest("echo")))
    assert b"env:" not in worker.stdout(task["id"])


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        ("plain text, käse\n", "plain text, käse\n".encode()),
        ("", b""),
        (stdin_bytes(bytes(range(256))), bytes(range(256))),
        ({"base64": ""}, b""),
    ],
    ids=["text", "empty", "base64", "empty base64"],
)
def test_stdin_arrives_byte_for_byte(worker: Worker, stdin: Any, expected: bytes) -> None:
    task = worker.run(worker.upload(guest("cat")), stdin=stdin)
    assert (expected, len(expected)) == (worker.stdout(task["id"]), task["stdin"]["size_bytes"])


def test_stdin_may_be_a_mebibyte_and_goes_to_both_streams(worker: Worker) -> None:
    data = bytes(index * 7 % 251 for index in range(1 << 20))
    task = worker.run(worker.upload(guest("cat")), stdin=stdin_bytes(data), args=["both"])
    assert ("exit", 1 << 20) == (task["reason"], task["stdin"]["size_bytes"])
    assert data == worker.stdout(task["id"])
    assert data == stderr(worker, task["id"])


def test_more_than_a_mebibyte_of_stdin_is_refused(worker: Worker) -> None:
    body = {"base64": base64.b64encode(bytes((1 << 20) + 1)).decode()}
    answer = worker.post(module={"digest": worker.upload(guest("cat"))}, stdin=body)
    assert (422, "field_range") == worker.refused(answer)


@pytest.mark.parametrize("code", [1, 7, 255])
def test_a_nonzero_exit_is_a_failure_with_its_code_and_keeps_the_output(worker: Worker, code: int) -> None:
    task = worker.run(worker.upload(guest("exit")), args=[str(code)])
    assert ("failed", "nonzero_exit", code) == (task["state"], task["reason"], task["exit_code"])
    assert b"before the end\n" == worker.stdout(task["id"])


def test_proc_exit_0_is_success_though_it_unwinds_like_a_trap(worker: Worker) -> None:
    task = worker.run(worker.upload(guest("exit")), args=["0"])
    assert ("completed", "exit", 0, None) == fields(task, "state", "reason", "exit_code", "trap_code")


# -- exports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("i32", 2**31 - 1, 2**31 - 1),
        ("i32", -(2**31), -(2**31)),
        ("i64", 2**53 - 1, 2**53 - 1),
        ("i64", -(2**53 - 1), -(2**53 - 1)),
        ("i64", 2**53, "9007199254740992"),
        ("i64", "9007199254740991", 2**53 - 1),
        ("i64", "9223372036854775807", "9223372036854775807"),
        ("i64", -(2**63), "-9223372036854775808"),
        ("i64", "-9223372036854775808", "-9223372036854775808"),
        ("f32", 0.5, 0.5),
        ("f32", 16777217, 16777216.0),
        ("f32", "NaN", "NaN"),
        ("f32", "Infinity", "Infinity"),
        ("f32", "-Infinity", "-Infinity"),
        ("f64", 0.1, 0.1),
        ("f64", 5e-324, 5e-324),
        ("f64", 1.7976931348623157e308, 1.7976931348623157e308),
        ("f64", "NaN", "NaN"),
        ("f64", "Infinity", "Infinity"),
        ("f64", "-Infinity", "-Infinity"),
    ],
)
def test_a_number_goes_in_and_comes_out(worker: Worker, kind: str, given: Any, expected: Any) -> None:
    task = call(worker, worker.upload(wasm(guests.NUMBERS)), kind, given)
    assert ("completed", "exit", None, [expected]) == fields(task, "state", "reason", "exit_code", "result")
    assert {"export": kind, "params": [given]} == task["entry"]


def test_negative_zero_keeps_its_sign(worker: Worker) -> None:
    answer = worker.post(
        wait_s=60,
        module={"digest": worker.upload(wasm(guests.NUMBERS))},
        entry={"export": "f64", "params": [-0.0]},
    )
    assert '"result":[-0.0]' in answer.text


def test_all_types_at_once_and_several_results_come_in_order(worker: Worker) -> None:
    task = call(worker, worker.upload(wasm(guests.NUMBERS)), "all", -1, "9223372036854775807", 1.5, "-Infinity")
    assert ["-Infinity", 1.5, "9223372036854775807", -1] == task["result"]


def test_an_export_that_returns_nothing_has_an_empty_result(worker: Worker) -> None:
    assert [] == call(worker, worker.upload(wasm(guests.NUMBERS)), "none")["result"]


def test_arithmetic_is_the_guests_own(worker: Worker) -> None:
    digest = worker.upload(wasm(EXPORTS))
    results = [
        call(worker, digest, export, *params)["result"]
        for export, params in [
            ("add", (19, 23)),
            ("add64", ("9223372036854775807", 1)),
            ("half", (3,)),
            ("divide", (1, 0)),
            ("divide", (0, 0)),
            ("both", (1, 2)),
        ]
    ]
    assert [[42], ["-9223372036854775808"], [1.5], ["Infinity"], ["NaN"], [2, 1]] == results


def test_a_reactor_is_initialized_before_its_export_is_called(worker: Worker) -> None:
    assert [1] == call(worker, worker.upload(guest("maths", reactor=True)), "ready")["result"]


@pytest.mark.parametrize(
    ("export", "params"),
    [
        ("absent", []),
        ("i32", []),
        ("i32", [1, 2]),
        ("i32", [2**31]),
        ("i32", [1.5]),
        ("i32", ["1"]),
        ("i64", ["9223372036854775808"]),
        ("f32", [1e39]),
        ("f64", ["nan"]),
        ("i32", [True]),
    ],
)
def test_an_entry_that_does_not_fit_is_refused_when_it_is_posted(
    worker: Worker, export: str, params: list[Any]
) -> None:
    module = {"digest": worker.upload(wasm(guests.NUMBERS))}
    answer = worker.post(module=module, entry={"export": export, "params": params})
    assert (422, "entry_invalid") == worker.refused(answer)
    assert answer.json()["field"].startswith("entry.")


# -- traps and imports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("export", "params", "code"),
    [
        ("unreachable", [], "unreachable_code_reached"),
        ("division", [0], "integer_division_by_zero"),
        ("overflow", [], "integer_overflow"),
        ("conversion", ["NaN"], "bad_conversion_to_integer"),
        ("out_of_bounds", [], "memory_out_of_bounds"),
        ("null_call", [], "indirect_call_to_null"),
        ("recursion", [0], "stack_overflow"),
    ],
)
def test_a_trap_is_told_with_its_code(worker: Worker, export: str, params: list[Any], code: str) -> None:
    task = call(worker, worker.upload(wasm(guests.TRAPS)), export, *params)
    assert ("failed", "trap", code, None) == fields(task, "state", "reason", "trap_code", "result")
    assert code in task["detail"]


def test_an_abort_is_a_trap_and_keeps_what_was_written_before(worker: Worker) -> None:
    task = worker.run(worker.upload(guest("exit")), args=["abort"])
    assert ("trap", "unreachable_code_reached") == (task["reason"], task["trap_code"])
    assert b"before the end\n" == worker.stdout(task["id"])


def test_unknown_imports_are_refused_by_name_unless_they_are_stubbed(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.LACKING))
    answer = worker.post(module={"digest": digest}, entry={"export": "ask"})
    assert (422, "import_unknown") == worker.refused(answer)
    assert "env.answer" in answer.json()["detail"]
    assert [5] == call(worker, digest, "ask", unknown_imports="stub")["result"]


def test_only_functions_can_be_stubbed(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.LACKING_GLOBAL))
    answer = worker.post(module={"digest": digest}, entry={"export": "ask"}, unknown_imports="stub")
    assert (422, "import_unknown") == worker.refused(answer)


# -- isolation: instance -------------------------------------------------------------------------------------------


def test_a_warm_runner_is_used_again_and_nothing_of_a_job_reaches_the_next(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.COUNTER))
    tasks = [call(worker, digest, "count", isolation="instance") for _ in range(5)]
    assert [[1, 1]] * 5 == [task["result"] for task in tasks]
    assert 1 == len({pid_of(task) for task in tasks})


def test_a_warm_runner_outlives_a_trap_and_forgets_what_the_trapped_job_wrote(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.COUNTER))
    exports = ("count", "grow", "trap", "count", "grow")
    tasks = [call(worker, digest, export, isolation="instance", name="after-trap") for export in exports]
    assert [[1, 1], [1], None, [1, 1], [1]] == [task["result"] for task in tasks]
    assert 1 == len({pid_of(task) for task in tasks})


def test_with_isolation_process_each_job_has_a_runner_of_its_own(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.COUNTER))
    tasks = [call(worker, digest, "count") for _ in range(3)]
    assert ([[1, 1]] * 3, 3) == ([task["result"] for task in tasks], len({pid_of(task) for task in tasks}))


@pytest.mark.parametrize(
    "other", [{"env": {"A": "2"}}, {"limits": {"fuel": 12345}}, {"env": {}}, {"unknown_imports": "stub"}]
)
def test_a_warm_runner_is_not_shared_across_environment_limits_or_imports(
    worker: Worker, other: dict[str, Any]
) -> None:
    digest = worker.upload(wasm(guests.COUNTER))
    same = {"env": {"A": "1"}, "isolation": "instance"}
    first = call(worker, digest, "count", **same)
    second = call(worker, digest, "count", **{**same, **other})
    assert pid_of(first) != pid_of(second)


def test_stdin_that_a_job_leaves_unread_is_not_seen_by_the_next(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SIPPER))
    given = ["0123456789abcdef" + "the rest is nobody's business" * 100, "b", "", "0123456789abcdefg"]
    tasks = [worker.run(digest, stdin=stdin, isolation="instance") for stdin in given]
    assert 1 == len({pid_of(task) for task in tasks})
    assert [b"0123456789abcdef", b"b", b"", b"0123456789abcdef"] == [worker.stdout(task["id"]) for task in tasks]


def test_the_output_of_a_warm_runners_jobs_stays_apart(worker: Worker) -> None:
    digest = worker.upload(wasm(HELLO))
    tasks = [worker.run(digest, isolation="instance") for _ in range(3)]
    assert [b"hello world\n"] * 3 == [worker.stdout(task["id"]) for task in tasks]


# -- output --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", "instance"])
@pytest.mark.parametrize("limit", [0, 1, 1000, 1200, 100_001])
def test_past_its_output_limit_a_job_ends_and_what_came_before_is_kept(
    worker: Worker, limit: int, isolation: str
) -> None:
    limits = {"output_bytes": limit, "fuel": FUEL}
    task = call(worker, worker.upload(wasm(guests.FLOOD)), "fill", 1, limits=limits, isolation=isolation)
    assert ("failed", "output_limit", True) == (task["state"], task["reason"], task["truncated"])
    pattern = (b"a" * 600 + b"b" * 600) * (limit // 1200 + 1)
    assert pattern[:limit] == worker.stdout(task["id"])


def test_stderr_has_the_same_limit(worker: Worker) -> None:
    limits = {"output_bytes": 700, "fuel": FUEL}
    task = call(worker, worker.upload(wasm(guests.FLOOD)), "fill", 2, limits=limits)
    assert ("output_limit", True) == (task["reason"], task["truncated"])
    assert (b"", b"a" * 600 + b"b" * 100) == (worker.stdout(task["id"]), stderr(worker, task["id"]))


def test_exactly_as_much_as_allowed_is_no_fault(worker: Worker) -> None:
    task = call(worker, worker.upload(wasm(guests.FLOOD)), "exact", 3, limits={"output_bytes": 1800})
    assert ("completed", "exit", False) == (task["state"], task["reason"], task["truncated"])
    assert 1800 == len(worker.stdout(task["id"]))


def test_output_can_be_read_while_the_guest_runs_and_outlives_its_crash(worker: Worker) -> None:
    digest = worker.upload(wasm(guests.SLEEPER))
    task = worker.start_running(digest, entry={"export": "block"}, limits={"wall_ms": 30_000})
    worker.await_output(task["id"], b"before\n")
    worker.kill_runner(task)
    ended = worker.await_end(task["id"])
    assert ("failed", "crashed", "SIGKILL") == (ended["state"], ended["reason"], ended["signal"])
    assert (b"before\n", b"aside\n") == (worker.stdout(task["id"]), stderr(worker, task["id"]))


def test_a_task_that_nobody_posted_has_no_output(worker: Worker) -> None:
    answer = worker.http.get("/tasks/01a20bfa-bf04-7f2d-86f8-66243a5ee7ff/stdout")
    assert (404, "task_unknown") == worker.refused(answer)
