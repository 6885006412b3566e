"""What may happen to services: calls come, are answered or not, managers switch and stop; in the end none waits."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.faults.simulation_calls import CALL, RETIRE
from tests.faults.simulation_invariants import Invariants
from tests.faults.simulation_strategies import (
    DIGESTS,
    FUNCTIONS,
    REVISIONS,
    any_index,
    service_specs,
)
from tests.faults.simulation_world import FakeRunner
from worker.core.commands import AddTask, Command, ReportBroken, StopTask, SwitchDefault
from worker.core.task import TaskSpec
from worker.core.verdict import Exit

# An honest call's deadline, as its record tells it: longer than the steps in which `let_all_go_on` lets time pass.
CALL_US = 600_000


class ServiceRules(Invariants):
    def ask(self, command: Command) -> None:
        self.asking += 1
        self.world.ask(f"client {self.asking}", command)

    # -- managers ----------------------------------------------------------------------------------------------------

    @rule(spec=service_specs)
    def deploy(self, spec: TaskSpec) -> None:
        task_id = f"task {len(self.tasks)}"
        self.tasks.append(task_id)
        self.ask(AddTask(task_id, "a", spec))

    @rule(spec=service_specs, steps=st.integers(0, 4))
    def deploy_and_let_it_serve(self, spec: TaskSpec, steps: int) -> None:
        """The straight way, as far as it goes."""
        self.deploy(replace(spec, digest=DIGESTS[0], url=None))
        self.the_disk_does_all()  # type: ignore[attr-defined]
        if DIGESTS[0] in self.world.preparing:
            self._artifact_comes(DIGESTS[0], fails=False)  # type: ignore[attr-defined]
        for _ in range(steps):
            for runner in list(self.world.runners.values()):
                if runner.service == self.tasks[-1] and runner.id in self.world.runners:
                    self._go_on(runner, "exit")  # type: ignore[attr-defined]

    @rule(
        function=st.sampled_from(FUNCTIONS),
        revision=st.sampled_from(REVISIONS),
        on=st.sampled_from([True, True, False]),
        if_generation=st.sampled_from([None, None, 0, 1, 2]),
    )
    def switch(self, function: str, revision: str, on: bool, if_generation: int | None) -> None:
        self.ask(SwitchDefault(function, revision, on, if_generation))

    @precondition(lambda self: self.node.services.revisions)
    @rule(index=any_index, force=st.sampled_from([False, False, True]))
    def stop_a_service(self, index: int, force: bool) -> None:
        task_ids = list(self.node.services.revisions)
        self.ask(StopTask(task_ids[index % len(task_ids)], force))

    # -- callers -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.calls.open)
    @rule(index=any_index, count=st.integers(1, 4), tell=st.booleans())
    def calls_come(self, index: int, count: int, tell: bool) -> None:
        task_ids = self.world.calls.open
        self.world.calls.queues[task_ids[index % len(task_ids)]].extend([CALL] * count)
        if tell:
            self.calls_are_told()

    @precondition(lambda self: self.world.calls.untold)
    @rule()
    def calls_are_told(self) -> None:
        for task_id in self.world.calls.untold:
            if task_id in self.world.calls.watched:
                self.world.calls.watched.discard(task_id)
                self.node.traffic.call_waits(task_id, self.world.now)
                self.world.settle()

    @precondition(lambda self: self.idle_servers)
    @rule(index=any_index)
    def a_call_is_taken_unseen(self, index: int) -> None:
        """Whoever watches the listener wakes up too late to see it wait."""
        idle = self.idle_servers
        self.world.calls.take_unseen(idle[index % len(idle)], self.world.now.monotonic_us + CALL_US)

    @property
    def idle_servers(self) -> list[FakeRunner]:
        runners, queues = self.world.runners.values(), self.world.calls.queues
        return [
            one for one in runners if one.phase == "ready" and not one.deadline_us and queues.get(one.service) == []
        ]

    @precondition(lambda self: self.world.calls.to_look_at)
    @rule()
    def the_beat_looks_at_records(self) -> None:
        for task_id in self.world.calls.to_look_at:
            self.node.traffic.look(task_id, self.world.now)
            self.world.calls.watched.discard(task_id)  # or it is told later, to nobody
        self.world.settle()

    @precondition(lambda self: self.node.services.revisions and not self.honest)
    @rule(index=any_index, known=st.booleans(), whose=any_index)
    def an_answer_is_none(self, index: int, known: bool, whose: int) -> None:
        task_ids = list(self.node.services.revisions)
        runners = list(self.node.pool.runners.values())
        pid = runners[whose % len(runners)].pid if known and runners else 0
        self.ask(ReportBroken(task_ids[index % len(task_ids)], pid, "garbage"))

    # -- runners -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(runner.service for runner in self.world.runners.values()) and not self.honest)
    @rule(index=any_index, deadline_us=st.sampled_from([0, 1, 10**6, 2**64 - 1]), calls=st.sampled_from([0, 7]))
    def a_record_lies(self, index: int, deadline_us: int, calls: int) -> None:
        servers = [runner for runner in self.world.runners.values() if runner.service]
        server = servers[index % len(servers)]
        server.deadline_us, server.calls = deadline_us, calls

    def serve(self, runner: FakeRunner) -> None:
        """The next thing that an honest runner of a service would do, once it is ready."""
        queue = self.world.calls.queues.get(str(runner.service))
        if runner.deadline_us:
            runner.deadline_us, runner.calls = 0, runner.calls + 1
            if runner.told:
                self._leave(runner)
            return
        waits = queue.pop(0) if queue else None
        if waits == CALL:
            runner.deadline_us = self.world.now.monotonic_us + CALL_US
        elif waits == RETIRE or queue is None or runner.service in self.world.calls.shut:
            self._leave(runner)

    def _leave(self, runner: FakeRunner) -> None:
        self.node.runner_said_bye(runner.id, self.world.now)
        self._exit(runner, Exit(code=0))  # type: ignore[attr-defined]

    # -- and in the end ----------------------------------------------------------------------------------------------

    def let_calls_be_answered(self) -> None:
        """Nobody is starved: every call that waits is answered, whoever else wants the slots."""
        for _ in range(400):
            if not any(CALL in queue for queue in self.world.calls.queues.values()):
                return
            self.let_all_go_on()  # type: ignore[attr-defined]
        raise AssertionError(f"calls wait for ever: {self.world.calls.queues}, {self.node.services.views()}")

    def stop_services(self) -> None:
        for task_id, revision in list(self.node.services.revisions.items()):
            if not revision.stopping:
                self.ask(StopTask(task_id))
