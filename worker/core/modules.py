"""Modules: in the table before they are known, gone from it before their files go, and on the way of fetched tasks."""

from __future__ import annotations

from worker.core.changes import Applied, DropModule, InsertModule, Result, WriteFailed
from worker.core.clock import Now
from worker.core.commands import AddModule, Done, Refused, Reply
from worker.core.effects import Answer, Effect, Origin, RemoveModule
from worker.core.events import ModuleFetched
from worker.core.ledger import Answers, Ledger, Settled, refusal
from worker.core.module import Module
from worker.core.task import Reason, Task
from worker.core.tasks import Tasks


class Modules:
    """`digests` are the modules that are here: the set that `Tasks` looks into."""

    def __init__(self, digests: set[str], tasks: Tasks, ledger: Ledger, effects: list[Effect]) -> None:
        self.digests = digests
        self._tasks = tasks
        self._ledger = ledger
        self._effects = effects
        # What comes again while it is being dropped waits: RemoveModule would take the new files too.
        self.dropping: dict[str, list[tuple[InsertModule, Answers]]] = {}
        # Tasks whose module was fetched and isn't in the table yet, by its digest.
        self.fetched: dict[str, list[tuple[str, ModuleFetched]]] = {}

    def add(self, origin: Origin, command: AddModule) -> None:
        self._insert(InsertModule(command.module, command.blob_name, command.token), ((origin, Done()),))

    def delete(self, origin: Origin, digest: str, being_added: bool) -> None:
        """`being_added`: a task that uses it is on its way to the disk."""
        if digest not in self.digests:
            self._effects.append(Answer(origin, Refused("module_unknown", f"no module {digest} is here")))
        elif self._tasks.uses(digest) or digest in self.fetched or being_added:
            in_use = Refused("module_in_use", f"tasks that haven't ended use {digest}; stop them first")
            self._effects.append(Answer(origin, in_use))
        else:
            self._drop(digest, ((origin, Done()),))

    def expire(self, digest: str) -> bool:
        """Nobody uses it, and there is no room for it: whether it goes."""
        if digest not in self.digests:  # it is going already, or only coming
            return False
        self._drop(digest, ())
        return True

    def came(self, module: Module, blob_name: str, task: Task, event: ModuleFetched | None) -> None:
        """A task's module came by its URL: it goes into the table, and then the task goes on, if it can (`event`)."""
        if event is not None:
            self.fetched.setdefault(module.digest, []).append((task.id, event))
        self._insert(InsertModule(module, blob_name, task.token), ())

    @property
    def awaited(self) -> set[str]:
        """Digests of what tasks wait for that was fetched and isn't in the table yet."""
        return set(self.fetched)

    def blobs(self) -> set[str]:
        """Temporary blobs of modules that wait for another's removal."""
        return {insertion.blob_name for waiting in self.dropping.values() for insertion, _ in waiting}

    def inserted(self, settled: Settled, change: InsertModule, now: Now) -> None:
        digest = change.module.digest
        if isinstance(settled.result, Applied):
            if digest not in self.dropping:  # else its row goes in a commit that is after this one
                self.digests.add(digest)
            reply: Reply = Done(created=settled.result.created)
        else:
            reply = refusal(settled.result)
        self._answer(settled, reply)
        self._go_on_with(digest, settled.result, now)

    def dropped(self, settled: Settled, change: DropModule) -> None:
        if isinstance(settled.result, Applied):
            self._effects.append(RemoveModule(change.digest))
            self._answer(settled, Done())
        else:
            self.digests.add(change.digest)
            self._answer(settled, refusal(settled.result))
        for insertion, answers in self.dropping.pop(change.digest):
            self._ledger.write(insertion, answers)

    def _drop(self, digest: str, answers: Answers) -> None:
        self.digests.discard(digest)  # at once, so that no task is added to it while the row goes
        self.dropping[digest] = []
        self._ledger.write(DropModule(digest), answers)

    def _insert(self, change: InsertModule, answers: Answers) -> None:
        waiting = self.dropping.get(change.module.digest)
        if waiting is None:
            self._ledger.write(change, answers)
        else:
            waiting.append((change, answers))

    def _go_on_with(self, digest: str, result: Result, now: Now) -> None:
        if digest in self.dropping:  # the row that was inserted goes again; another insertion waits for that
            return
        for task_id, event in self.fetched.pop(digest, ()):
            if isinstance(result, WriteFailed):
                self._tasks.refused(task_id, Reason.FETCH_FAILED, result.detail, now)
            else:
                self._tasks.fetched(task_id, event, now)

    def _answer(self, settled: Settled, reply: Reply) -> None:
        self._effects.extend(Answer(origin, reply) for origin, _ in settled.answers)
