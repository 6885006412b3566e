"""Modules over HTTP: streamed in under a cap, admitted, listed, shown, deleted; and nothing half-made is left."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.api_client import MODULE, NOW_US, WASM, Api, wasm
from worker.api.modules import PIECE_BYTES
from worker.api.render import rfc3339
from worker.api.storing import in_thread
from worker.core.commands import AddModule
from worker.errors import NoAnswer, NotSent
from worker.shared.blobs import TemporaryBlob

Make = Callable[..., Api]


def temporary(api: Api) -> list[Path]:
    return list(Path(api.config.data_dir, "blobs/tmp").iterdir())


def padded(size: int) -> bytes:
    """A module of about so many bytes: a custom section fills it."""
    body = b"\1x" + bytes(size)
    length = len(body)
    leb = bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 & 0x7F | 0x80, length >> 21))
    return wasm("(module)") + b"\0" + leb + body


def test_an_upload_is_named_by_its_digest_and_described(api: Api) -> None:
    module = wasm(MODULE)
    answer = api.upload(module)
    digest = f"sha256:{hashlib.sha256(module).hexdigest()}"
    func = {"kind": "func", "params": [], "results": []}
    expected = {
        "digest": digest,
        "size_bytes": len(module),
        "imports": [{"module": "wasi_snapshot_preview1", "name": "proc_exit", **func, "params": ["i32"]}],
        "exports": [
            {"name": "memory", "kind": "memory"},
            {"name": "_start", **func},
            {"name": "add", **func, "params": ["i32", "i32"], "results": ["i32"]},
            {"name": "mix", **func, "params": ["i64", "f32", "f64"], "results": ["i64"]},
            {"name": "vector", **func, "params": ["v128"]},
            {"name": "nothing", **func},
        ],
        "created_at": rfc3339(NOW_US),
    }
    assert (201, expected, f"/modules/{digest}") == (answer.status, answer.json, answer.headers["location"])
    assert module == api.blobs.module_path(digest).read_bytes()
    assert (200, expected) == ((shown := api.get(f"/modules/{digest}")).status, shown.json)
    assert [] == temporary(api)


def test_a_known_module_is_taken_again(api: Api, digest: str) -> None:
    answer = api.upload(wasm(MODULE))
    assert (200, digest, f"/modules/{digest}") == (answer.status, answer.json["digest"], answer.headers["location"])
    assert 1 == len(api.coordinator.asked), "it needs no coordinator"
    assert [] == temporary(api)


def test_two_that_upload_the_same_at_once_are_both_right(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.upload(wasm(MODULE))
    monkeypatch.setattr(api.reader, "module", lambda _: None)
    second = api.upload(wasm(MODULE))
    assert (201, 200) == (first.status, second.status)


def test_a_large_module_comes_in_pieces(api: Api) -> None:
    module = padded(3 * PIECE_BYTES)
    pieces = [module[start : start + 65_536] for start in range(0, len(module), 65_536)]
    answer = api.request("POST", "/modules", WASM, body=pieces)
    assert (201, len(module)) == (answer.status, answer.json["size_bytes"])
    assert module == api.blobs.module_path(answer.json["digest"]).read_bytes()


def test_the_cap_is_kept_while_streaming(make_api: Make) -> None:
    api = make_api(max_module_bytes=PIECE_BYTES)
    endless = iter(lambda: bytes(65_536), None)
    taken = 0

    def count() -> Any:
        nonlocal taken
        for piece in endless:
            taken += len(piece)
            if taken > 2 * PIECE_BYTES:
                return
            yield piece

    pieces = list(count())
    assert (413, "module_too_large", None) == api.request("POST", "/modules", WASM, body=pieces).refusal
    assert [] == temporary(api)
    length = ("content-length", str(PIECE_BYTES + 1))
    assert (413, "module_too_large", None) == api.request("POST", "/modules", WASM, length, body=[60.0]).refusal


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([b"\0asm", None], 400, "body_truncated"),
        ([b"\0asm\1\0\0\0\1"], 422, "module_malformed"),
        ([b"  (module)"], 415, "module_text"),
        ([b""], 422, "module_malformed"),
    ],
)
def test_nothing_is_left_of_what_was_refused(api: Api, body: list[bytes | None], status: int, code: str) -> None:
    answer = api.request("POST", "/modules", WASM, body=body)
    assert (status, code) == (answer.status, answer.code)
    assert ([], []) == (temporary(api), api.coordinator.asked)


@pytest.mark.parametrize("failure", [NotSent("x"), NoAnswer("x")])
def test_nothing_is_left_of_what_nobody_took(api: Api, failure: Exception) -> None:
    api.coordinator.script.append(failure)
    answer = api.upload(wasm(MODULE))
    assert (503, "coordinator_unavailable") == (answer.status, answer.code)
    assert [] == temporary(api)
    if isinstance(failure, NoAnswer):
        assert f"/modules/sha256:{hashlib.sha256(wasm(MODULE)).hexdigest()}" == answer.headers["location"]


@pytest.mark.parametrize("type_", ["", "application/json", "application/wasmx", "text/plain"])
def test_a_module_says_that_it_is_one(shared_api: Api, type_: str) -> None:
    answer = shared_api.request("POST", "/modules", ("content-type", type_), body=wasm(MODULE))
    assert (415, "media_type", "content-type") == answer.refusal


def test_parameters_of_the_media_type_do_not_matter(api: Api) -> None:
    answer = api.request("POST", "/modules", ("content-type", "Application/WASM; x=y"), body=wasm(MODULE))
    assert 201 == answer.status


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, (507, "storage_full")), (errno.EIO, (500, "internal"))]
)
@pytest.mark.parametrize("step", ["write", "finish"])
def test_a_full_disk_is_told_from_a_broken_one(
    api: Api, monkeypatch: pytest.MonkeyPatch, number: int, expected: tuple[int, str], step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(TemporaryBlob, step, fail)
    answer = api.upload(wasm(MODULE))
    assert expected == (answer.status, answer.code)
    assert [] == temporary(api)


def test_a_token_has_a_quota_of_bytes(make_api: Make) -> None:
    size = len(wasm(MODULE))
    api = make_api(max_stored_bytes_per_token=size + 2)
    digest = api.upload(wasm(MODULE)).json["digest"]
    assert (507, "storage_full", None) == api.upload(wasm("(module)")).refusal
    task = {"kind": "job", "module": {"digest": digest}}
    assert 201 == api.post({**task, "stdin": "ab"}).status
    assert (507, "storage_full", None) == api.post({**task, "stdin": "c"}).refusal


def test_modules_are_listed_in_pages(api: Api) -> None:
    made = {api.upload(padded(size)).json["digest"] for size in (1, 2, 3)}
    first = api.get("/modules?limit=2").json
    second = api.get(f"/modules?limit=2&after={first['next']}").json
    seen = [module["digest"] for module in first["modules"] + second["modules"]]
    assert (made, 3, None) == (set(seen), len(seen), second["next"])
    assert (422, "field_range", "after") == api.get("/modules?after=x").refusal
    assert (422, "field_range", "limit") == api.get("/modules?limit=501").refusal
    assert (422, "field_unknown", "state") == api.get("/modules?state=x").refusal


def test_a_module_is_deleted_unless_it_is_in_use(api: Api, digest: str) -> None:
    api.coordinator.in_use.add(digest)
    assert (409, "module_in_use", None) == api.delete(f"/modules/{digest}").refusal
    api.coordinator.in_use.clear()
    assert (204, b"") == ((gone := api.delete(f"/modules/{digest}")).status, gone.body)
    assert (404, "module_unknown", None) == api.delete(f"/modules/{digest}").refusal
    assert (404, "module_unknown", None) == api.get(f"/modules/{digest}").refusal


@pytest.mark.parametrize("name", ["x", "sha256:00", "sha256:" + "G" * 64, "%00"[:2] + "x"])
def test_a_digest_that_is_none_is_unknown(shared_api: Api, name: str) -> None:
    for method in ("GET", "DELETE"):
        assert shared_api.request(method, f"/modules/{name}").code in ("module_unknown", "bad_path")


def test_what_is_added_has_its_interface(api: Api, digest: str) -> None:
    (command,) = api.coordinator.asked
    assert isinstance(command, AddModule)
    assert ("_start", "func") == (command.module.exports[1].name, command.module.exports[1].kind)


def test_who_is_cancelled_leaves_when_the_thread_has() -> None:
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        leave.wait(10)
        left.set()

    async def scenario() -> None:
        task = asyncio.ensure_future(in_thread(work))
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left.is_set()

    asyncio.run(scenario())
