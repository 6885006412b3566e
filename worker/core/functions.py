"""Functions and their default revisions: who asked for a change, whether it may be, and in which order they come.

A function has at most one change on its way to the disk, and none while a revision's first row as running, which makes
it the default, is. The next one is decided when that is settled, from what is on disk then: what a client is told of
generations is what the table says.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from worker.core.changes import SetDefault, WriteFailed
from worker.core.clock import Now
from worker.core.commands import Done, Refused, Reply, SwitchDefault
from worker.core.effects import Answer, Effect, Origin
from worker.core.ledger import RETRY_US, Ledger, Settled, refusal
from worker.core.timers import Timer, Timers


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """A function that has, or once had, a revision. `generation` counts the changes of its default and never falls."""

    name: str
    default: str | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """That `revision` be the function's default (`on`) or not. `origin` None: the node withdraws it itself."""

    function: str
    revision: str
    on: bool
    if_generation: int | None = None
    origin: Origin | None = None


def decide(row: FunctionRow | None, wish: Wish, running: bool | None) -> FunctionRow | Refused:
    """What a wish makes of the function: another row, the same one where nothing changes, or a refusal.

    Args:
        running: whether the revision can be called; None where there is no such revision.
    """
    if row is None:
        return Refused("function_unknown", f"no function {wish.function} is here; deploy a service of it first")
    if running is None:
        return Refused("revision_unknown", f"{wish.function} has no revision {wish.revision} that is alive")
    if wish.if_generation is not None and wish.if_generation != row.generation:
        detail = f"the default of {wish.function} has generation {row.generation}, not {wish.if_generation}; read it"
        return Refused("generation_mismatch", detail)
    if wish.on and not running:
        detail = f"revision {wish.revision} of {wish.function} isn't running; wait until its task is"
        return Refused("revision_not_running", detail)
    default = wish.revision if wish.on else None if row.default == wish.revision else row.default
    if default == row.default:
        return row
    return FunctionRow(row.name, default, row.generation + 1)


class Functions:
    """All functions that the table knows.

    Args:
        standing: of a function's revision: whether it can be called, None where it isn't alive.
    """

    def __init__(
        self,
        ledger: Ledger,
        timers: Timers,
        effects: list[Effect],
        standing: Callable[[str, str], bool | None],
    ) -> None:
        self.rows: dict[str, FunctionRow] = {}
        self._ledger = ledger
        self._timers = timers
        self._effects = effects
        self._standing = standing
        self._waiting: dict[str, deque[Wish]] = {}
        self._under_way: dict[str, tuple[Wish, FunctionRow]] = {}
        self._coming: dict[str, set[str]] = {}  # by function, the tasks whose row makes them its default

    def __len__(self) -> int:
        """How many changes aren't decided or aren't on disk yet."""
        changes: list[Collection[object]] = [self._under_way, *self._waiting.values(), *self._coming.values()]
        return sum(map(len, changes))

    def restore(self, rows: Sequence[FunctionRow]) -> None:
        """Take up what the table holds, once the services are there: a default that isn't alive is none."""
        self.rows.update({row.name: row for row in rows})
        for row in rows:
            if row.default is not None and self._standing(row.name, row.default) is None:
                self.withdraw(row.name, row.default)

    def deployed(self, name: str) -> None:
        """A first revision made the function."""
        self.rows.setdefault(name, FunctionRow(name))

    def switch(self, origin: Origin, command: SwitchDefault) -> None:
        """A manager's wish."""
        self._wish(Wish(command.function, command.revision, command.on, command.if_generation, origin))

    def expect(self, name: str, task_id: str) -> None:
        """The task's next row makes its revision the default: no switch is decided before that is on disk."""
        self._coming.setdefault(name, set()).add(task_id)

    def came(self, name: str, revision: str, task_id: str, default: bool) -> None:
        """It is on disk that the task runs or has ended; `default`: its revision is the default by the same row."""
        coming = self._coming.get(name, set())
        coming.discard(task_id)
        if not coming:
            self._coming.pop(name, None)
        row = self.rows[name]
        if default and row.default != revision:
            self.rows[name] = FunctionRow(name, revision, row.generation + 1)
        self.turn(name)

    def withdraw(self, function: str, revision: str) -> None:
        """The revision is going: where it is the default, there is none."""
        self._wish(Wish(function, revision, on=False))

    def settled(self, settled: Settled, change: SetDefault, now: Now) -> None:
        """The disk's answer to one change."""
        wish, row = self._under_way.pop(change.function)
        if not isinstance(settled.result, WriteFailed):
            self.rows[change.function] = row
            self._answer(settled.answers)
        elif wish.origin is not None:
            self._answer(tuple((origin, refusal(settled.result)) for origin, _ in settled.answers))
        else:
            self._waiting.setdefault(change.function, deque()).appendleft(wish)
            self._timers.set(Timer("default", change.function), now.monotonic_us + RETRY_US)
            return
        self.turn(change.function)

    def turn(self, name: str) -> None:
        """Decide the function's wishes up to the next one that needs the disk."""
        waiting = self._waiting.get(name, deque())
        self._timers.cancel(Timer("default", name))
        while waiting and name not in self._under_way and name not in self._coming:
            wish = waiting.popleft()
            row = self.rows.get(name)
            # What the node itself withdraws may be gone already.
            running = False if wish.origin is None else self._standing(name, wish.revision)
            after = decide(row, wish, running)
            if isinstance(after, Refused):
                self._answer(_to(wish, after))
            elif after is row:
                self._answer(_to(wish, _done(row, row.default)))
            else:
                assert row is not None
                self._under_way[name] = (wish, after)
                change = SetDefault(name, after.default, after.generation)
                self._ledger.write(change, _to(wish, _done(after, row.default)))
        if not waiting:
            self._waiting.pop(name, None)

    def _wish(self, wish: Wish) -> None:
        self._waiting.setdefault(wish.function, deque()).append(wish)
        self.turn(wish.function)

    def _answer(self, answers: tuple[tuple[Origin, Reply], ...]) -> None:
        self._effects.extend(Answer(origin, reply) for origin, reply in answers)


def _to(wish: Wish, reply: Reply) -> tuple[tuple[Origin, Reply], ...]:
    return () if wish.origin is None else ((wish.origin, reply),)


def _done(row: FunctionRow, previous: str | None) -> Done:
    document = {"function": row.name, "default": row.default, "previous": previous, "generation": row.generation}
    return Done(body=json.dumps(document).encode())
