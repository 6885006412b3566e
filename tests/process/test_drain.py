"""worker.drain: the orderly end, in one time budget."""

from __future__ import annotations

from worker.drain import Budget, Drain, Facts, Order, Phase, advance, begin

BUDGET = Budget(deregistration_ms=0, budget_ms=10_000, grace_ms=1_000)


def facts(now_ms: int, *, api: bool = True, coordinator: bool = True, drained: bool = False) -> Facts:
    return Facts(now_ms, api_running=api, coordinator_running=coordinator, drained=drained)


def begun(at_ms: int = 0) -> Drain:
    return begin(facts(at_ms))[0]


def test_the_coordinator_is_told_first() -> None:
    assert begin(facts(5)) == (Drain(Phase.DEREGISTERING, asked_ms=5), (Order.DRAIN_COORDINATOR,))


def test_nothing_is_waited_for_when_nothing_is_in_flight() -> None:
    drain, orders = advance(begun(), facts(0, drained=True), BUDGET)
    assert (drain.phase, orders) == (Phase.CLOSING_API, (Order.STOP_API,))
    drain, orders = advance(drain, facts(1, api=False, drained=True), BUDGET)
    assert (drain.phase, orders) == (Phase.CLOSING_COORDINATOR, (Order.STOP_COORDINATOR,))
    drain, orders = advance(drain, facts(2, api=False, coordinator=False), BUDGET)
    assert (drain.phase, orders) == (Phase.DONE, ())


def test_all_phases_go_by_in_one_turn_when_everything_is_gone() -> None:
    drain, _ = advance(begun(), facts(0, api=False, coordinator=False), BUDGET)
    assert drain.phase is Phase.DONE


def test_deregistration_takes_its_time_even_when_nothing_is_in_flight() -> None:
    budget = Budget(deregistration_ms=3_000, budget_ms=10_000, grace_ms=1_000)
    assert advance(begun(), facts(2_999, drained=True), budget) == (begun(), ())
    assert advance(begun(), facts(3_000, drained=True), budget)[1] == (Order.STOP_API,)


def test_the_api_serves_while_jobs_run() -> None:
    drain, orders = advance(begun(), facts(9_999), BUDGET)
    assert (drain.phase, orders) == (Phase.FINISHING, ())


def test_a_coordinator_that_is_gone_has_nothing_in_flight() -> None:
    assert advance(begun(), facts(1, coordinator=False), BUDGET)[1] == (Order.STOP_API,)


def test_a_coordinator_that_never_drains_is_waited_for_to_the_last_and_killed() -> None:
    assert advance(begun(), facts(BUDGET.last_ms - 1), BUDGET)[1] == ()
    drain, orders = advance(begun(), facts(BUDGET.last_ms), BUDGET)
    assert orders == (Order.STOP_API,)
    drain, orders = advance(drain, facts(BUDGET.last_ms + 1, api=False), BUDGET)
    assert orders == (Order.STOP_COORDINATOR, Order.KILL_COORDINATOR)


def test_calls_in_flight_are_cut_when_the_budget_is_used_up() -> None:
    drain, _ = advance(begun(), facts(0, drained=True), BUDGET)
    assert advance(drain, facts(9_999, drained=True), BUDGET)[1] == ()
    assert advance(drain, facts(10_000, drained=True), BUDGET)[1] == (Order.KILL_API,)


def test_an_api_that_is_told_late_has_a_moment_for_its_last_answers() -> None:
    drain, _ = advance(begun(), facts(10_900, drained=True), BUDGET)
    assert advance(drain, facts(11_000, drained=True), BUDGET)[1] == ()
    assert advance(drain, facts(11_400, drained=True), BUDGET)[1] == (Order.KILL_API,)
