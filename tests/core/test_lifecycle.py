"""The lifecycle: every legal step, and that everything else raises and changes nothing."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core.core_builders import ANY_EVENT, CREATED_US, DIGEST, OTHER_DIGEST, RUNNER, URL, make_task, task_in
from worker.core import diagram
from worker.core.changes import Note
from worker.core.clock import Now
from worker.core.diagram import BEGIN, END, block, mermaid
from worker.core.errors import CoreError, IllegalReason, IllegalTransition
from worker.core.events import (
    EVENT_TYPES,
    Ended,
    ModuleFetched,
    Recovered,
    RunnerStarted,
    ServiceReady,
    SlotAssigned,
    StopRequested,
    TaskEvent,
)
from worker.core.lifecycle import ENDS_WITH, HAPPENS_IN, end_state, step, transitions
from worker.core.task import FINAL, Entry, Reason, State, Usage

NOW = Now(CREATED_US + 5_000_000, 77)
README = Path(__file__).parents[2] / "README.md"

LEGAL = [(state, event) for event in EVENT_TYPES for state in State if state in HAPPENS_IN[event]]
ILLEGAL = [(state, event) for event in EVENT_TYPES for state in State if state not in HAPPENS_IN[event]]
LEGAL_ENDS = [(state, reason) for state in State for reason in Reason if reason in ENDS_WITH[state]]
ILLEGAL_ENDS = [
    (state, reason) for state in State if state not in FINAL for reason in Reason if reason not in ENDS_WITH[state]
]


def test_every_event_has_its_states() -> None:
    assert set(EVENT_TYPES) == set(HAPPENS_IN)


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_out_of_its_states_raises_and_changes_nothing(state: State, event: type[TaskEvent]) -> None:
    task = task_in(state)
    with pytest.raises(IllegalTransition, match=f"{event.__name__} can't happen to a {state} task") as raised:
        step(task, ANY_EVENT[event], NOW)
    assert (state, event.__name__) == (raised.value.state, raised.value.event)
    assert set(HAPPENS_IN[event]) == set(raised.value.allowed)
    assert task_in(state) == task


@pytest.mark.parametrize(("state", "event"), LEGAL)
def test_an_event_in_its_states_leads_where_the_table_says(state: State, event: type[TaskEvent]) -> None:
    after, _ = step(task_in(state), ANY_EVENT[event], NOW)
    stays = after.status.state is state
    assert stays or after.status.state in transitions()[state]


@pytest.mark.parametrize(("state", "reason"), ILLEGAL_ENDS)
def test_a_reason_that_its_state_does_not_know_raises(state: State, reason: Reason) -> None:
    with pytest.raises(IllegalReason, match=f"a {state} task can't end with {reason}") as raised:
        step(task_in(state), Ended(reason), NOW)
    assert (state, reason, set(ENDS_WITH[state])) == (
        raised.value.state,
        raised.value.reason,
        set(raised.value.allowed),
    )
    assert isinstance(raised.value, CoreError)


@pytest.mark.parametrize(("state", "reason"), LEGAL_ENDS)
def test_an_end_keeps_its_reason_and_the_state_before(state: State, reason: Reason) -> None:
    after, notes = step(task_in(state), Ended(reason, detail="because"), NOW)
    expected_state = (
        State.COMPLETED if reason is Reason.EXIT or (reason, state) == (Reason.STOPPED, State.RUNNING) else State.FAILED
    )
    assert (expected_state, state, reason) == (
        after.status.state,
        after.status.previous_state,
        after.status.reason,
    )
    assert (Note(NOW.wall_us, "ended", expected_state, reason, "because"),) == notes


def test_only_a_running_task_completes() -> None:
    completing = {(state, reason) for state, reason in LEGAL_ENDS if end_state(state, reason) is State.COMPLETED}
    assert {(State.RUNNING, Reason.EXIT), (State.RUNNING, Reason.STOPPED)} == completing


def test_final_states_lead_nowhere() -> None:
    assert {State.COMPLETED: frozenset(), State.FAILED: frozenset()} == {
        state: follows for state, follows in transitions().items() if state in FINAL
    }


def test_the_ways_between_the_states_are_those_of_the_design() -> None:
    assert {
        State.PENDING: {State.SCHEDULED, State.FAILED},
        State.SCHEDULED: {State.PENDING, State.RUNNING, State.FAILED},
        State.RUNNING: {State.PENDING, State.COMPLETED, State.FAILED},
        State.COMPLETED: set(),
        State.FAILED: set(),
    } == transitions()


def test_an_assigned_slot_schedules() -> None:
    after, notes = step(task_in(State.PENDING), SlotAssigned(), NOW)
    assert (State.SCHEDULED, State.PENDING, NOW.wall_us) == (
        after.status.state,
        after.status.previous_state,
        after.status.scheduled_at_us,
    )
    assert (Note(NOW.wall_us, "slot_assigned", State.SCHEDULED),) == notes


def test_a_started_runner_is_named_while_it_runs() -> None:
    after, notes = step(task_in(State.SCHEDULED), RunnerStarted(RUNNER), NOW)
    assert (State.RUNNING, RUNNER, NOW.wall_us) == (
        after.status.state,
        after.status.runner,
        after.status.started_at_us,
    )
    assert (Note(NOW.wall_us, "runner_started", State.RUNNING, None, "pid 4711, uid 60001"),) == notes
    ended, _ = step(after, Ended(Reason.TRAP), NOW)
    assert ended.status.runner is None


def test_a_service_that_is_ready_runs_and_no_single_runner_is_its_own() -> None:
    after, notes = step(task_in(State.SCHEDULED), ServiceReady(), NOW)
    status = after.status
    assert (State.RUNNING, State.SCHEDULED, None) == (status.state, status.previous_state, status.runner)
    assert (NOW.wall_us, (Note(NOW.wall_us, "service_ready", State.RUNNING),)) == (status.started_at_us, notes)


def test_a_fetched_module_names_the_digest_and_stays_pending() -> None:
    after, notes = step(make_task(digest=None, url=URL), ModuleFetched(DIGEST), NOW)
    assert (DIGEST, State.PENDING, None) == (after.spec.digest, after.status.state, after.spec.entry)
    assert (Note(NOW.wall_us, "module_fetched", State.PENDING, None, DIGEST),) == notes


def test_a_fetched_module_types_the_entrys_parameters() -> None:
    task = make_task(digest=None, url=URL, entry=Entry("add", None, b"[1, 2]"))
    after, _ = step(task, ModuleFetched(DIGEST, (("i32", 1), ("i64", 2))), NOW)
    assert Entry("add", (("i32", 1), ("i64", 2)), b"[1, 2]") == after.spec.entry


def test_parameters_that_were_typed_before_the_fetch_stay() -> None:
    entry = Entry("add", (("i32", 1),))
    after, _ = step(make_task(digest=OTHER_DIGEST, url=URL, entry=entry), ModuleFetched(OTHER_DIGEST), NOW)
    assert entry == after.spec.entry


@pytest.mark.parametrize("state", [State.PENDING, State.SCHEDULED])
def test_a_stop_before_it_runs_ends_it(state: State) -> None:
    after, notes = step(task_in(state), StopRequested(), NOW)
    assert (State.FAILED, Reason.STOPPED) == (after.status.state, after.status.reason)
    assert (Note(NOW.wall_us, "ended", State.FAILED, Reason.STOPPED, f"stopped while {state}"),) == notes


def test_a_stop_of_a_running_task_is_recorded_and_no_end_yet() -> None:
    after, notes = step(task_in(State.RUNNING), StopRequested(), NOW)
    assert (State.RUNNING, True, None) == (after.status.state, after.status.stopping, after.status.finished_at_us)
    assert (Note(NOW.wall_us, "stop_requested", State.RUNNING),) == notes
    ended, _ = step(after, Ended(Reason.STOPPED), NOW)
    assert (State.COMPLETED, False) == (ended.status.state, ended.status.stopping)


def test_a_second_stop_changes_nothing_and_tells_nothing() -> None:
    stopping, _ = step(task_in(State.RUNNING), StopRequested(), NOW)
    assert (stopping, ()) == step(stopping, StopRequested(), Now(NOW.wall_us + 1, NOW.monotonic_us + 1))


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RUNNING])
def test_a_recovered_task_waits_again_with_one_more_attempt(state: State) -> None:
    after, notes = step(task_in(state), Recovered(), NOW)
    status = after.status
    assert (State.PENDING, state, 2) == (status.state, status.previous_state, status.attempts)
    assert (None, None, None) == (status.runner, status.scheduled_at_us, status.started_at_us)
    assert (Note(NOW.wall_us, "recovered", State.PENDING, None, "attempt 2"),) == notes


def test_an_end_carries_all_that_is_known_of_it() -> None:
    ended = Ended(
        Reason.TRAP,
        trap_code="unreachable_code_reached",
        signal="SIGSEGV",
        exit_code=3,
        result=(("i32", 7),),
        truncated=True,
        usage=Usage(fuel_used=5, queue_us=6, init_us=7, run_us=8, cpu_us=9, peak_memory_bytes=10),
    )
    status = step(task_in(State.RUNNING), ended, NOW)[0].status
    assert (ended.trap_code, ended.signal, ended.exit_code, ended.result, True) == (
        status.trap_code,
        status.signal,
        status.exit_code,
        status.result,
        status.truncated,
    )
    assert replace(ended.usage, wall_us=NOW.wall_us - CREATED_US) == status.usage
    assert NOW.wall_us == status.finished_at_us


def test_the_wait_is_told_by_the_record_where_nobody_measured_it() -> None:
    usage = step(task_in(State.SCHEDULED), Ended(Reason.LOST), NOW)[0].status.usage
    assert (10, NOW.wall_us - CREATED_US) == (usage.queue_us, usage.wall_us)


def test_a_task_that_never_got_a_slot_has_no_wait_on_record() -> None:
    assert step(task_in(State.PENDING), Ended(Reason.STOPPED), NOW)[0].status.usage.queue_us is None


def test_a_wall_clock_that_went_back_gives_no_negative_span() -> None:
    usage = step(task_in(State.RUNNING), Ended(Reason.TRAP), Now(CREATED_US - 1_000, 0))[0].status.usage
    assert 0 == usage.wall_us


def test_the_diagram_shows_every_way_and_no_other() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+)", mermaid(), re.MULTILINE)
    assert sorted((state, after) for state, follows in transitions().items() for after in follows) == sorted(arrows)


def test_the_diagram_is_printed_as_the_readme_holds_it(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(diagram.__file__, run_name="__main__")
    assert f"{block()}\n" == capsys.readouterr().out


def test_the_readme_shows_the_lifecycle_as_it_is() -> None:
    text = README.read_text()
    shown = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert block() == shown
