"""Numbers that users set in environment variables."""

from __future__ import annotations

import os


def seconds_in(variable: str, default: float) -> float:
    """Return the positive number of seconds that an environment variable holds, or `default` if it is not set.

    Raises:
        ValueError: it holds something else; the message is one for users.
    """
    text = os.environ.get(variable)
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(
            f"{variable} is '{text}', which is not a number of seconds: set it to a number such as {default:g}"
        )
    return seconds
