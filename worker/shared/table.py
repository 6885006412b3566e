"""The task table, by its two ends: `TableWriter` for the commit thread alone, `TableReader` for everybody else."""

from __future__ import annotations

from worker.shared.table_reader import Event, TableReader, TaskFilter, TokenUsage
from worker.shared.table_writer import TableWriter

__all__ = ["Event", "TableReader", "TableWriter", "TaskFilter", "TokenUsage"]
