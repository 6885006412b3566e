"""What holds of a node and its world after every event, and what is left in the end: nothing."""

from __future__ import annotations

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition

from tests.faults.simulation_strategies import DIGESTS, TOKENS
from tests.faults.simulation_world import SLOTS, World
from worker.core.ledger import LAZY, RETRY
from worker.core.pool import RunnerState
from worker.core.runners import KINDS
from worker.core.task import FINAL, State


def settled(machine: Invariants) -> bool:
    return machine.world.gathering == 0


class Invariants(RuleBasedStateMachine):
    """A world, and the checks of it; the rules are the subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World({DIGESTS[0], DIGESTS[1]})
        self.tasks: list[str] = []
        self.asking = 0
        self.full = False
        self.finals: dict[str, object] = {}

    @property
    def jobs(self):  # type: ignore[no-untyped-def]  # the node is another one after a crash
        return self.world.node.jobs

    # -- what always holds -------------------------------------------------------------------------------------------

    @precondition(settled)
    @invariant()
    def slots_in_use_are_the_runners_not_reaped(self) -> None:
        pool = self.jobs.pool
        assert set(self.world.runners) == set(pool.runners)
        assert SLOTS == pool.free + len(pool.runners)
        assert {runner.slot for runner in pool.runners.values()} == {r.slot for r in self.world.runners.values()}

    @precondition(settled)
    @invariant()
    def a_task_waits_or_has_a_runner_and_never_both(self) -> None:
        pool, waiting = self.jobs.pool, set(self.jobs.queue._waiting)
        for task_id, live in self.jobs.live.items():
            if live.task.status.state is State.PENDING:
                assert live.runner_id is None
                needs = self.jobs.needs
                preparing = any(task_id in waits for waits in needs._preparing.values())
                just_fetched = any(task_id == fetched for on in self.world.node._fetched.values() for fetched, _ in on)
                assert 1 == (task_id in waiting) + preparing + (task_id in needs._fetching)
                assert not just_fetched or task_id in needs._fetching
            else:
                assert task_id not in waiting
                assert task_id == pool.runners[live.runner_id].task_id
        assert waiting <= set(self.jobs.live)
        assert self.jobs.waiting == sum(live.task.status.state is State.PENDING for live in self.jobs.live.values())

    @precondition(settled)
    @invariant()
    def every_runner_is_watched_or_killed(self) -> None:
        watched = {timer.subject for timer in self.world.node.timers if timer.kind in KINDS}
        for runner in self.jobs.pool.runners.values():
            assert (runner.killed_because is None) == (runner.id in watched)
            assert self.world.runners[runner.id].killed == (runner.killed_because is not None)
            if runner.state in (RunnerState.STARTING, RunnerState.BUSY):
                assert runner.task_id in self.jobs.live

    @precondition(settled)
    @invariant()
    def no_timer_is_of_the_dead(self) -> None:
        node = self.world.node
        for timer in node.timers:
            if timer.kind == "queue":
                assert self.jobs.live[timer.subject].task.status.state is State.PENDING
            elif timer.kind == "watch":
                assert timer in node._watch_origins
            elif timer not in (RETRY, LAZY):
                assert timer.subject in self.jobs.pool.runners

    @precondition(settled)
    @invariant()
    def what_is_on_disk_is_what_lives(self) -> None:
        rows = self.world.table.rows
        unfinished = {task_id for task_id, row in rows.items() if not row.task.final}
        assert set(self.jobs.live) <= unfinished
        assert self.world.accepted <= set(rows)
        for task_id, row in rows.items():
            if row.task.final:
                assert self.finals.setdefault(task_id, row.task) == row.task

    @precondition(settled)
    @invariant()
    def a_module_in_the_table_has_its_bytes(self) -> None:
        assert self.world.table.modules <= self.world.table.files

    @precondition(settled)
    @invariant()
    def no_more_wait_than_may(self) -> None:
        node = self.world.node
        opened = node._open
        assert all(0 < count for count in opened.values())
        assert set(opened) <= set(TOKENS)
        assert set(node._watchers) == {task_id for task_id, _ in node._watch_origins.values()}
        assert {t for t in node.timers if t.kind == "watch"} == set(node._watch_origins)

    def check_that_nothing_is_left(self) -> None:
        world, node = self.world, self.world.node
        assert ({}, {}) == (self.jobs.live, world.asked)
        world.pass_time(3_600_000_000)
        assert ([], 0, 0, 0) == (
            list(node.timers),
            len(node.ledger),
            len(self.jobs.queue),
            len(self.jobs.needs),
        )
        assert ({}, {}, {}, {}, {}, {}) == (
            node._open,
            node._watchers,
            node._deferred,
            node._dropping,
            node._inserting,
            node._fetched,
        )
        assert ({}, SLOTS, True) == (world.runners, self.jobs.pool.free, node.idle)
        for task_id, row in world.table.rows.items():
            ends = [note for note in row.story if note.state in FINAL]
            assert 1 == len(ends), f"{task_id} ended {len(ends)} times"
        assert node.modules == world.table.modules
