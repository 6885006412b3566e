"""Files of tasks that retention has removed go beside the loop; what a crash has left is found by its name alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shared.samples import insert, task_id
from worker.coordinator.artifact_store import ArtifactStore
from worker.coordinator.background import Background
from worker.coordinator.outputs import Outputs
from worker.coordinator.poller import Poller
from worker.shared.blobs import Blobs
from worker.shared.table import TableReader, TableWriter

DEADLINE_S = 10.0


class World:
    """A table, its blobs, and a loop that turns while somebody waits."""

    def __init__(self, path: Path) -> None:
        self.writer = TableWriter(path / "table.sqlite", reserve_bytes=0)
        self.blobs = Blobs(path)
        self.poller = Poller()
        self.background = Background(self.poller)
        self.reader = TableReader(self.writer.path)
        self.outputs = Outputs(self.blobs, self.reader, self.background)

    def close(self) -> None:
        self.background.close()
        self.poller.close()
        self.reader.close()
        self.writer.close()

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline
            self.poller.poll(0.05)

    def write(self, number: int) -> tuple[Path, Path]:
        paths = self.blobs.output_paths(task_id(number))
        for path in paths:
            path.write_bytes(b"said")
        return paths


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_what_is_removed_is_gone_and_who_has_it_open_reads_on(world: World) -> None:
    paths, others = world.write(1), world.write(2)
    with paths[0].open("rb") as reading:
        world.outputs.remove((task_id(1), task_id(3)))
        world.turn_until(lambda: not len(world.background))
        assert [False, False, True, True] == [path.exists() for path in paths + others]
        assert b"said" == reading.read()


def test_a_sweep_takes_what_belongs_to_no_task_and_nothing_else(world: World) -> None:
    world.writer.apply([insert(1), insert(255)])
    kept = (*world.write(1), *world.write(255))
    orphans = (*world.write(2), *world.write(254))
    strange = kept[0].with_name("strange")
    strange.touch()
    world.outputs.sweep()
    world.turn_until(lambda: not len(world.background))
    assert [True] * 4 + [False] * 5 == [path.exists() for path in (*kept, *orphans, strange)]
    assert 5 == world.outputs.swept


def test_a_sweep_that_cannot_read_the_table_takes_nothing(world: World) -> None:
    paths = world.write(2)
    world.writer.path.rename(world.writer.path.with_name("away"))
    world.outputs.sweep()
    world.turn_until(lambda: not len(world.background))
    assert ([True, True], 0) == ([path.exists() for path in paths], world.outputs.swept)


def make_store(path: Path, *names: str) -> ArtifactStore:
    """Artifacts of 100 bytes, the first one loaded least lately."""
    store = ArtifactStore(path / "artifacts", b"k" * 32)
    for age, name in enumerate(reversed(names)):
        file = path / "artifacts" / f"{name}.cwasm"
        file.write_bytes(bytes(100))
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    return store


def left(path: Path) -> list[str]:
    return sorted(file.stem for file in (path / "artifacts").iterdir())


def test_the_store_lets_go_of_what_was_loaded_least_lately(tmp_path: Path) -> None:
    store = make_store(tmp_path, "a", "b", "c", "d")
    assert (0, ["a", "b", "c", "d"]) == (store.trim(400), left(tmp_path))
    assert (2, ["c", "d"]) == (store.trim(299), left(tmp_path))
    assert (2, []) == (store.trim(0), left(tmp_path))


def test_what_is_in_memory_leaves_the_store_last(tmp_path: Path) -> None:
    store = make_store(tmp_path, "a", "b", "c")
    assert (1, ["a", "c"]) == (store.trim(200, frozenset({"a"})), left(tmp_path))
    assert (1, ["a"]) == (store.trim(100, frozenset({"a"})), left(tmp_path))
