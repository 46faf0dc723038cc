"""Numbers, and files with passwords, that users set in environment variables."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNITS = {
    unit.lower(): size
    for unit, size in {
        "": 1,
        "B": 1,
        "kB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    }.items()
}


def seconds_in(variable: str, default: float, *, or_none: bool = False) -> float:
    """Return the number of seconds that an environment variable holds, or `default` if it is not set.

    0 is refused, unless `or_none`.

    Raises:
        ValueError: it holds something else; the message is one for users.
    """
    text = os.environ.get(variable)
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf") or (seconds == 0 and not or_none):
        raise ValueError(
            f"{variable} is '{text}', which is not a number of seconds: set it to a number such as {default:g}"
        )
    return seconds


def bytes_in(variable: str, default: int, *, at_most: int | None = None) -> int:
    """Return the number of bytes that an environment variable holds, such as `128MiB`, or `default` if it is not set.

    With `at_most`, it is from 1 to that.

    Raises:
        ValueError: it holds something else, or more; the message is one for users.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    number = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text.strip())
    if number is None or number[2].lower() not in _UNITS:
        raise ValueError(
            f"{variable} is '{text}', which is not a number of bytes: set it to a number such as 128MiB or 1GB"
        )
    size = int(number[1]) * _UNITS[number[2].lower()]
    if at_most is not None and not 0 < size <= at_most:
        raise ValueError(
            f"{variable} is {size:,} bytes; set it to a number from 1 to the built-in limit of {at_most:,}"
        )
    return size


def number_in(variable: str, *, at_most: int) -> int:
    """Return the whole number from 1 on that an environment variable holds, or `at_most` if it is not set.

    Raises:
        ValueError: it holds something else, or more; the message is one for users.
    """
    text = os.environ.get(variable)
    if not text:
        return at_most
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) > 0):
        raise ValueError(f"{variable} is '{text}', which is not a whole number from 1 on: set it to {at_most} or less")
    if int(text) > at_most:
        raise ValueError(f"{variable} is {int(text):,}, over the limit of {at_most:,} that is built in: set it to less")
    return int(text)


def part_in(variable: str, default: float) -> float:
    """Return the part, over 0 and up to 1, that an environment variable holds, or `default` if it is not set.

    Raises:
        ValueError: it holds something else; the message is one for users.
    """
    text = os.environ.get(variable)
    try:
        part = float(text) if text else default
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise ValueError(f"{variable} is '{text}', which is not a part of 1: set it to a number such as {default:g}")
    return part


def password_in(variable: str) -> str | None:
    """Return the first line of the file that an environment variable names; None if it is not set.

    Raises:
        ValueError: the file can't be read, or is empty; the message is one for users.
    """
    path = os.environ.get(variable)
    if not path:
        return None
    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(
            f"{variable} names '{path}', which can't be read ({why}): give the path of a file with the password"
        ) from error
    if not lines or not lines[0]:
        raise ValueError(f"{variable} names '{path}', which is empty: write the password into it")
    return lines[0]
