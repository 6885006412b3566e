"""The node: commands in, effects out. The coordinator calls one method for each thing that happened.

Nothing here touches the world. After a round of calls, `take_effects` gives what is to be done, in order; among it the
commits of all tasks that changed, one for each task however often it changed in the round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from worker.core.changes import (
    Applied,
    DropModule,
    InsertModule,
    InsertTask,
    Note,
    Replay,
    Result,
    UpdateTask,
    WriteFailed,
)
from worker.core.clock import Now
from worker.core.commands import (
    AddModule,
    AddTask,
    Command,
    DeleteModule,
    Done,
    ReadStats,
    Refused,
    Reply,
    StopTask,
    WatchTask,
)
from worker.core.effects import Answer, AnswerStats, Effect, Origin, RemoveModule
from worker.core.events import ModuleFetched
from worker.core.jobs import Jobs, JobSettings
from worker.core.ledger import LAZY, RETRY, Answers, Ledger, Settled
from worker.core.module import Module
from worker.core.task import Reason, State, Task
from worker.core.timers import Timer, Timers


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`max_queued`: tasks that wait, all together; `max_open_per_token`: tasks that one token has alive;
    `lazy_commit_us`: see `Ledger`."""

    jobs: JobSettings
    max_queued: int = 10_000
    max_open_per_token: int = 10_000
    lazy_commit_us: int = 0


class Node:
    """Everything that the coordinator knows. Rebuilt from the table at each start."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.timers = Timers()
        self.effects: list[Effect] = []
        self.ledger = Ledger(self.timers, self.effects, settings.lazy_commit_us)
        self.modules: set[str] = set()
        self.jobs = Jobs(settings.jobs, self.timers, self.effects, self.modules)
        self.draining = False
        self._watchers: dict[str, set[Timer]] = {}
        self._watch_origins: dict[Timer, tuple[str, Origin]] = {}
        self._next_watch = 1
        self._inserting: dict[str, AddTask] = {}
        # What was asked of a task that is being inserted waits for the disk's word.
        self._deferred: dict[str, list[tuple[Origin, Command]]] = {}
        # So does a module that came again while it is being dropped: RemoveModule would take the new files too.
        self._dropping: dict[str, list[tuple[InsertModule, Answers]]] = {}
        self._open: dict[str, int] = {}
        # Tasks whose module was fetched and isn't in the table yet, by its digest.
        self._fetched: dict[str, list[tuple[str, ModuleFetched]]] = {}

    # -- from the table, at start ------------------------------------------------------------------------------------

    def restore(self, tasks: list[Task], modules: list[str], now: Now, begun: frozenset[str] = frozenset()) -> None:
        """Take up what the table holds: tasks that aren't final, oldest first, and the digests of all modules.

        `begun` are the tasks for which something shows that a runner was made, whatever their row says.
        """
        self.modules.update(modules)
        for task in tasks:
            self._count_open(task.token, 1)
            self.jobs.recover(task, task.id in begun, now)

    # -- commands ----------------------------------------------------------------------------------------------------

    def command(self, origin: Origin, command: Command, now: Now) -> None:
        """One command of an API worker. One that outlived its expiry is dropped: its client was told `maybe`."""
        if command.expires_at_us and command.expires_at_us <= now.monotonic_us:
            return
        match command:
            case AddTask():
                self._add_task(origin, command, now)
            case StopTask(task_id) | WatchTask(task_id) if task_id in self._inserting:
                self._deferred.setdefault(task_id, []).append((origin, command))
            case StopTask():
                self._stop_task(origin, command, now)
            case WatchTask():
                self._watch(origin, command)
            case AddModule():
                self._insert_module(InsertModule(command.module, command.blob_name, command.token), ((origin, Done()),))
            case DeleteModule():
                self._delete_module(origin, command)
            case ReadStats():
                self.effects.append(AnswerStats(origin))
            case _:
                assert_never(command)

    def forget(self, gone: Callable[[Origin], bool]) -> None:
        """Whoever asked is gone: no watch is kept for them. What they ordered goes on."""
        for timer, (_, origin) in list(self._watch_origins.items()):
            if gone(origin):
                self._end_watch(timer)
        for waiting in self._deferred.values():
            waiting[:] = [(o, command) for o, command in waiting if not (gone(o) and isinstance(command, WatchTask))]

    def committed(self, ticket: int, result: Result, now: Now) -> None:
        """The commit thread's answer to one Commit."""
        settled = self.ledger.settle(ticket, result, now)
        if settled is None:
            return
        match settled.change:
            case InsertTask():
                self._inserted(settled, settled.change, now)
            case InsertModule():
                self._module_inserted(settled, settled.change)
                self._go_on_with(settled.change.module.digest, settled.result, now)
            case DropModule():
                self._module_dropped(settled, settled.change)
            case UpdateTask():
                self._answer(settled.answers)
                if settled.change.task.final:
                    self._end_is_on_disk(settled.change.task)
            case _:
                assert_never(settled.change)

    # -- time and effects --------------------------------------------------------------------------------------------

    def tick(self, now: Now) -> None:
        """Handle every timer whose time has come."""
        for timer in self.timers.pop_due(now.monotonic_us):
            if timer.kind == "watch":
                task_id, origin = self._end_watch(timer)
                self.effects.append(Answer(origin, Done(created=False, task_id=task_id)))
            elif timer not in (RETRY, LAZY):  # for these it is enough to be awake: `take_effects` flushes the ledger
                self.jobs.timer_due(timer, now)

    def take_effects(self, now: Now) -> list[Effect]:
        """What is to be done now, in order; each task that changed is committed once."""
        self._record_changes()
        self.ledger.flush(now)
        effects = self.effects[:]
        self.effects.clear()
        return effects

    def drain(self, now: Now) -> None:
        """No new tasks; what runs goes on, what waits stays in the table for the next start."""
        self.draining = True
        self.jobs.drain(now)

    def stop_running(self, now: Now) -> None:
        """The drain's time is up: what has a runner is stopped, with its grace."""
        for live in list(self.jobs.live.values()):
            if live.task.status.state is not State.PENDING:
                self.jobs.stop(live.task.id, False, now)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits for the disk."""
        return not self.jobs.pool.runners and not self.ledger

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _add_task(self, origin: Origin, command: AddTask, now: Now) -> None:
        refusal = self._refusal(command)
        if refusal is not None:
            self.effects.append(Answer(origin, refusal))
            return
        task = Task(command.task_id, command.token, command.spec, now.wall_us)
        note = Note(now.wall_us, "accepted", task.status.state)
        self._inserting[task.id] = command
        self._count_open(task.token, 1)
        change = InsertTask(task, note, command.stdin_name, command.idempotency)
        self.ledger.write(change, ((origin, Done(task_id=task.id)),))

    def _refusal(self, command: AddTask) -> Refused | None:
        spec, key = command.spec, command.idempotency
        if self.draining:
            return Refused("draining", "this worker takes no new tasks: it is draining; ask another, or this one later")
        if spec.url is None and spec.digest not in self.modules:
            return Refused(
                "module_unknown", f"no module {spec.digest} is here; POST /modules it first", "module.digest"
            )
        if key is not None and any(
            other.idempotency is not None and other.token == command.token and other.idempotency.key == key.key
            for other in self._inserting.values()
        ):
            return Refused("idempotency_in_progress", "a request with this Idempotency-Key is being handled; ask again")
        waiting = len(self._inserting) + self.jobs.waiting
        if waiting >= self.settings.max_queued:
            return Refused("queue_full", f"{waiting} tasks wait, at most {self.settings.max_queued} may (max_queued)")
        opened = self._open.get(command.token, 0)
        if opened >= self.settings.max_open_per_token:
            most = self.settings.max_open_per_token
            return Refused("queue_full", f"this token has {opened} open tasks, at most {most} may be open")
        return None

    def _inserted(self, settled: Settled, change: InsertTask, now: Now) -> None:
        del self._inserting[change.task.id]
        match settled.result:
            case Applied():
                self._answer(settled.answers)
                self.jobs.admit(change.task, now)
            case Replay(task_id, same_body):
                mismatch = Refused("idempotency_mismatch", "this Idempotency-Key came with another body before")
                self._not_inserted(settled, change, Done(created=False, task_id=task_id) if same_body else mismatch)
            case WriteFailed(code, detail):
                self._not_inserted(settled, change, Refused(code, detail))
            case _:
                assert_never(settled.result)
        for origin, command in self._deferred.pop(change.task.id, ()):
            self.command(origin, command, now)

    def _not_inserted(self, settled: Settled, change: InsertTask, reply: Reply) -> None:
        self._count_open(change.task.token, -1)
        self._answer(tuple((origin, reply) for origin, _ in settled.answers))

    def _stop_task(self, origin: Origin, command: StopTask, now: Now) -> None:
        """Answered when the order, or the end that came before it, is on disk; at once where it is there already."""
        ordered = command.task_id in self.jobs.live
        self.jobs.stop(command.task_id, command.force, now)
        self._record_changes()
        reply = Done(created=ordered, task_id=command.task_id)
        if not self.ledger.attach(command.task_id, ((origin, reply),)):
            self.effects.append(Answer(origin, reply))

    def _watch(self, origin: Origin, command: WatchTask) -> None:
        self._record_changes()
        if command.task_id not in self.jobs.live and not self.ledger.holds_end_of(command.task_id):
            self.effects.append(Answer(origin, Done(task_id=command.task_id)))
            return
        timer = Timer("watch", self._next_watch)
        self._next_watch += 1
        self._watchers.setdefault(command.task_id, set()).add(timer)
        self._watch_origins[timer] = (command.task_id, origin)
        self.timers.set(timer, command.until_us)

    def _end_watch(self, timer: Timer) -> tuple[str, Origin]:
        task_id, origin = self._watch_origins.pop(timer)
        self.timers.cancel(timer)
        watchers = self._watchers[task_id]
        watchers.discard(timer)
        if not watchers:
            del self._watchers[task_id]
        return task_id, origin

    def _end_is_on_disk(self, task: Task) -> None:
        self._count_open(task.token, -1)
        for timer in sorted(self._watchers.get(task.id, ())):
            _, origin = self._end_watch(timer)
            self.effects.append(Answer(origin, Done(task_id=task.id)))

    # -- modules -----------------------------------------------------------------------------------------------------

    def _delete_module(self, origin: Origin, command: DeleteModule) -> None:
        digest = command.digest
        if digest not in self.modules:
            self.effects.append(Answer(origin, Refused("module_unknown", f"no module {digest} is here")))
        elif (
            self.jobs.uses(digest)
            or digest in self._fetched
            or any(other.spec.digest == digest for other in self._inserting.values())
        ):
            in_use = Refused("module_in_use", f"tasks that haven't ended use {digest}; stop them first")
            self.effects.append(Answer(origin, in_use))
        else:
            self.modules.discard(digest)  # at once, so that no task is added to it while the row goes
            self._dropping[digest] = []
            self.ledger.write(DropModule(digest), ((origin, Done()),))

    def _insert_module(self, change: InsertModule, answers: Answers) -> None:
        waiting = self._dropping.get(change.module.digest)
        if waiting is None:
            self.ledger.write(change, answers)
        else:
            waiting.append((change, answers))

    def _module_inserted(self, settled: Settled, change: InsertModule) -> None:
        if isinstance(settled.result, Applied):
            if change.module.digest not in self._dropping:  # else its row goes in a commit that is after this one
                self.modules.add(change.module.digest)
            reply: Reply = Done(created=settled.result.created)
        else:
            reply = self._write_refused(settled.result)
        self._answer(tuple((origin, reply) for origin, _ in settled.answers))

    def _module_dropped(self, settled: Settled, change: DropModule) -> None:
        if isinstance(settled.result, Applied):
            self.effects.append(RemoveModule(change.digest))
            self._answer(settled.answers)
        else:
            self.modules.add(change.digest)
            reply = self._write_refused(settled.result)
            self._answer(tuple((origin, reply) for origin, _ in settled.answers))
        for insertion, answers in self._dropping.pop(change.digest):
            self.ledger.write(insertion, answers)

    def module_fetched(self, module: Module, blob_name: str, task: Task, event: ModuleFetched | None) -> None:
        """A task's module came by its URL: it goes into the table, and then the task goes on, if it can (`event`)."""
        if event is not None:
            self._fetched.setdefault(module.digest, []).append((task.id, event))
        self._insert_module(InsertModule(module, blob_name, task.token), ())

    def _go_on_with(self, digest: str, result: Result, now: Now) -> None:
        if digest in self._dropping:  # the row that was inserted goes again; another insertion waits for that
            return
        for task_id, event in self._fetched.pop(digest, ()):
            if isinstance(result, WriteFailed):
                self.jobs.refused(task_id, Reason.FETCH_FAILED, result.detail, now)
            else:
                self.jobs.fetched(task_id, event, now)

    # -- within ------------------------------------------------------------------------------------------------------

    def _record_changes(self) -> None:
        """What changed is the ledger's to write from here on."""
        for live in self.jobs.take_changed():
            self.ledger.update(live.task, tuple(live.notes), live.spec_changed)
            live.notes, live.spec_changed = [], False

    @staticmethod
    def _write_refused(result: Result) -> Refused:
        assert isinstance(result, WriteFailed)
        return Refused(result.code, result.detail)

    def _answer(self, answers: tuple[tuple[Origin, Reply], ...]) -> None:
        self.effects.extend(Answer(origin, reply) for origin, reply in answers)

    def _count_open(self, token: str, by: int) -> None:
        opened = self._open.get(token, 0) + by
        if opened:
            self._open[token] = opened
        else:
            self._open.pop(token, None)
