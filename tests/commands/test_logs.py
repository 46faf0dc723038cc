from __future__ import annotations

import json
import logging

from commands.logs import JsonLines, TextLines


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


def test_a_name_in_a_text_line_moves_no_cursor() -> None:
    """A log line for people is one line without control characters, whatever name is in its message."""
    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "read '%s'", "args": ("\x1b[2J\x9b31m\nINFO all is well",)}
    )
    assert TextLines("%(levelname)s: %(message)s").format(record) == "INFO: read ' [2J 31m INFO all is well'"
