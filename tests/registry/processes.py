"""Processes of their own for tests: several at one registry, or one that is killed in the middle of a change."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

IMPORTS = """
import os, signal, sys
from pathlib import Path
from registry import LocalRegistry
from tests.registry.artifacts import make_files
registry = LocalRegistry(Path(sys.argv[1]))
"""
# Audit hooks hear of each change to a folder, and of each message to a registry, before it is made.
KILL = """
changes = 0
def kill(event, args):
    global changes
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    changes += bool(writes) or event in ("os.rename", "os.remove", "os.mkdir", "http.client.send", "urllib3.send")
    if changes == int(sys.argv[3]) and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
from registry import Reference, pull, push
from registry.remote.models import RemoteModels
sys.addaudithook(kill)
"""
"""Kills the process at the change whose number is its third argument."""


def start(script: str, *args: str | Path) -> subprocess.Popen[bytes]:
    """Return a process that runs `script` with `registry` in the folder that is the first of `args`."""
    return subprocess.Popen([sys.executable, "-c", IMPORTS + script, *map(str, args)], cwd=ROOT)


def wait_for(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return the exit codes; kill every process that is still running."""
    try:
        return [process.wait(120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
