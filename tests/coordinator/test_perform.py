"""The hands where what they are given can't be carried out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.coordinator.perform import Hands
from worker.core.commands import Refused, Reply
from worker.core.effects import AnswerFunctions, AnswerStats, Effect


@pytest.mark.parametrize("effect", [AnswerStats("origin"), AnswerFunctions("origin", ("f",))])
def test_a_document_that_cannot_be_written_is_refused_and_ends_nobody(
    effect: Effect, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[tuple[Any, Reply]] = []

    def fails(*_: object) -> bytes:
        raise OverflowError("an integer of more than 64 bits")

    nobody: Any = None
    answers: Any = SimpleNamespace(send=lambda origin, reply: sent.append((origin, reply)))
    reports: Any = SimpleNamespace(stats=fails, functions=fails)
    Hands(answers, nobody, nobody, nobody, nobody, nobody, reports, nobody, nobody, nobody).perform([effect])
    [(origin, reply)] = sent
    assert isinstance(reply, Refused)
    assert ("origin", "internal") == (origin, reply.code)
    assert "more than 64 bits" in caplog.text
