"""Blobs: all of a file under its final name or nothing, and no path of a name that wasn't checked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lasting import outlast
from tests.shared.samples import task_id
from worker.errors import BadName
from worker.shared.blobs import Blobs

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    made = Blobs(tmp_path)
    made.create()
    return made


def _names(blobs: Blobs, kind: str) -> list[str]:
    return sorted(os.listdir(blobs.temporary_path("0" * 32).parent.parent / kind))


def test_a_finished_blob_gets_its_final_name(blobs: Blobs) -> None:
    with blobs.new_temporary() as blob:
        blob.write(b"one ")
        blob.write(memoryview(b"two"))
        assert 7 == blob.size_bytes
        assert b"one two" == os.pread(blob.fileno(), 100, 0)
        blobs.claim(blob.finish(), blobs.module_path(DIGEST))
    assert b"one two" == blobs.module_path(DIGEST).read_bytes()
    assert [] == _names(blobs, "tmp")


def test_a_blob_that_nobody_claimed_is_gone(blobs: Blobs) -> None:
    with blobs.new_temporary() as blob:
        blob.write(b"half")
        assert [blob.name] == _names(blobs, "tmp")
    blob.discard()
    assert [] == _names(blobs, "tmp")


def test_claiming_again_is_harmless(blobs: Blobs) -> None:
    with blobs.new_temporary() as blob:
        name = blob.finish()
        blobs.claim(name, blobs.module_path(DIGEST))
        blobs.claim(name, blobs.module_path(DIGEST))
    assert blobs.module_path(DIGEST).exists()


def test_claiming_what_was_never_there_raises(blobs: Blobs) -> None:
    with pytest.raises(FileNotFoundError):
        blobs.claim("0" * 32, blobs.module_path(DIGEST))


def test_creating_the_directories_again_keeps_what_is_there(blobs: Blobs, tmp_path: Path) -> None:
    blobs.module_path(DIGEST).write_bytes(b"x")
    Blobs(tmp_path).create()
    assert b"x" == blobs.module_path(DIGEST).read_bytes()


def test_output_is_sharded_by_the_last_two_digits(blobs: Blobs) -> None:
    stdout, stderr = blobs.output_paths(task_id(0x1234AB))
    assert ("ab", f"{task_id(0x1234AB)}.stdout") == (stdout.parent.name, stdout.name)
    assert ("ab", f"{task_id(0x1234AB)}.stderr") == (stderr.parent.name, stderr.name)
    assert stdout.parent.is_dir()


def test_the_output_of_a_task_is_counted_and_what_was_never_opened_is_nothing(blobs: Blobs) -> None:
    stdout, stderr = blobs.output_paths(task_id(1))
    assert (0, 0) == (blobs.sync_output(task_id(1)), blobs.output_bytes(task_id(1)))
    stdout.write_bytes(b"12345")
    assert (5, 5) == (blobs.sync_output(task_id(1)), blobs.output_bytes(task_id(1)))
    stderr.write_bytes(b"678")
    assert (8, 8) == (blobs.sync_output(task_id(1)), blobs.output_bytes(task_id(1)))


def test_output_is_cut_where_it_is_longer_than_it_may_be(blobs: Blobs) -> None:
    stdout, stderr = blobs.output_paths(task_id(1))
    assert not blobs.cut_output(task_id(1), 4)
    stdout.write_bytes(b"1234")
    stderr.touch()
    os.truncate(stderr, 1 << 40)
    assert blobs.cut_output(task_id(1), 4)
    assert (b"1234", bytes(4)) == (stdout.read_bytes(), stderr.read_bytes())
    assert not blobs.cut_output(task_id(1), 4)


HOSTILE = ["", ".", "..", "../x", "/etc/passwd", "a/../b", "A" * 36, "0" * 35, "0" * 37, "0" * 35 + "\n", "-" * 36]


@pytest.mark.parametrize("name", [*HOSTILE, "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n", "md5:" + "a" * 64])
def test_a_name_that_is_none_makes_no_path(blobs: Blobs, name: str) -> None:
    for make in (blobs.module_path, blobs.stdin_path, blobs.output_paths, blobs.temporary_path):
        with pytest.raises(BadName):
            make(name)


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-f./-]{36}", fullmatch=True))
def test_no_name_leads_out_of_its_directory(name: str) -> None:
    blobs = Blobs("/data")
    try:
        paths = [blobs.stdin_path(name), *blobs.output_paths(name)]
    except BadName:
        return
    for path, parent in zip(paths, ("stdin", "out", "out"), strict=True):
        assert f"/data/blobs/{parent}/" == os.path.normpath(path)[: len(f"/data/blobs/{parent}/")]


def test_the_sweep_takes_the_blobs_of_the_dead_and_leaves_those_of_the_living(blobs: Blobs) -> None:
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            orphan = blobs.new_temporary()
            orphan.write(b"half")
            os.write(ready_write, orphan.finish().encode())
            outlast(os.getppid())
        finally:
            os._exit(1)
    orphan_name = os.read(ready_read, 100).decode()
    with blobs.new_temporary() as living:
        assert 0 == blobs.sweep_temporary()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert 1 == blobs.sweep_temporary()
        assert [living.name] == _names(blobs, "tmp")
    assert orphan_name not in _names(blobs, "tmp")
    os.close(ready_read)
    os.close(ready_write)


def test_the_sweep_of_orphans_leaves_what_has_a_row(blobs: Blobs) -> None:
    other = "sha256:" + "cd" * 32
    for path in (
        *(blobs.module_path(DIGEST), blobs.module_path(other)),
        *(blobs.stdin_path(task_id(1)), blobs.stdin_path(task_id(2))),
    ):
        path.write_bytes(b"x")
    assert 2 == blobs.sweep_orphans(frozenset({DIGEST}), frozenset({task_id(2)}))
    assert ["ab" * 32] == _names(blobs, "modules")
    assert [task_id(2)] == _names(blobs, "stdin")
