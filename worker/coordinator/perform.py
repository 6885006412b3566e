"""The hands: each effect that the core wants, carried out by whoever can. One method an effect, one table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from worker.coordinator.artifacts import Artifacts
from worker.coordinator.commit import CommitThread
from worker.coordinator.fetches import Fetches
from worker.coordinator.runners import Runners
from worker.core.commands import Done, Reply
from worker.core.effects import (
    Answer,
    AnswerStats,
    CancelArtifact,
    CancelFetch,
    CloseRunner,
    Commit,
    Effect,
    GiveJob,
    InterruptJob,
    KillRunner,
    PrepareArtifact,
    RemoveModule,
    StartFetch,
    StartRunner,
)


class Answers(Protocol):
    """Who carries a reply to the API worker that asked."""

    def send(self, origin: Any, reply: Reply) -> None: ...


class Hands:
    """Carries out effects. What comes of them reaches the core by the callbacks of whoever did it."""

    def __init__(
        self,
        answers: Answers,
        commits: CommitThread,
        artifacts: Artifacts,
        fetches: Fetches,
        runners: Runners,
        stats: Callable[[], bytes],
    ) -> None:
        self._answers = answers
        self._commits = commits
        self._artifacts = artifacts
        self._fetches = fetches
        self._runners = runners
        self._stats = stats
        self._table: dict[type[Effect], Callable[[Any], None]] = {
            Commit: self._commit,
            Answer: self._answer,
            AnswerStats: self._answer_stats,
            StartFetch: lambda effect: self._fetches.start(effect.task),
            CancelFetch: lambda effect: self._fetches.cancel(effect.task_id),
            PrepareArtifact: lambda effect: self._artifacts.prepare(effect.digest),
            CancelArtifact: lambda effect: self._artifacts.cancel(effect.digest),
            StartRunner: self._start_runner,
            GiveJob: lambda effect: self._runners.give(effect.runner_id, effect.task, effect.job_id),
            InterruptJob: lambda effect: self._runners.interrupt(effect.runner_id),
            KillRunner: lambda effect: self._runners.kill(effect.runner_id),
            CloseRunner: lambda effect: self._runners.close(effect.runner_id),
            RemoveModule: lambda effect: self._artifacts.forget(effect.digest),
        }

    def perform(self, effects: Iterable[Effect]) -> None:
        """All of them, in order."""
        for effect in effects:
            self._table[type(effect)](effect)

    def _commit(self, effect: Commit) -> None:
        self._commits.submit((effect.change,), effect.ticket)

    def _answer(self, effect: Answer) -> None:
        self._answers.send(effect.origin, effect.reply)

    def _answer_stats(self, effect: AnswerStats) -> None:
        self._answers.send(effect.origin, Done(body=self._stats()))

    def _start_runner(self, effect: StartRunner) -> None:
        artifact_fd = self._artifacts.fd(effect.task.spec.digest or "")
        self._runners.start(effect.runner_id, effect.slot, effect.task, effect.job_id, artifact_fd)
