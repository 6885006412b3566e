"""stdout and stderr over HTTP: as far as they were written, and never rendered by a browser."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.api.api_client import Api
from worker.api.outputs import PIECE_BYTES, SMALL_BYTES, FileStream, is_text
from worker.core.changes import ExpireTasks
from worker.core.task import State, Status

TEXT, BYTES = "text/plain; charset=utf-8", "application/octet-stream"


@pytest.fixture
def task_id(api: Api, digest: str) -> str:
    return str(api.post({"kind": "job", "module": {"digest": digest}}).json["id"])


def write(api: Api, task_id: str, stdout: bytes = b"", stderr: bytes = b"") -> None:
    for path, data in zip(api.blobs.output_paths(task_id), (stdout, stderr), strict=True):
        path.write_bytes(data)


def open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        path = Path(f"/proc/self/fd/{fd}")
        if path.exists():
            found.add(os.readlink(path))
    return found


def test_each_stream_is_its_own(api: Api, task_id: str) -> None:
    write(api, task_id, "h\u00e9llo\n".encode(), b"\xff\0")
    stdout, stderr = api.get(f"/tasks/{task_id}/stdout"), api.get(f"/tasks/{task_id}/stderr")
    assert (200, "h\u00e9llo\n".encode(), TEXT) == (stdout.status, stdout.body, stdout.headers["content-type"])
    assert (200, b"\xff\0", BYTES) == (stderr.status, stderr.body, stderr.headers["content-type"])


def test_no_browser_renders_it(api: Api, task_id: str) -> None:
    write(api, task_id, b"<script>alert(1)</script>")
    headers = api.get(f"/tasks/{task_id}/stdout").headers
    assert ("sandbox", "nosniff", TEXT) == (
        headers["content-security-policy"],
        headers["x-content-type-options"],
        headers["content-type"],
    )


def test_before_it_began_there_is_nothing(api: Api, task_id: str) -> None:
    answer = api.get(f"/tasks/{task_id}/stdout")
    assert (200, b"", "0") == (answer.status, answer.body, answer.headers["content-length"])


def test_a_task_that_goes_between_two_looks_is_unknown_and_not_silent(
    api: Api, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention takes the row first and the files after."""
    paths = api.blobs.output_paths

    def output_paths(of: str) -> tuple[Path, Path]:
        api.coordinator.finish(of, Status(State.COMPLETED, finished_at_us=1))
        api.writer.apply([ExpireTasks(2, 0, keep_tasks=0, keep_output_bytes=0, keep_module_bytes=2**60, limit=9)])
        return paths(of)

    monkeypatch.setattr(api.blobs, "output_paths", output_paths)
    assert (404, "task_unknown", None) == api.get(f"/tasks/{task_id}/stdout").refusal


@pytest.mark.parametrize("size", [1, SMALL_BYTES, SMALL_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 7])
def test_it_comes_whole_whatever_its_size(api: Api, task_id: str, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    write(api, task_id, data)
    answer = api.get(f"/tasks/{task_id}/stdout")
    assert (200, data, str(size)) == (answer.status, answer.body, answer.headers["content-length"])
    head = api.request("HEAD", f"/tasks/{task_id}/stdout")
    assert (200, b"", str(size)) == (head.status, head.body, head.headers["content-length"])
    assert not any(task_id in name for name in open_files())


def test_what_grows_meanwhile_is_sent_to_the_size_that_it_had(api: Api, task_id: str, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"x" * (PIECE_BYTES + 1))

    async def read() -> int:
        stream = FileStream(os.open(path, os.O_RDONLY))
        first = await stream.next_piece()
        with path.open("ab") as file:
            file.write(b"more")
        size = len(first) + sum([len(piece) async for piece in stream])
        await stream.close()
        await stream.close()
        return size

    assert PIECE_BYTES + 1 == asyncio.run(read())


def test_what_shrinks_breaks_the_answer_off(api: Api, task_id: str, tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(b"x" * (PIECE_BYTES + 1))

    async def read() -> None:
        stream = FileStream(os.open(path, os.O_RDONLY))
        await stream.next_piece()
        os.truncate(path, 10)
        try:
            with pytest.raises(OSError, match="ended at"):
                await stream.next_piece()
        finally:
            await stream.close()

    asyncio.run(read())


def test_a_link_in_its_place_is_not_followed(api: Api, task_id: str) -> None:
    api.blobs.output_paths(task_id)[0].symlink_to("/etc/passwd")
    answer = api.get(f"/tasks/{task_id}/stdout")
    assert (500, "internal") == (answer.status, answer.code)


@pytest.mark.parametrize(
    ("beginning", "text"),
    [(b"", True), (b"a\n", True), ("\u20ac".encode()[:2], True), (b"\xff", False), (b"a\0", False), (b"\xc3(", False)],
)
def test_text_is_utf_8_without_nul(beginning: bytes, text: bool) -> None:
    assert text == is_text(beginning)
