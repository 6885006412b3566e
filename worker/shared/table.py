"""The task table, by its two ends: `TableWriter` for the commit thread alone, `TableReader` for everybody else."""

from __future__ import annotations

from worker.shared.table_reader import Event, TableReader, TaskFilter, TokenUsage
from worker.shared.table_writer import Fault, TableWriter

__all__ = ["Event", "Fault", "TableReader", "TableWriter", "TaskFilter", "TokenUsage"]
