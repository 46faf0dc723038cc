"""The real `bentoml serve`, started on a free port, for tests of the service and of the Bento."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx
import pytest

from registry import LocalRegistry, open_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier.model import Model

ROOT = Path(__file__).resolve().parent.parent.parent
BENTOML = str(Path(sys.executable).with_name("bentoml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running `bentoml serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def model(self) -> dict[str, object]:
        answer: dict[str, object] = httpx.get(f"{self.url}/model").raise_for_status().json()
        return answer

    def wait_until_ready(self, within_s: float = 90) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(0.1)
        pytest.fail(f"the service is not ready, its exit code is {self.process.poll()}:\n{self.log}")


class Serve(Protocol):
    """Starts `bentoml serve`, and stops it at the end of the block."""

    def __call__(
        self, *args: str | Path, home: Path, cwd: Path = ..., bentoml_home: Path | None = ..., **env: str
    ) -> contextlib.AbstractContextManager[Server]:
        """Yield a server that is ready. `env` is added to the environment."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Return a function that runs `bentoml serve` with a TANDEM_HOME, from the project's root if not told otherwise."""

    @contextmanager
    def run(
        *args: str | Path, home: Path, cwd: Path = ROOT, bentoml_home: Path | None = None, **env: str
    ) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("serve")
        log_file, port = folder / "log", free_port()
        # A BENTOML_HOME of its own: two servers in one overwrite each other's metrics.
        environment = {"TANDEM_HOME": str(home), "BENTOML_HOME": str(bentoml_home or folder / "bentoml"), **env}
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [BENTOML, "serve", *map(str, args), "--host", "127.0.0.1", "--port", str(port)],
                cwd=cwd,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        server = Server(url=f"http://127.0.0.1:{port}", process=process, log_file=log_file)
        try:
            server.wait_until_ready()
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=20)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return run


@pytest.fixture(scope="session")
def server(serve: Serve, digits_home: Path) -> Iterator[Server]:
    """Yield the service of the model `digits:1`."""
    with serve(home=digits_home) as server:
        yield server


@pytest.fixture(scope="session")
def model(digits_home: Path) -> Model:
    """Return the served model, opened in this process."""
    return open_model("digits", registry=LocalRegistry(digits_home / "registry"))


@pytest.fixture(scope="session")
def image_file(test_folder: Path) -> Path:
    return min(test_folder.rglob("*.png"))


@pytest.fixture(scope="session")
def image(image_file: Path) -> bytes:
    return image_file.read_bytes()
