"""A service in the words of the runner's protocol."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.protocol.control import (
    ABI_EXPORT,
    ABI_WAGI,
    FLAG_STUB_IMPORTS,
    FLAG_TRY_INSTANCE,
    decode_serve,
    encode_serve,
)
from worker.coordinator.serving import Recycling, to_serve, to_server_load
from worker.core.task import Handler, Kind, Limits, Mount, Reuse, Service, State, Task, TaskSpec

RECYCLING = Recycling(calls=500, cpu_s=60)


def _task(handler: Handler, reuse: Reuse = Reuse(), **spec: object) -> Task:  # noqa: B008 - frozen
    service = Service("f", "r", handler, reuse=reuse)
    limits = Limits(fuel=7, memory_bytes=1 << 20, wall_ms=1500, output_bytes=99)
    return Task("id", "", TaskSpec(Kind.SERVICE, "cgi", None, limits=limits, service=service, **spec), 0)


def test_a_command_has_its_name_first_and_its_environment() -> None:
    task = _task(Handler("wagi"), args=("--fast",), env=(("LANG", "C"), ("A", "b=c")))
    serve = decode_serve(encode_serve(to_serve(task, 3, RECYCLING)))
    assert (ABI_WAGI, (b"cgi", b"--fast"), (b"LANG=C", b"A=b=c"), b"", 3) == (
        *(serve.abi, serve.args, serve.env, serve.export, serve.record),
    )
    assert (7, 1 << 20, 1500, 99) == (serve.fuel, serve.memory_bytes, serve.wall_ms, serve.output_bytes)
    assert (500, 60_000_000, 1) == (serve.recycle_calls, serve.recycle_cpu_us, serve.reuse_calls)


def test_an_export_has_its_signature() -> None:
    task = _task(Handler("export", "add", ("i32", "f64"), ("i64",)))
    serve = decode_serve(encode_serve(to_serve(task, 0, RECYCLING)))
    assert (ABI_EXPORT, b"add", (0, 3), (1,), ()) == (serve.abi, serve.export, serve.params, serve.results, serve.args)


@pytest.mark.parametrize(("asked", "expected"), [(0, 1 << 20), (4096, 4096)])
def test_an_instance_that_is_used_again_may_have_the_memory_limit_unless_less_was_said(
    asked: int, expected: int
) -> None:
    serve = to_serve(_task(Handler("wagi"), Reuse(10, asked)), 0, RECYCLING)
    assert (10, expected) == (serve.reuse_calls, serve.reuse_memory_bytes)


def test_mounts_are_where_the_zygote_binds_them() -> None:
    mounts = (Mount("corpus", "/data"), Mount("out", "/out", mode="rw"))
    assert ((b"/m0", b"/data", True), (b"/m1", b"/out", False)) == (
        to_serve(_task(Handler("wagi"), mounts=mounts), 0, RECYCLING).preopens
    )


def test_the_cpu_time_is_what_recycles_and_one_call_more() -> None:
    load = to_server_load(_task(Handler("wagi"), unknown_imports="stub"), RECYCLING)
    assert (64, 1 << 20, FLAG_STUB_IMPORTS) == (load.cpu_s, load.memory_bytes, load.flags)


def test_a_service_that_has_not_run_yet_tries_an_instance() -> None:
    task = _task(Handler("wagi"))
    flags = {
        state: to_server_load(replace(task, status=replace(task.status, state=state)), RECYCLING).flags
        for state in (State.SCHEDULED, State.RUNNING)
    }
    assert {State.SCHEDULED: FLAG_TRY_INSTANCE, State.RUNNING: 0} == flags
