"""Who gets the free slots, and who gives up its own: a table of situations and what is done in them."""

from __future__ import annotations

import pytest

from worker.core.scaling import (
    BACKOFF_MOST_US,
    Load,
    Plan,
    Room,
    backoff_us,
    plan,
    reserve,
    surplus,
    wants_first,
    wants_more,
)

MIB = 2**20


def deploying(id_: str = "new", **fields: object) -> Load:
    return Load(**{"id": id_, "deploying": True, **fields})


def waiting(id_: str = "cold", **fields: object) -> Load:
    """Calls wait, and there is no runner."""
    return Load(**{"id": id_, "queued": 1, "may_grow": True, **fields})


def busy(id_: str = "busy", serving: int = 1, queued: int = 1, **fields: object) -> Load:
    """Every runner is busy and calls wait."""
    return Load(**{"id": id_, "serving": serving, "busy": serving, "queued": queued, "may_grow": True, **fields})


def full(id_: str = "full", serving: int = 1, **fields: object) -> Load:
    """Every runner is busy and no call waits."""
    return busy(id_, serving, 0, **fields)


def idle(id_: str = "idle", serving: int = 1, **fields: object) -> Load:
    return Load(**{"id": id_, "serving": serving, **fields})


@pytest.mark.parametrize(
    ("why", "loads", "room", "expected"),
    [
        ("nobody wants anything", [idle()], Room(4), Plan((), 4)),
        ("a revision is deployed", [deploying()], Room(4), Plan(("new",), 3)),
        ("calls wait and there is no runner", [waiting()], Room(4), Plan(("cold",), 3)),
        ("one that can't start has to wait", [waiting(may_start=False)], Room(4), Plan((), 4)),
        ("its runner is being made", [waiting(starting=1)], Room(4), Plan((), 4)),
        ("every runner is busy", [busy()], Room(4), Plan(("busy",), 4)),
        ("a runner is idle", [busy(serving=2, busy=1)], Room(4), Plan((), 4)),
        ("enough are being made", [busy(queued=2, starting=2)], Room(4), Plan((), 4)),
        ("more wait than are being made", [busy(queued=3, starting=2)], Room(4), Plan(("busy",), 4)),
        ("its figures are older than its last start", [busy(may_grow=False)], Room(4), Plan((), 4)),
        ("it has as many as it may have", [busy(serving=4)], Room(4), Plan((), 4)),
        ("it has fewer than its minimum", [idle(min=2)], Room(4), Plan(("idle",), 4)),
        ("it has none and a minimum", [Load("none", min=1)], Room(4), Plan(("none",), 4)),
        ("those who retire don't count", [idle(serving=2, retiring=1, min=2)], Room(4), Plan(("idle",), 4)),
        ("a busy one that retires counts once", [busy(serving=2, retiring=1)], Room(4), Plan(("busy",), 4)),
        ("one first and not twice for its minimum", [waiting(min=1)], Room(4), Plan(("cold",), 3)),
        ("firsts before seconds", [busy(), waiting()], Room(1), Plan(("cold",), 0)),
        ("who waits longest is first", [waiting("b", since_us=2), waiting("a", since_us=1)], Room(1), Plan(("a",))),
        ("minimum before growth", [busy("b"), idle("i", min=2)], Room(1), Plan(("i",), 1)),
        ("seconds leave the reserve", [busy()], Room(1, reserve=1), Plan((), 0)),
        ("firsts don't", [waiting()], Room(1, reserve=1), Plan(("cold",), 0)),
        ("jobs before seconds", [busy()], Room(2, jobs_waiting=2, jobs_running=1), Plan((), 2)),
        ("what jobs leave is for seconds", [busy()], Room(2, jobs_waiting=1, jobs_running=1), Plan(("busy",), 2)),
        ("jobs leave the reserve", [], Room(2, reserve=1, jobs_waiting=2, jobs_running=1), Plan((), 1)),
        ("the first job doesn't", [], Room(1, reserve=1, jobs_waiting=2), Plan((), 1)),
        (
            "the first job takes its turn among firsts",
            [waiting("a", since_us=1), waiting("b", since_us=3)],
            Room(2, jobs_waiting=1, job_since_us=2, coming=1),
            Plan(("a",), 1),
        ),
        (
            "nobody may take the memory that a first one waits for",
            [waiting(memory_bytes=60 * MIB)],
            Room(2, memory_bytes=50 * MIB, jobs_waiting=2, jobs_running=1),
            Plan((), 0),
        ),
        ("a first one that finds memory", [waiting(memory_bytes=50)], Room(2, memory_bytes=50), Plan(("cold",), 1)),
        ("seconds leave the job's memory", [busy(memory_bytes=50)], Room(3, 60, 0, 0, 1, 1, 0, 20), Plan((), 3)),
    ],
)  # fmt: skip
def test_free_slots_are_given_out(why: str, loads: list[Load], room: Room, expected: Plan) -> None:
    assert expected == plan(loads, room), why


@pytest.mark.parametrize(
    ("why", "loads", "room", "expected"),
    [
        ("a warm runner without a job", [waiting(), idle()], Room(0, jobs_idle=1), Plan((), 0, (), 1)),
        ("an idle one above its minimum", [waiting(), idle("a", min=1), idle("b")], Room(0), Plan((), 0, ("b",))),
        ("longest idle", [waiting(), idle("a", since_us=2), idle("b", since_us=1)], Room(0), Plan((), 0, ("b",))),
        ("any idle one", [waiting(), idle("a", min=1), full("b", 3)], Room(0), Plan((), 0, ("a",))),
        ("the one that has most", [waiting(), full("a", 2), full("b", 3)], Room(0), Plan((), 0, ("b",))),
        ("also where calls wait", [waiting(), busy("a", 2)], Room(0), Plan((), 0, ("a",))),
        ("nobody has more than one", [waiting(), full("a"), full("b")], Room(0), Plan()),
        ("a slot comes free anyway", [waiting(), idle()], Room(0, coming=1), Plan()),
        ("as many as are needed", [waiting("x"), waiting("y"), idle(serving=3)], Room(0), Plan((), 0, ("idle",) * 2)),
        ("for a first job too", [full("a", 2)], Room(0, jobs_waiting=1), Plan((), 0, ("a",))),
        ("for another job an idle one", [idle()], Room(0, jobs_waiting=1, jobs_running=1), Plan((), 0, ("idle",))),
        ("but no busy one", [full("a", 2)], Room(0, jobs_waiting=1, jobs_running=1), Plan()),
        ("nor one that its minimum wants", [idle(min=1)], Room(0, jobs_waiting=1, jobs_running=1), Plan()),
        ("for a second runner the same", [busy(), idle(serving=2, min=1)], Room(0), Plan((), 0, ("idle",))),
        ("for a minimum too", [Load("m", min=1), idle()], Room(0), Plan((), 0, ("idle",))),
        ("for a job's memory", [idle()], Room(2, 10, 0, 0, 1, 1, 0, 20), Plan((), 2, ("idle",))),
        ("a first one needs memory", [waiting(memory_bytes=9), idle()], Room(2, 8), Plan((), 0, ("idle",))),
    ],
)  # fmt: skip
def test_who_gives_up_a_runner_where_none_is_free(why: str, loads: list[Load], room: Room, expected: Plan) -> None:
    assert expected == plan(loads, room), why


@pytest.mark.parametrize(
    ("load", "most_busy", "expected"),
    [
        (idle(serving=3), 0, 3),
        (idle(serving=3, min=1), 0, 2),
        (idle(serving=3, min=1), 2, 1),
        (idle(serving=3, retiring=3), 0, 0),
        (idle(serving=1, min=2), 0, 0),
        (idle(serving=1, starting=3), 0, 1),
    ],
)
def test_a_revision_can_do_without_what_nobody_used(load: Load, most_busy: int, expected: int) -> None:
    assert expected == surplus(load, most_busy)


@pytest.mark.parametrize(
    ("slots", "asleep", "expected"), [(1, 5, 0), (2, 5, 1), (8, 0, 0), (8, 5, 1), (32, 3, 3), (32, 9, 4)]
)
def test_the_reserve_is_for_those_without_a_runner(slots: int, asleep: int, expected: int) -> None:
    assert expected == reserve(slots, asleep)


def test_a_backoff_doubles_to_its_most() -> None:
    assert [100_000, 200_000, 400_000] == [backoff_us(failures) for failures in (1, 2, 3)]
    assert (BACKOFF_MOST_US, BACKOFF_MOST_US) == (backoff_us(10), backoff_us(10**6))


def test_nobody_wants_its_first_and_another_at_once() -> None:
    loads = [make(min=2, may_grow=grow) for make in (deploying, waiting, busy, idle, full) for grow in (True, False)]
    assert [] == [load for load in loads if wants_first(load) and wants_more(load)]
