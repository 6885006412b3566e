"""Services, and the steps that most tests of them begin with."""

from __future__ import annotations

from typing import Any

from tests.core.core_builders import CREATED_US, DIGEST, Driver, make_spec
from worker.core.changes import SetDefault, SetTrouble, UpdateTask
from worker.core.commands import AddTask, SwitchDefault
from worker.core.effects import Commit, Effect, RetireServer, StartServer
from worker.core.revision import View
from worker.core.task import Handler, Kind, Reason, Scale, Service, State, Status, Task, TaskSpec
from worker.core.verdict import Exit

MS = 1_000
SAMPLE_US = 10_000
STOPPED = (State.COMPLETED, Reason.STOPPED)
WAGI = Handler("wagi")


def service_spec(
    function: str = "f", revision: str = "r1", *, default: bool = False, handler: Handler = WAGI, **fields: Any
) -> TaskSpec:
    """A service; `min`, `max`, `idle_ms` and `queue` are its scale's."""
    scale = {name: fields.pop(name) for name in ("min", "max", "idle_ms", "queue") if name in fields}
    service = Service(function, revision, handler, default, Scale(**scale))
    return make_spec(kind=Kind.SERVICE, service=service, queue_ms=5_000, **fields)


class ServiceDriver(Driver):
    """A node with services; runners of theirs do what they are told here."""

    def __init__(self, slots: int = 4, **settings: Any) -> None:
        self.written: list[Effect | object] = []
        self.tells: list[int] = []  # the runners that are told by their record; then messages are sent
        super().__init__(slots, **settings)

    def keep(self, effect: Effect) -> None:
        super().keep(effect)
        if isinstance(effect, RetireServer):
            self.node.traffic.retire_asked(effect.task_id, self.tells.pop(0) if self.tells else None, self.now)

    def commit(self, commit: Commit, result: Any = None) -> None:
        if isinstance(commit.change, SetDefault | SetTrouble | UpdateTask):
            self.written.append(commit.change)
        super().commit(commit, result)

    def deploy(self, task_id: str = "s1", **fields: Any) -> list[Effect]:
        """Post it, with its artifact at hand."""
        self.node.artifact_ready(DIGEST, self.now)
        return self.command(AddTask(task_id, "token", service_spec(**fields)))

    def serve(self, task_id: str = "s1", **fields: Any) -> int:
        """Deploy it and let its first runner be ready; the runner's id."""
        started = [effect for effect in self.deploy(task_id, **fields) if isinstance(effect, StartServer)]
        self.ready(started[0].runner_id)
        return started[0].runner_id

    def ready(self, runner_id: int) -> list[Effect]:
        self.node.spawned(runner_id, 1000 + runner_id)
        self.node.runner_ready(runner_id, 60_001, ("seccomp",), 250, self.now)
        return self.take()

    def waits(self, task_id: str = "s1") -> list[Effect]:
        self.node.traffic.call_waits(task_id, self.now)
        return self.take()

    def sample(
        self, task_id: str = "s1", queued: int = 0, busy: dict[int, int] | None = None, calls: int = 0
    ) -> list[Effect]:
        self.node.services.sampled(task_id, queued, busy or {}, calls, self.now)
        return self.take()

    def next_sample(self, task_id: str = "s1", us: int = SAMPLE_US, **seen: Any) -> list[Effect]:
        self.pass_time(us)
        return self.sample(task_id, **seen)

    def go_quiet(self, task_id: str = "s1", calls: int = 0) -> list[Effect]:
        effects = []
        for _ in range(5):
            effects += self.next_sample(task_id, calls=calls)
        return effects

    def die(self, runner_id: int, exit_: Exit | None = None, calls: int = 0) -> list[Effect]:
        self.node.exited(runner_id, exit_ or Exit(signal="SIGSEGV"), self.now, calls)
        return self.take()

    def leave(self, runner_id: int, calls: int = 0) -> list[Effect]:
        """It says BYE and ends in order."""
        self.node.runner_said_bye(runner_id, self.now)
        return self.take() + self.die(runner_id, Exit(code=0), calls)

    def switch(self, revision: str, on: bool = True, function: str = "f", if_generation: int | None = None) -> Any:
        (reply,) = self.ask(SwitchDefault(function, revision, on, if_generation))
        return reply

    def view(self, task_id: str = "s1") -> View:
        return next(view for view in self.node.services.views() if view.task_id == task_id)

    def default(self, function: str = "f") -> tuple[str | None, int]:
        row = self.node.functions.rows[function]
        return row.default, row.generation

    def troubles(self) -> list[str | None]:
        return [change.detail for change in self.written if isinstance(change, SetTrouble)]


def started(effects: list[Effect]) -> list[str]:
    """The ids of the services that get a runner."""
    return [effect.task.id for effect in effects if isinstance(effect, StartServer)]


def running_task(task_id: str, spec: TaskSpec, **status: Any) -> Task:
    """A service as the table holds it while it runs."""
    marks = {"state": State.RUNNING, "scheduled_at_us": CREATED_US, "started_at_us": CREATED_US, **status}
    return Task(task_id, "token", spec, CREATED_US, Status(**marks))


def far(driver: ServiceDriver) -> int:
    """A deadline that isn't near."""
    return driver.now.monotonic_us + 60 * 1000 * MS
