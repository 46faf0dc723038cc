"""The prediction log: what was asked and answered, and later the truth, in SQLite or PostgreSQL.

`writer` takes entries from the event loop and writes them in a thread of its own. `summary`, `exporting` and `deleting`
are for commands. All stand on `database` and `schema`, which import SQLAlchemy; `url` first finds out whether it is
installed.
"""

from __future__ import annotations

from service.log.entry import LogEntry
from service.log.url import LOG_URL, check_log_url
from service.log.writer import PredictionLog

__all__ = ["LOG_URL", "LogEntry", "PredictionLog", "check_log_url"]
