"""The folder where Tandem keeps its files on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def tandem_home() -> Path:
    """Return `$TANDEM_HOME`, or `~/.tandem` if that is not set.

    Raises:
        RuntimeError: the user has no home folder either, as in some containers.
    """
    return Path(os.environ.get("TANDEM_HOME") or "~/.tandem").expanduser()
