"""Log lines on standard error: text for people; JSON, one object a line, for programs that read a bulk run's log."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from classifier.wording import one_line

_NOISY = ("PIL", "matplotlib", "onnxscript", "onnx_ir", "httpx", "httpcore", "torch", "urllib3")


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
        # In ASCII: a path in a message can hold bytes that are not UTF-8.
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Formats a record for people. A name in its message can't move the terminal's cursor, or begin a line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's name
        """Return the line."""
        record.message = one_line(record.message)
        return super().formatMessage(record)


def log_to_stderr(*, verbose: bool) -> None:
    """Log to standard error as text, from INFO on; from DEBUG on if `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def log_as_json_unless_on_a_terminal() -> None:
    """Log as JSON if standard error is not a terminal."""
    if sys.stderr.isatty():
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setFormatter(JsonLines())
