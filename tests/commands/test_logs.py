from __future__ import annotations

import json
import logging

from commands.logs import JsonLines


def test_a_log_line_is_an_object() -> None:
    """A log line is one JSON object on one line, whatever is in it, with its numbers as numbers."""
    record = logging.makeLogRecord(
        {
            "name": "progress",
            "levelname": "INFO",
            "msg": "a\n%s",
            "args": ("\udcff",),
            "numbers": {"images": 7},
        }
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert {**json.loads(line), "time": ""} == {
        "time": "", "level": "info", "logger": "progress", "message": "a\n\udcff", "images": 7,
    }  # fmt: skip
