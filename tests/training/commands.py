"""Running the installed `tandem train`, and comparing its runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from training.files import CHECKPOINT

if TYPE_CHECKING:
    import signal

    from training.run import Run

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Tests run in parallel on few cores: more threads would wait for each other. Equal bits need equal thread counts."""

QUICK = ("--epochs", "12", "--batch-size", "16", "--patience", "12")


def command(*args: str | Path) -> list[str]:
    """Return the command line of the installed `tandem train`."""
    return [str(Path(sys.executable).with_name("tandem")), "train", *map(str, args)]


def stop_after_an_epoch(args: list[str], run: Path, signum: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a training, send it `signum` after its first checkpoint, and return the ended process."""
    with subprocess.Popen(args, env=os.environ | ONE_THREAD, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (run / CHECKPOINT).exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signum)
        stderr = process.communicate(timeout=60)[1]
    return subprocess.CompletedProcess(args, process.returncode, "", stderr)


def equal_weights(one: Run, other: Run) -> bool:
    """Return whether the best networks of both runs are bit-equal, and the last ones too."""
    last = [run.load_checkpoint() for run in (one, other)]
    assert last[0] is not None
    assert last[1] is not None
    best = [run.load_network().state_dict() for run in (one, other)]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in ((last[0].network, last[1].network), (best[0], best[1]))
    )
