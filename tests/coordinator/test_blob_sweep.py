"""Temporary blobs of writers that died are swept, and none that a command is about to name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.coordinator.background import Background
from worker.coordinator.blob_sweep import BlobSweep
from worker.coordinator.poller import Poller
from worker.shared.blobs import Blobs

DEADLINE_S = 10.0
OLD_S = 1_600_000_000


class World:
    """Blobs, and a loop that turns until a sweep is over. `wanted` are the names that are on their way to the disk."""

    def __init__(self, path: Path) -> None:
        self.blobs = Blobs(path)
        self.blobs.create()
        self.wanted: set[str] = set()
        self.poller = Poller()
        self.background = Background(self.poller)
        self.sweep = BlobSweep(self.blobs, self.background, lambda: self.wanted)

    def close(self) -> None:
        self.background.close()
        self.poller.close()

    def left(self, name: str | None = None) -> Path:
        """A blob that nobody holds, of long ago."""
        with self.blobs.new_temporary() as blob:
            path = self.blobs.temporary_path(blob.name)
            blob.release()
        if name is not None:
            path = path.rename(path.with_name(name))
        os.utime(path, (OLD_S, OLD_S))
        return path

    def finish(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.background):
            assert time.monotonic() < deadline
            self.poller.poll(0.05)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_what_nobody_holds_nor_names_goes(world: World) -> None:
    left, wanted = world.left(), world.left()
    world.wanted = {wanted.name}
    with world.blobs.new_temporary() as blob:
        held = world.blobs.temporary_path(blob.name)
        os.utime(held, (OLD_S, OLD_S))
        world.sweep.begin()
        world.finish()
        assert [False, True, True] == [path.exists() for path in (left, wanted, held)]


def test_what_is_named_after_it_was_listed_stays(world: World) -> None:
    """A fetch ends, and its blob is on its way to the disk, while the sweep waits for the background's turn."""
    left = world.left()
    world.sweep.begin()
    world.wanted = {left.name}
    world.finish()
    assert left.exists()


def test_what_is_younger_than_a_moment_stays(world: World) -> None:
    left = world.left()
    left.touch()
    world.sweep.begin()
    world.finish()
    assert left.exists()


def test_a_name_that_is_none_of_ours_is_left_to_the_audit(world: World) -> None:
    strange, left = world.left("strange"), world.left()
    world.sweep.begin()
    world.finish()
    assert [True, False] == [path.exists() for path in (strange, left)]


def test_a_directory_that_cannot_be_listed_ends_nobody(world: World) -> None:
    left = world.left()
    left.unlink()
    left.parent.rmdir()
    world.sweep.begin()
    world.finish()
    assert not left.parent.exists()
