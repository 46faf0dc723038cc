"""Run `tandem batch` again and again, each time killed one durable step later. A script for `test_batch_kill.py`.

    python killed_batches.py FOLDER ARGUMENT…    # of `tandem batch`, without --output

The n-th run writes to FOLDER/n and is killed, as by `kill -9`, right before or right after one of its calls of fsync
and rename; then it is resumed. The last one ended by itself. Forks save each run the second that its imports take.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401 # before the forks
import pyarrow.parquet  # noqa: F401

import batch.run.runner  # noqa: F401
import registry  # noqa: F401
import tandem


def kill_at(step: int) -> None:
    """Let this process be killed at its step-th step: even ones are before a call, odd ones after it."""
    steps = 0

    def count() -> None:
        nonlocal steps
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    def counted(call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            count()
            result = call(*args, **kwargs)
            count()
            return result

        return wrapper

    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign] # that is the experiment


def run_batch(*arguments: str, step: int | None) -> int:
    """Return how a run in a process of its own ended: its exit code, or the negative number of a signal."""
    child = os.fork()
    if child == 0:
        if step is not None:
            kill_at(step)
        try:
            tandem.main(["batch", *arguments])
        except SystemExit as ended:
            os._exit(int(ended.code or 0))  # without the exit handlers of libraries that did not expect a fork
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, *arguments: str) -> None:
    """Print the number of steps when each run was killed at its step and resumed."""
    for step in range(1000):
        output = f"{folder}/{step}"
        killed = run_batch(*arguments, "--output", output, step=step) == -signal.SIGKILL
        if run_batch(*arguments, "--output", output, step=None) not in {0, 3}:
            sys.exit(f"the run that was killed at step {step} did not resume")
        if not killed:
            print(step)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
