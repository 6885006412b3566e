"""What a pending task needs before it may have a slot: its module, perhaps by URL, and the artifact of that."""

from __future__ import annotations

from worker.core.effects import CancelArtifact, CancelFetch, Effect, PrepareArtifact, StartFetch
from worker.core.task import Task


class Needs:
    """Who waits for which module or artifact. Each artifact is asked for once, however many wait.

    Args:
        modules: digests of the modules that are here and need no fetch; the node's own set.
    """

    def __init__(self, effects: list[Effect], modules: set[str]) -> None:
        self.artifacts: set[str] = set()  # digests whose artifact is at hand
        self._effects = effects
        self._modules = modules
        self._fetching: set[str] = set()
        self._preparing: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._fetching) + sum(len(waiting) for waiting in self._preparing.values())

    def fetch(self, task: Task) -> bool:
        """Have the task's module fetched, where it isn't here and has a URL. Whether that is so."""
        digest = task.spec.digest
        if digest is not None and (task.spec.url is None or digest in self._modules):
            return False
        self._fetching.add(task.id)
        self._effects.append(StartFetch(task))
        return True

    def fetched(self, task_id: str) -> bool:
        """The fetch is over, well or not. False where nobody waits for it."""
        waited = task_id in self._fetching
        self._fetching.discard(task_id)
        return waited

    def prepare(self, task_id: str, digest: str) -> bool:
        """Have the artifact made for the task. True where it is at hand."""
        if digest in self.artifacts:
            return True
        waiting = self._preparing.setdefault(digest, set())
        if not waiting:
            self._effects.append(PrepareArtifact(digest))
        waiting.add(task_id)
        return False

    def prepared(self, digest: str) -> set[str]:
        """The artifact is there, or will never be: the tasks that waited for it."""
        return self._preparing.pop(digest, set())

    def forget(self, task: Task) -> None:
        """The task is final; what only it waited for is called off."""
        if self.fetched(task.id):
            self._effects.append(CancelFetch(task.id))
        digest = task.spec.digest or ""
        waiting = self._preparing.get(digest)
        if waiting is not None and task.id in waiting:
            waiting.discard(task.id)
            if not waiting:
                del self._preparing[digest]
                self._effects.append(CancelArtifact(digest))
