"""`/metrics`: the coordinator's text, whole, however many messages it took."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.api_client import Api
from worker.core.commands import Command, Done, ReadMetrics, Reply
from worker.errors import NoAnswer


@pytest.mark.parametrize("parts", [[b""], [b"a 1\n"], [b"a 1\n", b"b 2\n", b"c 3\n"]])
def test_all_parts_are_given_in_order(api: Api, parts: list[bytes]) -> None:
    api.coordinator.metrics = parts
    answer = api.get("/metrics")
    assert (200, b"".join(parts)) == (answer.status, answer.body)
    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["content-type"]
    assert [ReadMetrics(part) for part in range(len(parts))] == api.coordinator.asked


def test_half_of_them_are_no_metrics(api: Api) -> None:
    api.coordinator.script += [Done(created=True, body=b"a 1\n"), NoAnswer("gone")]
    answer = api.get("/metrics")
    assert (503, "coordinator_unavailable", "/metrics") == (answer.status, answer.code, answer.headers["location"])


def test_a_reading_that_was_given_up_is_told(api: Api) -> None:
    api.coordinator.script += [Done(created=True, body=b"a 1\n"), Done(created=False)]
    assert (503, "coordinator_unavailable", None) == api.get("/metrics").refusal


def test_two_who_ask_at_once_get_a_reading_each(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.coordinator.metrics = [b"a 1\n", b"b 2\n"]
    ask = api.coordinator.ask

    async def slowly(command: Command, timeout_s: float) -> Reply:
        await asyncio.sleep(0)
        return await ask(command, timeout_s)

    monkeypatch.setattr(api.coordinator, "ask", slowly)

    async def both() -> list[bytes]:
        answers = await asyncio.gather(*(api.call("GET", "/metrics") for _ in range(2)))
        return [answer.body for answer in answers]

    assert [b"a 1\nb 2\n"] * 2 == api.loop.run_until_complete(both())
    assert [ReadMetrics(part) for part in (0, 1, 0, 1)] == api.coordinator.asked
