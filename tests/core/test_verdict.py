"""The verdict: what a runner reported and how its process went, put together to one truth."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.protocol.status import REASONS
from tests.core.core_builders import CLEAN, KILLED
from worker.core.events import Ended
from worker.core.lifecycle import ENDS_WITH, TRIED
from worker.core.task import Reason, State, Usage
from worker.core.verdict import MOST, Context, Exit, Report, contradiction, from_exit, from_report

RUNNING = Context(State.RUNNING, wall_ms=1_000, ran_us=300_000, queue_us=20, init_us=30)
SCHEDULED = Context(State.SCHEDULED, wall_ms=1_000)
OVER_TIME = replace(RUNNING, ran_us=1_200_000)
REPORT = Report(
    "exit", exit_code=0, detail="fine", truncated=True, fuel_used=1, run_us=2, cpu_us=3, peak_memory_bytes=4
)


def test_a_clean_exit_after_bye_makes_the_report_true() -> None:
    usage = Usage(fuel_used=1, queue_us=20, init_us=30, run_us=2, cpu_us=CLEAN.cpu_us, peak_memory_bytes=4)
    expected = Ended(Reason.EXIT, exit_code=0, detail="fine", truncated=True, usage=usage)
    assert expected == from_exit(REPORT, CLEAN, RUNNING)


def test_peak_memory_is_the_processs_where_the_report_has_none() -> None:
    ended = from_exit(replace(REPORT, peak_memory_bytes=0), CLEAN, RUNNING)
    assert CLEAN.peak_rss_bytes == ended.usage.peak_memory_bytes


def test_a_report_counts_when_only_the_process_had_to_be_killed() -> None:
    ended = from_exit(REPORT, KILLED, replace(RUNNING, killed_because="linger", finished=False))
    assert (Reason.EXIT, KILLED.cpu_us) == (ended.reason, ended.usage.cpu_us)


def test_an_export_that_returned_has_a_result() -> None:
    assert (("i32", 5),) == from_report(Report("exit", results=(("i32", 5),)), RUNNING).result


def test_a_command_that_exited_has_an_exit_code_and_no_result() -> None:
    ended = from_report(Report("exit", exit_code=0, results=(("i32", 5),)), RUNNING)
    assert (0, None) == (ended.exit_code, ended.result)


def test_a_trap_has_its_code_and_no_result() -> None:
    report = Report("trap", trap_code="stack_overflow", results=(("i32", 5),), detail="wasm trap")
    ended = from_report(report, RUNNING)
    assert (Reason.TRAP, "stack_overflow", None, "wasm trap") == (
        ended.reason,
        ended.trap_code,
        ended.result,
        ended.detail,
    )


def test_figures_stay_within_what_the_table_can_hold() -> None:
    most = 2**64 - 1
    ended = from_report(Report("fuel", fuel_used=most, run_us=most, cpu_us=most, peak_memory_bytes=most), RUNNING)
    figures = ended.usage.fuel_used, ended.usage.run_us, ended.usage.cpu_us, ended.usage.peak_memory_bytes
    assert (MOST,) * 4 == figures


def test_a_report_counts_whatever_the_status_after_bye() -> None:
    assert Reason.EXIT == from_exit(REPORT, Exit(code=1), RUNNING).reason


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGKILL", "SIGALRM"])
def test_a_report_does_not_count_when_the_process_died_after_it(signal: str) -> None:
    assert Reason.CRASHED == from_exit(REPORT, Exit(signal=signal), RUNNING).reason


def test_a_report_does_not_count_without_bye() -> None:
    ended = from_exit(REPORT, CLEAN, replace(RUNNING, finished=False))
    expected = "the runner ended with status 0 and no word of how its job went"
    assert (Reason.CRASHED, expected) == (ended.reason, ended.detail)


def test_a_report_does_not_count_when_the_protocol_was_broken() -> None:
    ended = from_exit(REPORT, CLEAN, replace(RUNNING, protocol_error="bad magic"))
    assert (Reason.CRASHED, "the runner broke its protocol and was killed: bad magic") == (ended.reason, ended.detail)


DEATHS: list[tuple[Exit, Context, Reason, str]] = [
    (Exit(signal="SIGSEGV"), RUNNING, Reason.CRASHED, "the runner died by SIGSEGV"),
    (KILLED, RUNNING, Reason.CRASHED, "the runner died by SIGKILL"),
    (Exit(signal="SIGALRM"), RUNNING, Reason.CRASHED, "the runner died by SIGALRM"),
    (Exit(code=3), RUNNING, Reason.CRASHED, "the runner ended with status 3 and no word"),
    (KILLED, replace(RUNNING, killed_because="stop"), Reason.STOPPED, "within its grace"),
    (KILLED, replace(RUNNING, stopping=True), Reason.STOPPED, "within its grace"),
    (Exit(signal="SIGALRM"), replace(OVER_TIME, stopping=True), Reason.STOPPED, "within its grace"),
    (Exit(signal="SIGSEGV"), replace(RUNNING, stopping=True), Reason.CRASHED, "the runner died by SIGSEGV"),
    (KILLED, replace(OVER_TIME, killed_because="deadline"), Reason.KILLED_DEADLINE, "1000 ms .* by the worker"),
    (Exit(signal="SIGALRM"), OVER_TIME, Reason.KILLED_DEADLINE, "1000 ms .* by its alarm"),
    (Exit(signal="SIGXCPU", cpu_us=1_000_000), RUNNING, Reason.KILLED_DEADLINE, "used up its CPU time"),
    (Exit(signal="SIGXCPU", cpu_us=999_999), RUNNING, Reason.CRASHED, "the runner died by SIGXCPU"),
    (KILLED, replace(SCHEDULED, killed_because="handover"), Reason.INIT_FAILED, "handed"),
    (Exit(signal="SIGALRM"), replace(OVER_TIME, ran_us=None), Reason.CRASHED, "the runner died by SIGALRM"),
    (Exit(signal="SIGXFSZ"), RUNNING, Reason.OUTPUT_LIMIT, "what came before is kept"),
    (replace(KILLED, oom_killed=True), RUNNING, Reason.OOM_KERNEL, "for its memory"),
    (replace(KILLED, oom_killed=True), SCHEDULED, Reason.OOM_KERNEL, "for its memory"),
    (KILLED, replace(SCHEDULED, killed_because="init"), Reason.INIT_FAILED, "init_ms"),
    (Exit(signal="SIGXFSZ"), SCHEDULED, Reason.CRASHED, "the runner died by SIGXFSZ"),
    (Exit(signal="SIGALRM"), SCHEDULED, Reason.CRASHED, "the runner died by SIGALRM"),
    (Exit(signal="SIGSYS"), SCHEDULED, Reason.CRASHED, "the runner died by SIGSYS"),
]


@pytest.mark.parametrize(("exit_", "context", "reason", "detail"), DEATHS)
def test_a_death_without_a_report_is_told_by_what_it_shows(
    exit_: Exit, context: Context, reason: Reason, detail: str
) -> None:
    ended = from_exit(None, exit_, context)
    assert reason == ended.reason
    assert ended.detail is not None
    assert re.search(detail, ended.detail)
    usage = Usage(
        queue_us=context.queue_us,
        init_us=context.init_us,
        run_us=context.ran_us,
        cpu_us=exit_.cpu_us,
        peak_memory_bytes=exit_.peak_rss_bytes,
    )
    assert usage == ended.usage


def test_a_crash_names_the_signal_and_nothing_else_does() -> None:
    signals = {(reason, from_exit(None, exit_, context).signal) for exit_, context, reason, _ in DEATHS}
    assert {None} == {signal for reason, signal in signals if reason is not Reason.CRASHED}
    assert (Reason.CRASHED, "SIGSEGV") in signals


def test_output_that_hit_the_files_limit_is_marked_truncated() -> None:
    assert from_exit(None, Exit(signal="SIGXFSZ"), RUNNING).truncated


@pytest.mark.parametrize(
    ("report", "context"),
    [
        (Report("exit", exit_code=0), RUNNING),
        (Report("exit"), RUNNING),
        (Report("nonzero_exit", exit_code=3), RUNNING),
        (Report("trap", trap_code="stack_overflow"), RUNNING),
        (Report("stopped"), replace(RUNNING, stopping=True)),
        (Report("init_failed"), SCHEDULED),
        (Report("link_failed"), SCHEDULED),
    ],
)
def test_a_report_that_may_be_true_is_believed(report: Report, context: Context) -> None:
    assert contradiction(report, context) is None


@pytest.mark.parametrize(
    ("report", "context", "lie"),
    [
        (Report("exit", exit_code=0), SCHEDULED, "OUTCOME says exit, which a scheduled job can't end with"),
        *[
            (Report(reason), SCHEDULED, f"OUTCOME says {reason}, which a scheduled job can't end with")
            for reason in sorted(TRIED)
        ],
        (Report("compile_failed"), RUNNING, "OUTCOME says compile_failed, which a running job can't end with"),
        (Report("stopped"), RUNNING, "OUTCOME says stopped, and nobody asked for it"),
        (Report("stopped"), SCHEDULED, "OUTCOME says stopped, and nobody asked for it"),
        (Report("exit", exit_code=3), RUNNING, "OUTCOME says exit with code 3, which is a nonzero_exit"),
        (Report("nonzero_exit", exit_code=0), RUNNING, "OUTCOME says nonzero_exit with code 0"),
        (Report("nonzero_exit"), RUNNING, "OUTCOME says nonzero_exit with code None"),
    ],
)
def test_a_report_that_can_not_be_true_is_told_for_what_it_is(report: Report, context: Context, lie: str) -> None:
    assert lie == contradiction(report, context)


@given(
    report=st.none()
    | st.builds(Report, st.sampled_from(REASONS), exit_code=st.none() | st.integers(-(2**31), 2**31 - 1)),
    exit_=st.builds(
        Exit,
        signal=st.none() | st.sampled_from(["SIGKILL", "SIGALRM", "SIGXCPU", "SIGXFSZ", "SIGSEGV"]),
        code=st.none() | st.integers(0, 255),
        oom_killed=st.booleans(),
    ),
    context=st.builds(
        Context,
        st.sampled_from([State.SCHEDULED, State.RUNNING]),
        killed_because=st.none() | st.sampled_from(["init", "deadline", "stop", "linger", "protocol"]),
        protocol_error=st.none() | st.just("broken"),
        stopping=st.booleans(),
        wall_ms=st.integers(1, 1000),
        ran_us=st.none() | st.integers(0, 2_000_000),
        finished=st.booleans(),
    ),
)
def test_no_death_and_no_report_gives_an_end_that_the_state_does_not_know(
    report: Report | None, exit_: Exit, context: Context
) -> None:
    believed = report if report is not None and contradiction(report, context) is None else None
    scheduled_stop = context.state is State.SCHEDULED and context.stopping
    assert scheduled_stop or from_exit(believed, exit_, context).reason in ENDS_WITH[context.state]
