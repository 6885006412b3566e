"""What holds of a node and its world after every event, and what is left in the end: nothing."""

from __future__ import annotations

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition

from tests.faults.simulation_strategies import DIGESTS, TOKENS
from tests.faults.simulation_world import SLOTS, World
from worker.core.ledger import LAZY, RETRY
from worker.core.node import Node
from worker.core.pool import RunnerState
from worker.core.revision import Listening
from worker.core.runners import KINDS
from worker.core.scaling import Room, plan
from worker.core.services import KINDS as SERVICE_KINDS
from worker.core.task import FINAL, State
from worker.core.timers import Timer
from worker.core.traffic import SAMPLE


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
        self.honest = False  # nobody lies, dies or fails to start, and nothing else is spared
        self.finals: dict[str, object] = {}

    @property
    def node(self) -> Node:
        """Another one after a crash."""
        return self.world.node

    # -- what always holds -------------------------------------------------------------------------------------------

    @precondition(settled)
    @invariant()
    def slots_in_use_are_the_runners_not_reaped(self) -> None:
        pool = self.node.pool
        assert set(self.world.runners) == set(pool.runners)
        assert SLOTS == pool.free + len(pool.runners)
        assert {runner.slot for runner in pool.runners.values()} == {r.slot for r in self.world.runners.values()}

    @precondition(settled)
    @invariant()
    def a_task_waits_or_has_a_runner_and_never_both(self) -> None:
        pool, waiting = self.node.pool, set(self.node.jobs.queue._waiting)
        for task_id, live in self.node.tasks.live.items():
            if live.task.status.state is State.PENDING:
                assert live.runner_id is None
                needs = self.node.tasks.needs
                preparing = any(task_id in waits for waits in needs._preparing.values())
                just_fetched = any(
                    task_id == fetched for on in self.node._modules.fetched.values() for fetched, _ in on
                )
                ready = task_id in waiting if live.task.spec.service is None else self._waits_for_a_slot(task_id)
                assert 1 == ready + preparing + (task_id in needs._fetching)
                assert not just_fetched or task_id in needs._fetching
            elif live.task.spec.service is None:
                assert task_id not in waiting
                assert task_id == pool.runners[live.runner_id].task_id
        assert waiting <= set(self.node.tasks.live)
        assert self.node.tasks.waiting == sum(
            live.task.status.state is State.PENDING for live in self.node.tasks.live.values()
        )

    @precondition(settled)
    @invariant()
    def every_runner_is_watched_or_killed(self) -> None:
        watched = {timer.subject for timer in self.world.node.timers if timer.kind in KINDS}
        for runner in self.node.pool.runners.values():
            needs_watching = runner.killed_because is None and runner.state is not RunnerState.SERVING
            assert needs_watching == (runner.id in watched)
            assert self.world.runners[runner.id].killed == (runner.killed_because is not None)
            if runner.state in (RunnerState.STARTING, RunnerState.BUSY):
                assert runner.task_id in self.node.tasks.live

    @precondition(settled)
    @invariant()
    def no_timer_is_of_the_dead(self) -> None:
        node = self.world.node
        for timer in node.timers:
            if timer.kind == "queue":
                assert self.node.tasks.live[timer.subject].task.status.state is State.PENDING
            elif timer.kind == "watch":
                assert timer in node.watches._origins
            elif timer.kind == "default":
                assert node.functions._waiting[timer.subject]
            elif timer == SAMPLE:
                assert any(revision.sampled for revision in node.services.revisions.values())
            elif timer.kind in SERVICE_KINDS:
                assert timer.subject in node.services.revisions
            elif timer not in (RETRY, LAZY):
                assert timer.subject in self.node.pool.runners

    def _waits_for_a_slot(self, task_id: str) -> bool:
        """It had its artifact; where that was evicted since, it is made again."""
        revision, needs = self.node.services.revisions[task_id], self.node.tasks.needs
        return revision.prepared and not any(task_id in waits for waits in needs._preparing.values())

    @precondition(settled)
    @invariant()
    def runners_have_the_nodes_memory(self) -> None:
        pool = self.node.pool
        used = sum(runner.memory_bytes for runner in pool.runners.values())
        assert (pool.memory_bytes - used, True) == (pool.free_memory_bytes, pool.free_memory_bytes >= 0)

    @precondition(settled)
    @invariant()
    def a_service_has_its_listener_and_no_more_runners_than_it_may(self) -> None:
        node, calls = self.node, self.world.calls
        assert set(calls.queues) <= set(node.services.revisions)
        for task_id, revision in node.services.revisions.items():
            assert (revision.listening is Listening.CLOSED) == (task_id not in calls.queues)
            assert (revision.listening is Listening.SHUT) == (task_id in calls.shut)
            assert (revision.listening is Listening.WATCHED) == (task_id in calls.watched)
            assert revision.able <= revision.service.scale.max
            mine = {runner.id for runner in node.pool.runners.values() if runner.task_id == task_id}
            assert mine == set(revision.runners)
            assert not revision.able or task_id in calls.queues
            assert not revision.sampled or SAMPLE in set(node.timers)
            assert (revision.backing_off, bool(revision.asked or revision.told)) == tuple(
                Timer(kind, task_id) in set(node.timers) for kind in ("backoff", "retire")
            )
            assert revision.told <= set(revision.runners)
            assert 0 <= revision.retiring - revision.asked <= len(revision.told)
        assert len(node.services.revisions) <= len(node.services._names)

    @precondition(settled)
    @invariant()
    def who_sleeps_changes_no_plan(self) -> None:
        revisions = self.node.services.revisions.values()
        for has_artifact in (False, True):
            loads = [revision.load(has_artifact) for revision in revisions]
            awake = [revision.load(has_artifact) for revision in revisions if not revision.sleeps]
            for room in (Room(), Room(2), Room(jobs_waiting=1), Room(jobs_waiting=1, jobs_running=1, jobs_idle=1)):
                assert plan(loads, room) == plan(awake, room)

    @precondition(settled)
    @invariant()
    def without_a_lie_a_death_or_a_failed_start_nobody_is_in_trouble(self) -> None:
        if self.honest:
            for revision in self.node.services.revisions.values():
                assert (None, 0, False) == (revision.trouble, revision.failures, revision.backing_off)

    @precondition(settled)
    @invariant()
    def a_default_is_alive_or_on_its_way_out(self) -> None:
        functions = self.node.functions
        for row in functions.rows.values():
            if row.default is not None and self.node.services.standing(row.name, row.default) is None:
                assert row.name in functions._under_way or row.name in functions._waiting

    @precondition(settled)
    @invariant()
    def what_is_on_disk_is_what_lives(self) -> None:
        rows = self.world.table.rows
        unfinished = {task_id for task_id, row in rows.items() if not row.task.final}
        assert set(self.node.tasks.live) <= unfinished
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
        opened = node.admission.open
        assert all(0 < count for count in opened.values())
        assert set(opened) <= set(TOKENS)
        assert set(node.watches._by_task) == {task_id for task_id, _ in node.watches._origins.values()}
        assert {t for t in node.timers if t.kind == "watch"} == set(node.watches._origins)

    def check_that_nothing_is_left(self) -> None:
        world, node = self.world, self.world.node
        assert ({}, {}) == (self.node.tasks.live, world.asked)
        world.pass_time(3_600_000_000)
        assert ([], 0, 0, 0) == (
            list(node.timers),
            len(node.ledger),
            len(self.node.jobs.queue),
            len(self.node.tasks.needs),
        )
        assert ({}, {}, {}, {}, {}, {}) == (
            node.admission.open,
            node.watches._by_task,
            node.admission.deferred,
            node._modules.dropping,
            node.admission.inserting,
            node._modules.fetched,
        )
        assert ({}, SLOTS, True) == (world.runners, self.node.pool.free, node.idle)
        for task_id, row in world.table.rows.items():
            ends = [note for note in row.story if note.state in FINAL]
            assert 1 == len(ends), f"{task_id} ended {len(ends)} times"
        assert node.modules == world.table.modules
        assert ({}, {}, 0) == (world.calls.queues, world.table.troubles, len(node.functions))
        assert node.functions.rows == world.table.functions
        assert {None} >= {row.default for row in node.functions.rows.values()}
        assert (0, {}, {}) == (node.services.waiting_calls, node.services.revisions, node.services._names)
