"""Logging of our own processes: one line a record on stderr, for people or as JSON."""

from __future__ import annotations

import encodings.unicode_escape  # noqa: F401 - loaded now: a process that dropped its rights may not be able to later
import json
import logging
import sys
import time

from worker.config import Config


class ConsoleFormatter(logging.Formatter):
    """`2025-01-31T12:00:00.123Z info launcher: text`, control characters escaped: a log line is one line."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_stamp(record)} {record.levelname.lower()} {record.name}: {_text(self, record)}"


class JsonFormatter(logging.Formatter):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": _text(self, record),
        }
        return json.dumps(line)


def configure(config: Config) -> None:
    """Send all records of this process to stderr, as `config` wants them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else ConsoleFormatter())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)


def warn(line: str) -> None:
    """One warning of the program's own, as of what it found in its environment."""
    logging.getLogger("galago-worker").warning("%s", line)


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
