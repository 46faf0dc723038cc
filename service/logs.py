"""The form of a service's log lines: text on a terminal, else JSON; with the ID of the request that they belong to.

BentoML configures logging before it imports the service, in the parent process and in each worker. Its configuration
is adjusted then, so that what it logs itself, what circus and uvicorn log, and what we log have one form.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec
from bentoml._internal import log as bentoml_log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

FORMAT = "TANDEM_LOG_FORMAT"
"""The environment variable that forces one of the forms."""

REQUEST_ID: ContextVar[str | None] = ContextVar("tandem_request_id", default=None)
"""The ID of the request that this task or thread works for."""

_TWICE = ("uvicorn.error", "circus")
_ENCODER = msgspec.json.Encoder()

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """A message of named fields, to be logged in place of a text. `__str__` is its text line.

    Fields that are None are left out of a JSON line.
    """

    @property
    def message(self) -> str:
        """The message of a JSON line, which has the fields beside it."""
        raise NotImplementedError


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object in ASCII on one line: time, level, logger, message, and what else is known.

    Names and form are those of a bulk run's log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = record.msg if isinstance(record.msg, Fields) else None
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if fields is None else fields.message,
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if fields is not None:
            line |= {name: value for name, value in msgspec.structs.asdict(fields).items() if value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


class RequestFilter(bentoml_log.TraceRecordFilter):
    """BentoML's filter, which adds what its text lines show; ours adds the request's ID where BentoML has a trace's."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete the record."""
        shown = bool(super().filter(record))
        request_id = REQUEST_ID.get()
        if request_id is not None and not isinstance(record.msg, Fields):
            record.trace_msg = f" id={request_id}"
        return shown


def configure_logs(*, is_worker: bool) -> None:
    """Give all of this process's log lines their form.

    Raises:
        UsageError: TANDEM_LOG_FORMAT is neither `json` nor `text`.
    """
    form = log_format(os.environ)
    config: dict[str, Any] = bentoml_log.SERVER_LOGGING_CONFIG
    config["disable_existing_loggers"] = False  # those of the modules that are imported by now
    for name in _TWICE:
        config["loggers"][name]["handlers"] = []  # they propagate, and the root's handler would write each line again
    if form == "json":
        config["formatters"]["traced"] = {"()": JsonLines}
        config["handlers"]["tracehandler"]["filters"] = []
        logging.captureWarnings(capture=True)
        if is_worker:
            _log_uncaught()
    else:
        config["filters"]["tracing"] = {"()": RequestFilter}
    bentoml_log.configure_server_logging()  # type: ignore[no-untyped-call]  # BentoML is untyped


def log_format(environment: Mapping[str, str]) -> Literal["json", "text"]:
    """Return the form of log lines: what the environment forces, else text if standard output is a terminal.

    Raises:
        UsageError: the environment forces something else.
    """
    match environment.get(FORMAT) or None:
        case "json" | "text" as form:
            return form
        case None:
            return "text" if sys.stdout is not None and sys.stdout.isatty() else "json"
        case other:
            raise click.UsageError(f"{FORMAT} is '{other}', which is not a form of log lines; set it to json or text")


def _encode(line: dict[str, Any]) -> str:
    try:
        text = _ENCODER.encode(line).decode()
    except UnicodeEncodeError:  # a path whose bytes are not UTF-8
        return json.dumps(line)
    # In ASCII, what is in a message can neither break a line for any reader, nor move a terminal's cursor.
    return text if text.isascii() else json.dumps(line)


def _log_uncaught() -> None:
    """Log what ends a thread or this process, in place of Python's many lines on standard error."""

    def log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
            return
        log.critical("Uncaught %s", kind.__name__, exc_info=(kind, error, traceback))

    def log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = args.thread.name if args.thread is not None else "?"
            details = (args.exc_type, args.exc_value, args.exc_traceback)
            log.error("Uncaught %s in thread %s", args.exc_type.__name__, name, exc_info=details)

    sys.excepthook = log_uncaught
    threading.excepthook = log_uncaught_in_thread
