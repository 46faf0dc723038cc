"""How `bentoml serve` starts, watches and replaces the workers. All of it runs in BentoML's parent process.

BentoML offers no options for this, so its functions are adjusted when it imports the service.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml._internal.utils.circus as bentoml_circus
import click
import psutil
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from service import limits, starting
from service.access.keys import is_file
from service.logs import configure_logs
from service.preflight import check_port, port_taken
from service.starting import FirstStart

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

CHECK_EVERY_S = 2
"""How often dead workers are looked for; BentoML's own 10 s would leave a service without an answer for as long."""

END_START_WITHIN_S = 1
"""Time for workers to end before any of them answers: nothing is in flight."""
RETRY_STOP_S = 0.05
"""Time after which a stop is tried again that came while workers were started."""

_WORKER_OPTION = "worker_id"
"""A parameter of the command that BentoML starts each worker with, and of no other."""
_PATHS = (
    "TANDEM_HOME",
    "TANDEM_TRUSTED_KEY",
    "TANDEM_REGISTRY_CA",
    "TANDEM_REGISTRY_PASSWORD_FILE",
    "TANDEM_API_KEYS",
    "TANDEM_CACHE_PASSWORD_FILE",
    "TANDEM_LOG_PASSWORD_FILE",
    "DOCKER_CONFIG",
)


@dataclass
class Supervision:
    """What this process has to know of the workers that it starts.

    Attributes:
        is_watching: whether a start that fails ends this process; not if `bentoml.serve()` starts it from Python.
        model: the identity of what they serve; None until it is known, and if another service is served.
    """

    workers: int = 1
    is_watching: bool = False
    model: str | None = None


def supervise() -> Supervision:
    """Adjust BentoML, if this is `bentoml serve`, and return what it has to know of its workers."""
    # Reports to BentoML's makers are off unless the user has set the variable; BentoML takes only "true" for off.
    os.environ["BENTOML_DO_NOT_TRACK"] = os.environ.get("BENTOML_DO_NOT_TRACK") or "true"
    if usage_stats := sys.modules.get("bentoml._internal.utils.analytics.usage_stats"):
        usage_stats.do_not_track.cache_clear()
    command = click.get_current_context(silent=True)
    if command is not None and _WORKER_OPTION in command.params:
        configure_logs(is_worker=True)
    if command is None or "api_workers" not in command.params:
        return Supervision()
    configure_logs(is_worker=False)
    workers: int = command.params["api_workers"] or 1
    if workers < 1:
        raise click.UsageError(f"--api-workers is {workers}, which is not a number of processes; give 1 or more")
    supervision = Supervision(workers, is_watching=True)
    bentoml_circus.create_standalone_arbiter = partial(_create_arbiter, supervision)
    _separate_metrics()
    return supervision


def make_paths_absolute() -> None:
    """Make paths in the environment absolute: a worker's current folder is the service's, not the user's."""
    for name in _PATHS:
        value = os.environ.get(name)
        if value and (name != "TANDEM_API_KEYS" or is_file(value)):
            os.environ[name] = str(Path(value).expanduser().absolute())


_bentoml_s_arbiter = bentoml_circus.create_standalone_arbiter


def _create_arbiter(supervision: Supervision, watchers: list[Any], **options: Any) -> Any:
    if supervision.model is None:
        return _bentoml_s_arbiter(watchers, **options)
    folder = watchers[0].env["PROMETHEUS_MULTIPROC_DIR"]  # emptied just now
    first_start = FirstStart(Path(folder), supervision.model, supervision.workers)
    for watcher in watchers:
        watcher.env[starting.FOLDER] = folder
        watcher.respawn = True  # in a container BentoML would not replace a worker
        watcher.hooks["after_reap"] = partial(_after_death, first_start)
        watcher.hooks["before_stop"] = _stop_listening
        # A worker ends by itself in time; BentoML kills one that does not.
        watcher.graceful_timeout = limits.drain_s() + _stop_within_s() + limits.END_WITHIN_S
    arbiter: Any = _bentoml_s_arbiter(watchers, check_delay=CHECK_EVERY_S, **options)
    if sys.platform == "linux":
        # Abstract sockets: the two free ports that BentoML has looked up may be taken by now.
        control, events = f"ipc://@tandem-{uuid.uuid4().hex}", f"ipc://@tandem-{uuid.uuid4().hex}"
        for watcher in arbiter.watchers:  # among them what `--reload` starts, which has got the ports
            watcher.cmd = watcher.cmd.replace(arbiter.endpoint, control).replace(arbiter.pubsub_endpoint, events)
        arbiter.endpoint = arbiter.ctrl.endpoint = control
        arbiter.pubsub_endpoint = events
    arbiter.initialize = partial(_initialize, arbiter.initialize, *options["sockets"])
    arbiter.start = partial(_start, arbiter, arbiter.start, first_start)
    arbiter.stop = partial(_stop, arbiter, arbiter.stop, first_start)
    return arbiter


def _initialize(initialize: Callable[[], None], *sockets: Any) -> None:
    """Listen."""
    check_port()  # again: another service may have taken it meanwhile
    try:
        initialize()
    except OSError as error:
        *_, socket = sockets
        raise port_taken(socket.host, socket.port, error) from error


def _start(arbiter: Any, start: Callable[..., None], first_start: FirstStart, cb: Callable[[Any], object]) -> None:
    """Start workers, and return when the service has ended.

    Raises:
        BentoMLException: the model can't be served; the message is one for users.
    """
    start(cb=lambda started: first_start.follow(arbiter, partial(cb, started)))
    if first_start.failure is not None:
        raise BentoMLException(first_start.failure)


def _stop(arbiter: Any, stop: Callable[[], Any], first_start: FirstStart) -> Any:
    """Stop the workers, and then this process."""
    first_start.is_stopped = True
    if not first_start.is_over:
        for watcher in arbiter.watchers:
            watcher.graceful_timeout = END_START_WITHIN_S
    # Circus would forget a signal that comes while it starts or replaces a worker.
    if arbiter._exclusive_running_command is None:
        return stop()
    if not arbiter._stopping:
        arbiter.loop.call_later(RETRY_STOP_S, _stop, arbiter, stop, first_start)
    return None


def _stop_within_s() -> float:
    command = click.get_current_context(silent=True)
    asked = command and command.params.get("timeout_graceful_shutdown")
    return float(asked or limits.stop_within_s())


def _stop_listening(arbiter: Any, **_: Any) -> bool:
    """Close this process's listening socket: what connects once the workers have closed theirs must be refused."""
    if arbiter._stopping:  # not for a watcher that starts again
        arbiter.sockets.close_all()
    return True


def _after_death(
    first_start: FirstStart, watcher: Any, arbiter: Any, process_pid: int, exit_code: int, **_: Any
) -> bool:
    """Remove the gauges of a worker that has ended, and say that another one starts, if one does."""
    # Its counters stay, but it has nothing in flight any more.
    for gauges in Path(BentoMLContainer.prometheus_multiproc_dir.get()).glob("gauge_live*_*.db"):
        # Circus may not report every death, so check the process of each file.
        if not psutil.pid_exists(int(gauges.stem.rpartition("_")[2])):
            gauges.unlink(missing_ok=True)
    is_expected = first_start.is_stopped or watcher.is_stopping() or watcher.is_stopped()
    if not is_expected and not first_start.is_ended_by(arbiter, exit_code):
        log.warning(
            "worker process %d ended with exit code %d; another one starts (-9 usually means out of memory)",
            process_pid,
            exit_code,
        )
    return True


def _separate_metrics() -> None:
    """Give this service a folder for its workers' metrics: BentoML would empty that of a running one."""
    folder = Path(BentoMLContainer.prometheus_multiproc_dir.get())
    for old in folder.glob("[0-9]*"):
        if old.name.isdecimal() and not psutil.pid_exists(int(old.name)):
            shutil.rmtree(old, ignore_errors=True)
    BentoMLContainer.prometheus_multiproc_dir.set(str(folder / str(os.getpid())))
