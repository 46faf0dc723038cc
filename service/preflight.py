"""What is checked once, before BentoML starts its workers, so that a service which can't work ends in one sentence.

A worker that fails to start is started again, for ever, with a traceback each time.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from registry import LocalRegistry
from service import opening

if TYPE_CHECKING:
    from registry import Artifact

ROOT = Path(__file__).resolve().parent.parent


def check_port() -> None:
    """Do nothing where the port that `bentoml serve` is about to listen on is free.

    Raises:
        BentoMLException: it is taken, or may not be taken.
    """
    command = click.get_current_context(silent=True)
    if command is None or "port" not in command.params:
        return  # `bentoml.serve()` of Python
    port = command.params["port"] or BentoMLContainer.http.port.get()
    host = command.params["host"] or BentoMLContainer.http.host.get()
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As BentoML's own socket does, which a connection that is still closing does not keep from its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise BentoMLException(
            f"can't listen on port {port} of {host} ({error.strerror}): 'bentoml serve --port N' takes another"
        ) from error


def check_model(artifact: Artifact) -> None:
    """Do nothing where the model opens and passes its self-test.

    In a process of its own: neither the engine's memory nor its GPU context stays in BentoML's parent process.

    Raises:
        BentoMLException: it doesn't; the sentence says why.
    """
    command = [sys.executable, "-m", opening.__name__, str(LocalRegistry.holding(artifact).root), artifact.identity]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode != 0:
        # What else stands there was said by a library, or is the traceback of a defect.
        *_, why = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode} while it was opened"]
        raise BentoMLException(why)
