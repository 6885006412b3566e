"""Records: runners write into them, nobody changes their size, and nothing of a slot's last runner stays."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE, RECORD_BYTES, RETIRE, WORDS
from worker.coordinator.call_records import CallRecord, CallRecords


@pytest.fixture
def records() -> Iterator[CallRecords]:
    made = CallRecords(3)
    yield made
    made.close()


def _write(records: CallRecords, slot: int, **words: int) -> None:
    """As a runner does: it maps its own page alone."""
    names = {"busy_since": BUSY_SINCE, "deadline": DEADLINE, "calls": CALLS, "retire": RETIRE}
    with mmap.mmap(records.fd, RECORD_BYTES, offset=slot * RECORD_BYTES) as page:
        for name, value in words.items():
            struct.pack_into("=Q", page, names[name] * 8, value)


def test_what_a_runner_writes_is_read_under_its_slot(records: CallRecords) -> None:
    _write(records, 1, busy_since=10, deadline=20, calls=3)
    assert CallRecord(10, 20, 3) == records.read(1)
    assert [CallRecord()] * 2 == [records.read(0), records.read(2)]


def test_whatever_a_runner_writes_is_a_figure(records: CallRecords) -> None:
    most = 2**64 - 1
    _write(records, 2, busy_since=most, deadline=most, calls=most)
    assert CallRecord(most, most, most) == records.read(2)


def test_a_slots_next_runner_begins_at_nothing(records: CallRecords) -> None:
    for slot in (0, 1):
        _write(records, slot, busy_since=1, deadline=2, calls=3)
    records.clear(1)
    assert [CallRecord(1, 2, 3), CallRecord()] == [records.read(0), records.read(1)]


def test_it_is_not_told_to_end_where_the_last_one_was(records: CallRecords) -> None:
    _write(records, 1, retire=1)
    records.clear(1)
    with mmap.mmap(records.fd, RECORD_BYTES, offset=RECORD_BYTES) as page:
        assert bytes(8 * WORDS) == page[: 8 * WORDS]


@pytest.mark.parametrize("size", [0, RECORD_BYTES, 100 * RECORD_BYTES])
def test_nobody_changes_their_size(records: CallRecords, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(records.fd, size)
