"""Log lines: text for a person at a terminal, one JSON object a line for whatever else reads standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object: time, level, logger, message, and the numbers that were logged with it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "numbers", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # In ASCII: a path in a message may hold bytes that are no UTF-8.
        return json.dumps(line, default=str)


def log_as_json_unless_on_a_terminal() -> None:
    """Let what writes log lines to standard error write JSON, where that is no terminal."""
    if sys.stderr.isatty():
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setFormatter(JsonLines())
