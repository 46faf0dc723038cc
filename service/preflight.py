"""Checks before BentoML starts its workers, so that a service that can't work ends with one sentence.

BentoML restarts a worker that fails to start, forever, with a traceback each time.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from classifier.hardware import memory_limit
from registry import LocalRegistry
from service import limits
from service.access.options import Access

if TYPE_CHECKING:
    from registry import Artifact

_OPENING = "service.opening"
"""Not imported: this process opens no model."""

ROOT = Path(__file__).resolve().parent.parent


def check_port() -> None:
    """Check that `bentoml serve` can listen on its port.

    Raises:
        BentoMLException: the port is taken, or this user may not listen on it.
    """
    command = click.get_current_context(silent=True)
    if command is None or "port" not in command.params:
        return  # started from Python by `bentoml.serve()`, which has no command line
    port = command.params["port"] or BentoMLContainer.http.port.get()
    host = command.params["host"] or BentoMLContainer.http.host.get()
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # Like BentoML's own socket: a closing connection must not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise port_taken(host, port, error) from error


def port_taken(host: str, port: int, error: OSError) -> BentoMLException:
    """Return the error for a port that can't be listened on."""
    why = os.strerror(error.errno) if error.errno else error
    return BentoMLException(
        f"port {port} on {host} is not available ({why}); choose another with 'bentoml serve --port N'"
    )


def check_options() -> None:
    """Check the variables that a worker reads.

    Raises:
        BentoMLException: one of them is malformed.
    """
    try:
        Access.from_environment()
        limits.drain_s()
        limits.lower_limits()
    except ValueError as error:
        raise BentoMLException(str(error)) from error


def check_model(artifact: Artifact, *, workers: int = 1) -> None:
    """Check that the model opens, passes its self-test, and fits into the memory with all workers.

    Runs in a separate process, so that neither memory nor a GPU context stays in BentoML's parent process.

    Raises:
        BentoMLException: the model does not open, fails the self-test, or needs more memory than this container has.
    """
    command = [sys.executable, "-m", _OPENING, str(LocalRegistry.holding(artifact).root), artifact.identity]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode == -signal.SIGKILL:
        raise _no_room(artifact, "opening it was killed, which usually means out of memory")
    if ended.returncode != 0:
        # Earlier lines come from a library, or belong to a traceback.
        *_, why = ended.stderr.strip().splitlines() or [
            f"opening {artifact.identity} ended with exit code {ended.returncode}"
        ]
        raise BentoMLException(why)
    limit = memory_limit()
    if limit is not None and (needed := _least_memory(workers)) > limit:
        raise _no_room(artifact, f"the service needs about {needed // 10**6:,} MB before its first image")


def _least_memory(workers: int) -> int:
    """Return the bytes that this process and its workers need at least: each holds BentoML, or else the open model."""
    # Not ru_maxrss: that counts the program that started this one, too. A limit on memory means Linux.
    [own] = (
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    opening_model = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return own + workers * max(own, opening_model)


def _no_room(artifact: Artifact, why: str) -> BentoMLException:
    limit = memory_limit()
    where = "this machine's memory" if limit is None else f"this container's memory of {limit // 10**6:,} MB"
    return BentoMLException(f"{artifact.identity} does not fit into {where}: {why}; give it more")
