"""What is kept of tasks that have ended and of modules that nobody uses, and how the rest goes: in the background.

    wait --due--> one batch to the disk --settled--> its files and modules go --> soon again while there is more
                                                                              `-> wait

The oldest end goes first. Rows go before files, so that nothing is ever named that isn't there; a crash in between
leaves files that the next start sweeps. A batch shares a transaction with whatever waits for the disk at that moment
and makes it longer: `BATCH` is so small that nobody notices, and `PACE_US` leaves the disk to running work in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.core.changes import Expired, ExpireTasks
from worker.core.clock import Now
from worker.core.effects import Effect, RemoveOutputs
from worker.core.ledger import Ledger, Settled
from worker.core.modules import Modules
from worker.core.timers import Timer, Timers

RETENTION = Timer("retention", "")
# Measured, durability full: 64 take 4.3 ms with their fsync, 256 take 14, 1,024 take 48. With the pause some 1,200
# tasks go in a second, which is more than end.
BATCH = 64
PACE_US = 50_000
# After an end, so that many ends are one look.
SOON_US = 1_000_000
# What nothing but its age makes go may be late by so much.
IDLE_US = 60_000_000
# A clock that has jumped by more than this is not believed for as long: everything would be too old at once.
CLOCK_JUMP_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """What is kept: for how long after its end (microseconds), how many ended tasks, and the bytes of their output;
    bytes of modules, of which one that was used within `module_grace_us` stays: its task may be on the way."""

    age_us: int
    tasks: int
    output_bytes: int
    module_bytes: int
    module_grace_us: int = 60_000_000


class Retention:
    """
    Args:
        settings: None keeps everything.
        used: digests of all modules that a task needs, alive or on its way to the disk.
    """

    def __init__(
        self,
        settings: RetentionSettings | None,
        timers: Timers,
        ledger: Ledger,
        modules: Modules,
        effects: list[Effect],
        used: Callable[[], set[str]],
    ) -> None:
        self._settings = settings
        self._timers = timers
        self._ledger = ledger
        self._modules = modules
        self._effects = effects
        self._used = used
        self._under_way = False
        self._stopped = False
        self._clock_lead_us: int | None = None
        self._believed_from_us = 0

    def wake(self, now: Now) -> None:
        """Something has ended, or the worker begins: there may be too much soon."""
        if self._settings is not None and not self._under_way and not self._stopped:
            self._timers.set_earlier(RETENTION, now.monotonic_us + SOON_US)

    def stop(self) -> None:
        """The worker drains: the disk is for what ends."""
        self._stopped = True
        self._timers.cancel(RETENTION)

    def due(self, now: Now) -> None:
        """Have one batch removed."""
        settings = self._settings
        assert settings is not None, "there is no timer without"
        self._under_way = True
        before_us = now.wall_us - settings.age_us if self._believes(now) else 0
        change = ExpireTasks(
            before_us,
            now.wall_us,
            keep_tasks=settings.tasks,
            keep_output_bytes=settings.output_bytes,
            keep_module_bytes=settings.module_bytes,
            limit=BATCH,
        )
        self._ledger.write(change)

    def settled(self, settled: Settled, now: Now) -> None:
        """The disk's answer to a batch. What it refused is tried again when its time comes."""
        self._under_way = False
        result, wait_us = settled.result, IDLE_US
        if isinstance(result, Expired):
            if result.task_ids:
                self._effects.append(RemoveOutputs(result.task_ids))
            self._drop_modules(result, now)
            if result.more:
                wait_us = PACE_US
        if not self._stopped:
            self._timers.set(RETENTION, now.monotonic_us + wait_us)

    def _drop_modules(self, result: Expired, now: Now) -> None:
        """The least used go until there is room, but for those in use."""
        assert self._settings is not None
        excess_bytes = result.excess_module_bytes
        if excess_bytes <= 0:
            return
        used = self._used() | self._modules.awaited
        for digest, size_bytes, last_used_us in result.modules:
            if last_used_us > now.wall_us - self._settings.module_grace_us:
                return
            if digest not in used and self._modules.expire(digest):
                excess_bytes -= size_bytes
            if excess_bytes <= 0:
                return

    def _believes(self, now: Now) -> bool:
        """Whether the wall clock has kept pace with the monotonic one for long enough to judge an age by it."""
        lead_us = now.wall_us - now.monotonic_us
        if self._clock_lead_us is not None and abs(lead_us - self._clock_lead_us) > CLOCK_JUMP_US:
            self._believed_from_us = now.monotonic_us + CLOCK_JUMP_US
        self._clock_lead_us = lead_us
        return now.monotonic_us >= self._believed_from_us
