"""Exit codes beyond click's own: 0 done, 1 an error in one sentence, 2 wrong usage."""

FAILED_IMAGES = 3
"""Done, but some images failed; each has a row or a line that says why."""

NOT_IN_PARITY = 3
"""The two roads were compared, and differ."""

TOO_MANY_FAILURES = 4
"""A limit on failed images stopped the run. It can be resumed."""

RUNNING = 5
"""The run is under way."""

STOPPED = 6
"""The run ended before every image had its row."""

NOT_SOUND = 7
"""The output is incomplete or was changed."""

MAYBE_WORSE = 8
"""Two models were compared, and the second may be worse than was allowed."""

INTERRUPTED = 130
"""Ctrl-C, as in shells."""
