"""How many requests a client may send per second, minute or hour."""

from __future__ import annotations

import re
import time
from collections import OrderedDict

MAX_CLIENTS = 10_000
"""Clients that are remembered. Past it, the one that asked least recently is forgotten, and starts anew."""

_PERIODS_S = {"s": 1, "min": 60, "h": 3600}
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)")


class Rate:
    """A rate such as `100/s`, which each client may use up at once and which then fills again evenly.

    The generic cell rate algorithm: of each client it keeps one number, the time at which all its requests so far would
    have been due. (ITU-T I.371, annex A.)

    Raises:
        ValueError: it is not a rate; the message is one for users.
    """

    def __init__(self, value: str) -> None:
        found = _RATE.fullmatch(value.strip())
        if found is None:
            raise ValueError(f"TANDEM_RATE is '{value}', which is not a rate; set it to one such as 100/s, 30/min, 9/h")
        self.text = found[0]
        self._period_s = _PERIODS_S[found[2]]
        self._interval_s = self._period_s / int(found[1])
        self._due: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Count a request of `client` and return 0, or return the seconds after which one would be within the rate."""
        now = time.monotonic()
        due = max(self._due.get(client, now), now) + self._interval_s
        if (early := due - now - self._period_s) > 1e-9:
            return early
        self._due[client] = due
        self._due.move_to_end(client)
        if len(self._due) > MAX_CLIENTS:
            self._due.popitem(last=False)
        return 0.0
