"""The hands: each effect that the core wants, carried out by whoever can. One method an effect, one table of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, Protocol

from worker.coordinator.artifacts import Artifacts
from worker.coordinator.calls import Calls
from worker.coordinator.commit import CommitThread
from worker.coordinator.fetches import Fetches
from worker.coordinator.metrics import Metrics
from worker.coordinator.outputs import Outputs
from worker.coordinator.reports import Reports
from worker.coordinator.runners import Runners
from worker.core.commands import Done, Refused, Reply
from worker.core.effects import (
    Answer,
    AnswerAudit,
    AnswerFunctions,
    AnswerMetrics,
    AnswerStats,
    CancelArtifact,
    CancelFetch,
    CloseListener,
    CloseRunner,
    Commit,
    CountCalls,
    Effect,
    GiveJob,
    InterruptJob,
    KillRunner,
    OpenListener,
    PrepareArtifact,
    RemoveModule,
    RemoveOutputs,
    RetireServer,
    SampleCalls,
    ShutListener,
    StartFetch,
    StartRunner,
    StartServer,
    WatchCalls,
)

_log = logging.getLogger("worker.coordinator")


class Answers(Protocol):
    """Who carries a reply to the API worker that asked."""

    def send(self, origin: Any, reply: Reply) -> None: ...

    def asker(self, origin: Any) -> Hashable:
        """Who it is, whatever it asks."""


class Hands:
    """Carries out effects. What comes of them reaches the core by the callbacks of whoever did it."""

    def __init__(
        self,
        answers: Answers,
        commits: CommitThread,
        artifacts: Artifacts,
        fetches: Fetches,
        runners: Runners,
        calls: Calls,
        reports: Reports,
        metrics: Metrics,
        outputs: Outputs,
        audit: Callable[[], bytes],
    ) -> None:
        self._answers = answers
        self._audit = audit
        self._audits: list[Any] = []
        self._commits = commits
        self._artifacts = artifacts
        self._fetches = fetches
        self._runners = runners
        self._calls = calls
        self._reports = reports
        self._metrics = metrics
        self._table: dict[type[Effect], Callable[[Any], None]] = {
            Commit: self._commit,
            Answer: self._answer,
            AnswerStats: self._answer_stats,
            AnswerAudit: lambda effect: self._audits.append(effect.origin),
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
            RemoveOutputs: lambda effect: outputs.remove(effect.task_ids),
            AnswerFunctions: self._answer_functions,
            AnswerMetrics: self._answer_metrics,
            CountCalls: lambda effect: self._calls.figures.add(effect.figures),
            OpenListener: lambda effect: self._calls.open(effect.task),
            ShutListener: lambda effect: self._calls.listeners.shut(effect.task_id),
            CloseListener: lambda effect: self._calls.close(effect.task_id),
            WatchCalls: lambda effect: self._calls.listeners.watch(effect.task_id),
            SampleCalls: lambda effect: self._calls.sample(effect.task_ids),
            StartServer: self._start_server,
            RetireServer: lambda effect: self._calls.retire(effect.task_id),
        }

    def perform(self, effects: Iterable[Effect]) -> None:
        """All of them, in order."""
        for effect in effects:
            self._table[type(effect)](effect)

    def answer_audits(self) -> None:
        """For the loop to call when every effect was carried out: until then what is known isn't what is there yet."""
        while self._audits:
            self._answers.send(self._audits.pop(), Done(body=self._audit()))

    def _commit(self, effect: Commit) -> None:
        self._commits.submit((effect.change,), effect.ticket)

    def _answer(self, effect: Answer) -> None:
        self._answers.send(effect.origin, effect.reply)

    def _answer_stats(self, effect: AnswerStats) -> None:
        self._answers.send(effect.origin, _told(self._reports.stats))

    def _answer_functions(self, effect: AnswerFunctions) -> None:
        self._answers.send(effect.origin, _told(lambda: self._reports.functions(effect.functions)))

    def _answer_metrics(self, effect: AnswerMetrics) -> None:
        def answer(body: bytes, more: bool) -> None:
            self._answers.send(effect.origin, Done(created=more, body=body))

        self._metrics.part(self._answers.asker(effect.origin), effect.part, answer)

    def _start_runner(self, effect: StartRunner) -> None:
        artifact = partial(self._artifacts.fd, effect.task.spec.digest or "")
        self._runners.start(effect.runner_id, effect.slot, effect.task, effect.job_id, artifact)

    def _start_server(self, effect: StartServer) -> None:
        artifact = partial(self._artifacts.fd, effect.task.spec.digest or "")
        self._calls.servers.start(effect.runner_id, effect.slot, effect.task, artifact)


def _told(document: Callable[[], bytes]) -> Reply:
    """A document as a reply. One that can't be made is refused, and ends nobody: its figures are others' words."""
    try:
        return Done(body=document())
    except Exception as exc:  # noqa: BLE001 - whatever it was, it is logged and told
        _log.exception("a document that was asked for can't be made")
        return Refused("internal", repr(exc)[:200])
