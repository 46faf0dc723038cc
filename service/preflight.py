"""Checks before BentoML starts its workers, so that a service that can't work ends with one sentence."""

from __future__ import annotations

import errno
import os
import socket

import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from service import limits
from service.access.options import Access


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
    if error.errno == errno.EADDRNOTAVAIL:
        return BentoMLException(f"this machine does not have the address {host} ({why}); choose another with --host")
    return BentoMLException(f"port {port} on {host} is not available ({why}); choose another with --port")


def check_options() -> None:
    """Check the variables that a worker reads.

    Raises:
        BentoMLException: one of them is malformed.
    """
    try:
        Access.from_environment()
        limits.drain_s()
        limits.stop_within_s()
        limits.lower_limits()
    except ValueError as error:
        raise BentoMLException(str(error)) from error
