"""The record's figures have a place each, within a page."""

from __future__ import annotations

import mmap

from runner.protocol import record


def test_each_figure_has_its_word_within_the_page() -> None:
    words = [record.BUSY_SINCE, record.DEADLINE, record.CALLS, record.RETIRE]
    assert list(range(record.WORDS)) == words
    assert record.WORDS * 8 <= record.RECORD_BYTES
    assert mmap.PAGESIZE == record.RECORD_BYTES  # no more than one can be mapped apart, and no less
