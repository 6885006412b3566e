"""What every section is given: how much to do, rounds that tell the progress bar, and what is shared or skipped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from benchmarks.effort import Effort
from benchmarks.measure import alternate
from benchmarks.node import Node, node
from benchmarks.peers import PeerMissing
from benchmarks.progress import Progress

Value = TypeVar("Value")

API_WORKERS = 2
CORES = os.cpu_count() or 2


class Bench:
    """One run. `with`: what it has started is stopped, and its directory goes."""

    def __init__(self, effort: Effort, progress: Progress) -> None:
        self.effort = effort
        self.progress = progress
        self.skipped: list[str] = []
        self.failed: list[str] = []
        self._stack = ExitStack()
        self._shared: ExitStack | None = None
        self._node: Node | None = None
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="galago-bench-")))

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()
        self._stack.close()

    def node(self) -> Node:
        """A worker with the options that most sections want; started once for those that follow one another."""
        if self._node is None:
            self._shared = ExitStack()
            options = ("--api-workers", str(API_WORKERS), "--max-runners", "64", "--max-connections", "2000")
            self._node = self._shared.enter_context(node(*options))
        return self._node

    def release(self) -> None:
        """Stop that worker, before somebody measures who wants the machine for themselves."""
        if self._shared is not None:
            self._shared.close()
        self._shared = self._node = None

    def skip(self, what: str) -> None:
        """Tell what isn't measured, once, and why."""
        if what not in self.skipped:
            self.skipped.append(what)
            self.progress.say(f"skipped: {what}")

    def fail(self, what: str) -> None:
        """Tell what went wrong: the other sections go on."""
        self.failed.append(what)
        self.progress.say(f"FAILED: {what}")

    def peers(
        self, stack: ExitStack, makers: Mapping[str, Callable[[], AbstractContextManager[Value]]]
    ) -> dict[str, Value]:
        """Those that are there, started; they stop with `stack`."""
        found: dict[str, Value] = {}
        for name, make in makers.items():
            try:
                found[name] = stack.enter_context(make())
            except PeerMissing as missing:
                self.skip(f"{name}: {missing}")
        return found

    def alternate(
        self, contenders: Mapping[str, Callable[[], list[Value]]], rounds: int | None = None
    ) -> dict[str, list[Value]]:
        """Each contender's samples by its name; in every round all of them have their turn."""
        measured = alternate(rounds or self.effort.rounds, *map(self._telling, contenders.values()))
        return dict(zip(contenders, measured, strict=True))

    def _telling(self, contender: Callable[[], list[Value]]) -> Callable[[], list[Value]]:
        def turn() -> list[Value]:
            samples = contender()
            self.progress.tick()
            return samples

        return turn
