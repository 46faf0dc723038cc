"""The contenders: this service and its peers, as real servers with one worker each."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serving.processes import cpu_seconds
from tests.registry.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry import Artifact

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
BIN = Path(sys.executable).parent
TANDEM, FASTAPI, FASTAPI_TUNED = "tandem", "FastAPI", "FastAPI, no spinning"
LITSERVE, LITSERVE_BATCHED = "LitServe", "LitServe, batched"
BENTOML, BENTOML_BATCHED, EMPTY = "BentoML", "BentoML, batchable", "BentoML, empty"
BATCH_SIZE = 16
"""Images that the batching peers run together at most: the service's own size on the CPU."""
_READY_WITHIN_S = 120
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server to start.

    Attributes:
        command: its arguments; `{port}` stands for the port.
        ready: the path that answers 200 once it can work.
        path: where images go, in the form's field `form_field`.
    """

    name: str
    command: tuple[str, ...]
    ready: str
    path: str = "/classify"
    form_field: str = "image"
    folder: Path = PEERS
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Server:
    """A running contender.

    Attributes:
        start_s: CPU time that it took until it was ready.
        spent_s: CPU time of the last job; see `benchmarks.serving.clients.send`.
    """

    contender: Contender
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    start_s: float = 0
    spent_s: float = 0


def tandem(artifact: Artifact, *, threads: int, **environment: str) -> Contender:
    """Return this service, without a cache unless `environment` says otherwise."""
    command = (str(BIN / "bentoml"), "serve", "--host", "127.0.0.1", "--port", "{port}")
    settings = {
        "TANDEM_HOME": os.environ["TANDEM_HOME"],
        "TANDEM_MODEL": artifact.identity,
        "TANDEM_ENGINE": "onnxruntime",
        "TANDEM_PRECISION": "fp32",
        "TANDEM_THREADS": str(threads),
        "TANDEM_CACHE": "0",
        **environment,
    }
    return Contender(name=TANDEM, command=command, ready="/readyz", folder=ROOT, environment=settings)


def peers(model: Path, *, threads: int) -> list[Contender]:
    """Return the peers, with the model in a folder."""
    settings = {"MODEL_FOLDER": str(model), "MODEL_THREADS": str(threads)}
    uvicorn = (str(BIN / "uvicorn"), "fastapi_app:app", "--host", "127.0.0.1", "--port", "{port}")
    litserve = (sys.executable, "litserve_app.py", "--port", "{port}")
    return [
        Contender(name=FASTAPI, command=uvicorn, ready="/health", environment=settings),
        Contender(
            name=FASTAPI_TUNED, command=uvicorn, ready="/health", environment={**settings, "MODEL_SPINNING": "0"}
        ),
        Contender(
            name=LITSERVE,
            command=litserve,
            ready="/health",
            path="/predict",
            form_field="request",
            environment=settings,
        ),
        Contender(
            name=LITSERVE_BATCHED,
            command=(*litserve, "--max-batch-size", str(BATCH_SIZE)),
            ready="/health",
            path="/predict",
            form_field="request",
            environment=settings,
        ),
        Contender(name=BENTOML, command=_bentoml("bentoml_app:Classifier"), ready="/readyz", environment=settings),
        Contender(
            name=BENTOML_BATCHED,
            command=_bentoml("bentoml_app:BatchedClassifier"),
            ready="/readyz",
            form_field="images",
            environment=settings,
        ),
    ]


def empty() -> Contender:
    """Return the BentoML service that does nothing."""
    return Contender(name=EMPTY, command=_bentoml("empty_bento:Empty"), ready="/readyz")


def _bentoml(service: str) -> tuple[str, ...]:
    return (str(BIN / "bentoml"), "serve", service, "--host", "127.0.0.1", "--port", "{port}")


@contextmanager
def running(contender: Contender, work: Path) -> Iterator[Server]:
    """Yield the ready server, and stop it at the end. Its log, with access log, is a file in `work`."""
    name = "".join(letter if letter.isalnum() else "-" for letter in contender.name)
    log, port = work / "logs" / f"{name}.log", free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
    # A BENTOML_HOME of its own: two servers in one overwrite each other's metrics.
    environment = {"BENTOML_HOME": str(work / "bentoml" / name), "BENTOML_DO_NOT_TRACK": "true"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [argument.format(port=port) for argument in contender.command],
            cwd=contender.folder,
            env={**inherited, **environment, **contender.environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    server = Server(contender=contender, process=process, port=port, log=log)
    try:
        _wait_until_ready(server)
        server.start_s = cpu_seconds(process.pid)
        yield server
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def all_running(contenders: list[Contender], work: Path) -> Iterator[dict[str, Server]]:
    """Yield the ready servers by name. All stay up: who waits costs the others nothing."""
    with ExitStack() as stack:
        yield {each.name: stack.enter_context(running(each, work)) for each in contenders}


def ask(server: Server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Return the status and the body of the answer to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(server, "GET", server.contender.ready)[0] == 200:
                return
        time.sleep(_LOOK_EVERY_S)
    sys.exit(f"{server.contender.name} is not ready; its log is {server.log}:\n{server.log.read_text()[-2000:]}")
