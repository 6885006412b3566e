"""A data directory with its table's writer and reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.shared.table import TableReader, TableWriter


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[TableWriter]:
    opened = TableWriter(tmp_path / "table.sqlite", reserve_bytes=4096)
    yield opened
    opened.close()


@pytest.fixture
def reader(writer: TableWriter) -> Iterator[TableReader]:
    opened = TableReader(writer.path)
    yield opened
    opened.close()
