"""Run `tandem batch` repeatedly, killed one durable step later each time. A script for `test_batch_kill.py`.

    python killed_batches.py FOLDER ARGUMENT…    # arguments of `tandem batch`, without --output

Run n writes to FOLDER/n. SIGKILL ends it right before or after one of its calls of fsync and rename, and a second run
resumes it. The first run that ends by itself is the last. Forks save each run a second of imports.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import onnxruntime  # noqa: F401 # before the forks
import pyarrow.parquet  # noqa: F401

import batch.run.runner  # noqa: F401
import registry  # noqa: F401
import tandem


def kill_at(step: int) -> None:
    """Kill this process at the given step. Even steps come before a call, odd ones after it."""
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
    os.replace = counted(os.replace)


def run_batch(*arguments: str, step: int | None) -> int:
    """Return the exit code of a run in a forked process, or the negative number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        if step is not None:
            kill_at(step)
        try:
            tandem.main(["batch", *arguments])
        except SystemExit as ended:
            os._exit(int(ended.code or 0))  # skip the exit handlers of libraries, which are unsafe after a fork
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, *arguments: str) -> None:
    """Kill a run at each step and resume it, then print the number of steps."""
    for step in range(1000):
        output = f"{folder}/{step}"
        killed = run_batch(*arguments, "--output", output, step=step) == -signal.SIGKILL
        if run_batch(*arguments, "--output", output, step=None) not in {0, 3}:
            sys.exit(f"the run killed at step {step} did not resume")
        if not killed:
            print(step)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
