"""Where Tandem keeps its files on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def tandem_home() -> Path:
    """Return `$TANDEM_HOME`, or `~/.tandem` where it isn't set.

    Raises:
        RuntimeError: there is no home either, as in a container whose user has none.
    """
    return Path(os.environ.get("TANDEM_HOME") or "~/.tandem").expanduser()
