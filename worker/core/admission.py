"""Tasks as they come and are asked about: what is refused, what waits for the disk's word, who is told of an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from worker.core.changes import Applied, InsertTask, Note, Replay, WriteFailed
from worker.core.clock import Now
from worker.core.commands import AddTask, Done, Refused, Reply, StopTask, WatchTask
from worker.core.effects import Answer, Effect, Origin
from worker.core.jobs import Jobs
from worker.core.ledger import Answers, Ledger, Settled
from worker.core.pool import Pool
from worker.core.services import Services
from worker.core.task import Task
from worker.core.tasks import Tasks
from worker.core.watches import Watches


class Admission:
    """Every order about one task, from whoever asks to the answer.

    Args:
        max_waiting: how many tasks may wait, all together.
        max_open_per_token: how many one token may have alive.
        modules: digests of the modules that are here.
    """

    def __init__(
        self,
        max_waiting: int,
        max_open_per_token: int,
        *,
        tasks: Tasks,
        jobs: Jobs,
        services: Services,
        pool: Pool,
        modules: set[str],
        ledger: Ledger,
        watches: Watches,
        effects: list[Effect],
    ) -> None:
        self.draining = False
        self.inserting: dict[str, AddTask] = {}
        # What was asked of a task that is being inserted waits for the disk's word.
        self.deferred: dict[str, list[tuple[Origin, StopTask | WatchTask]]] = {}
        self.open: dict[str, int] = {}
        self._max_waiting = max_waiting
        self._max_open_per_token = max_open_per_token
        self._tasks = tasks
        self._jobs = jobs
        self._services = services
        self._pool = pool
        self._modules = modules
        self._ledger = ledger
        self._watches = watches
        self._effects = effects

    def uses(self, digest: str) -> bool:
        """Whether a task that is on its way to the disk needs the module."""
        return any(other.spec.digest == digest for other in self.inserting.values())

    def used_modules(self) -> set[str]:
        """Digests of what every task needs, alive or on its way to the disk."""
        specs = [live.task.spec for live in self._tasks.live.values()]
        specs += [command.spec for command in self.inserting.values()]
        return {spec.digest for spec in specs if spec.digest is not None}

    def forget(self, gone: Callable[[Origin], bool]) -> None:
        """Whoever asked is gone: no watch is kept for them. What they ordered goes on."""
        self._watches.forget(gone)
        for waiting in self.deferred.values():
            waiting[:] = [(o, command) for o, command in waiting if not (gone(o) and isinstance(command, WatchTask))]

    def restore(self, task: Task, begun: bool, now: Now) -> None:
        """A task that the table holds as alive at start; `begun` as in Node.restore."""
        self._count_open(task.token, 1)
        if task.spec.service is None:
            self._jobs.recover(task, begun, now)
        else:
            self._services.recover(task, begun, now)

    def add(self, origin: Origin, command: AddTask, now: Now) -> None:
        refusal = self._refusal(command)
        if refusal is not None:
            self._effects.append(Answer(origin, refusal))
            return
        task = Task(command.task_id, command.token, command.spec, now.wall_us)
        note = Note(now.wall_us, "accepted", task.status.state)
        self.inserting[task.id] = command
        self._count_open(task.token, 1)
        change = InsertTask(task, note, command.stdin_name, command.idempotency)
        self._ledger.write(change, ((origin, Done(task_id=task.id)),))

    def _refusal(self, command: AddTask) -> Refused | None:
        spec, key = command.spec, command.idempotency
        if self.draining:
            return Refused("draining", "this worker takes no new tasks: it is draining; ask another, or this one later")
        most = self._pool.most_per_runner
        if spec.limits.memory_bytes > most:
            detail = f"all runners of this node may have {self._pool.memory_bytes} bytes together, a guest {most}"
            return Refused("limit_above_ceiling", detail, "limits.memory_bytes")
        if spec.service is not None and (refusal := self._taken(spec.service.function, spec.service.revision)):
            return refusal
        if spec.url is None and spec.digest not in self._modules:
            return Refused(
                "module_unknown", f"no module {spec.digest} is here; POST /modules it first", "module.digest"
            )
        if key is not None and any(
            other.idempotency is not None and other.token == command.token and other.idempotency.key == key.key
            for other in self.inserting.values()
        ):
            return Refused("idempotency_in_progress", "a request with this Idempotency-Key is being handled; ask again")
        waiting = len(self.inserting) + self._tasks.waiting
        if waiting >= self._max_waiting:
            return Refused("queue_full", f"{waiting} tasks wait, at most {self._max_waiting} may (max_queued)")
        opened = self.open.get(command.token, 0)
        if opened >= self._max_open_per_token:
            most = self._max_open_per_token
            return Refused("queue_full", f"this token has {opened} open tasks, at most {most} may be open")
        return None

    def _taken(self, function: str, revision: str) -> Refused | None:
        holder = self._services.task_of(function, revision)
        for task_id, other in self.inserting.items():
            service = other.spec.service
            if service is not None and (service.function, service.revision) == (function, revision):
                holder = task_id
        if holder is None:
            return None
        detail = f"task {holder} keeps revision {revision} of {function}; stop it, or deploy under another name"
        return Refused("revision_exists", detail, "function.revision")

    def inserted(self, settled: Settled, change: InsertTask, now: Now) -> None:
        del self.inserting[change.task.id]
        match settled.result:
            case Applied():
                self._tell(settled.answers)
                owner = self._jobs if change.task.spec.service is None else self._services
                owner.admit(change.task, now)
            case Replay(task_id, same_body):
                mismatch = Refused("idempotency_mismatch", "this Idempotency-Key came with another body before")
                self._not_inserted(settled, change, Done(created=False, task_id=task_id) if same_body else mismatch)
            case WriteFailed(code, detail):
                self._not_inserted(settled, change, Refused(code, detail))
            case _:
                assert_never(settled.result)
        for origin, command in self.deferred.pop(change.task.id, ()):
            self.order(origin, command, now)

    def _not_inserted(self, settled: Settled, change: InsertTask, reply: Reply) -> None:
        self._count_open(change.task.token, -1)
        self._tell(tuple((origin, reply) for origin, _ in settled.answers))

    def order(self, origin: Origin, command: StopTask | WatchTask, now: Now) -> None:
        """Stop a task, or wait for its end; once its row is on disk or refused."""
        if command.task_id in self.inserting:
            self.deferred.setdefault(command.task_id, []).append((origin, command))
        elif isinstance(command, StopTask):
            self._stop(origin, command, now)
        else:
            self._watch(origin, command)

    def record(self) -> None:
        """What changed is the ledger's to write from here on."""
        for live in self._tasks.take_changed():
            self._ledger.update(live.task, tuple(live.notes), live.spec_changed, live.default)
            live.notes, live.spec_changed, live.default = [], False, False

    def _stop(self, origin: Origin, command: StopTask, now: Now) -> None:
        """Answered when the order, or the end that came before it, is on disk; at once where it is there already."""
        ordered = command.task_id in self._tasks.live
        owner = self._services if command.task_id in self._services.revisions else self._jobs
        owner.stop(command.task_id, command.force, now)
        self.record()
        reply = Done(created=ordered, task_id=command.task_id)
        if not self._ledger.attach(command.task_id, ((origin, reply),)):
            self._tell(((origin, reply),))

    def _watch(self, origin: Origin, command: WatchTask) -> None:
        self.record()
        if command.task_id not in self._tasks.live and not self._ledger.holds_end_of(command.task_id):
            self._effects.append(Answer(origin, Done(task_id=command.task_id)))
        else:
            self._watches.begin(command.task_id, origin, command.until_us)

    def on_disk(self, task: Task, default: bool) -> None:
        """The task's row is as it is here. `default`: with it its revision became its function's default."""
        if task.final:
            self._count_open(task.token, -1)
            reply = Done(task_id=task.id)
            self._tell(tuple((origin, reply) for origin in self._watches.end_all(task.id)))
        self._services.recorded(task, default)

    def _tell(self, answers: Answers) -> None:
        self._effects.extend(Answer(origin, reply) for origin, reply in answers)

    def _count_open(self, token: str, by: int) -> None:
        opened = self.open.get(token, 0) + by
        if opened:
            self.open[token] = opened
        else:
            self.open.pop(token, None)
