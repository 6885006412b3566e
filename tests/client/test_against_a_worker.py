"""Both clients against a real worker: from a module to a job, its output and its end, and to a function."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.e2e import guests
from tests.e2e.functions import speaker
from tests.e2e.harness import EXPORTS, HELLO, wasm
from worker.client import AsyncClient, Client, Refused


@pytest.fixture
def client(served: tuple[str, str]) -> Iterator[Client]:
    with Client(served[0], token=served[1]) as client:
        yield client


def test_a_job_from_its_module_to_its_output(client: Client) -> None:
    module = client.upload(wasm(HELLO))
    assert module == client.module(module.digest)
    task = client.run({"kind": "job", "module": {"digest": module.digest}, "labels": {"of": "a job"}})
    assert ("completed", "exit", 0) == (task.state, task.reason, task.exit_code)
    assert b"hello world\n" == client.output(task.id)
    assert [("stdout", b"hello world\n")] == [(chunk.stream, chunk.data) for chunk in client.follow_output(task.id)]
    assert "ended" == list(client.follow_task(task.id))[-1].events[-1].event
    assert task.id in {found.id for found in client.every_task(label="of=a job")}
    assert module.digest in {found.digest for found in client.every_module()}


def test_what_a_running_job_writes_comes_before_its_end(client: Client) -> None:
    module = client.upload(wasm(guests.SLEEPER))
    job = {"kind": "job", "module": {"digest": module.digest}, "entry": {"export": "block"}}
    task = client.submit({**job, "limits": {"wall_ms": 30_000}})
    chunks = client.follow_output(task.id)
    assert {("stdout", b"before\n"), ("stderr", b"aside\n")} == {
        (c.stream, c.data) for c in (next(chunks), next(chunks))
    }
    client.stop(task.id, force=True)
    assert [] == list(chunks)
    assert "stopped" == client.await_end(task.id).reason


def test_a_function_from_its_module_to_its_calls(client: Client) -> None:
    name = f"f{uuid4().hex}"
    digest = client.upload(speaker("hi\n")).digest
    service = {"kind": "service", "module": {"digest": digest}, "handler": {"abi": "wagi"}}
    task = client.deploy({**service, "function": {"name": name, "revision": "r1", "default": True}})
    assert "running" == task.state
    assert (200, b"hi\n") == ((answer := client.call(name, method="GET")).status, answer.body)
    function = client.function(name)
    assert ("r1", ["r1"]) == (function.default, [revision.revision for revision in function.revisions])
    assert name in {found.function for found in client.every_function()}
    off = client.switch(name, "r1", on=False, generation=function.generation)
    assert (None, "r1") == (off.default, off.previous)
    with pytest.raises(Refused) as caught:
        client.call(name)
    assert ("no_default_revision", "no") == (caught.value.code, caught.value.executed)
    client.stop(task.id)
    assert "stopped" == client.await_end(task.id).reason


def test_a_module_can_go_again(client: Client) -> None:
    digest = client.upload(wasm(guests.unique(uuid4().int % 10**6))).digest
    client.delete_module(digest)
    with pytest.raises(Refused, match="module_unknown"):
        client.module(digest)


def test_the_async_client_does_the_same(served: tuple[str, str]) -> None:
    async def story() -> None:
        async with AsyncClient(served[0], token=served[1]) as client:
            sent: list[int] = []
            module = await client.upload(wasm(EXPORTS), sent.append)
            assert [module.size_bytes] == sent
            jobs = [
                client.run(
                    {"kind": "job", "module": {"digest": module.digest}, "entry": {"export": "add", "params": [n, 1]}}
                )
                for n in range(4)
            ]
            assert [(n + 1,) for n in range(4)] == [task.result for task in await asyncio.gather(*jobs)]
            assert (await client.stats()).runners["total"] > 0

    asyncio.run(story())
