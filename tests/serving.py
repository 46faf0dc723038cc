"""The real `bentoml`: its commands, and `bentoml serve` on a free port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.registry.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

BENTOML = Path(sys.executable).with_name("bentoml")


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
    def lines(self) -> list[dict[str, Any]]:
        """What was logged: the output of a service that is not on a terminal is one JSON object a line."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, *, count: int = 1, within_s: float = 10, **fields: object) -> list[dict[str, Any]]:
        """Return the lines that have these fields, once there are `count`: a line is written after the answer."""
        deadline = time.monotonic() + within_s
        while True:
            found = [line for line in self.lines if fields.items() <= line.items()]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    @property
    def model(self) -> dict[str, object]:
        """The answer of `GET /model`."""
        answer: dict[str, object] = httpx.get(f"{self.url}/model").raise_for_status().json()
        return answer

    def connect(self) -> socket.socket:
        """Return a connection, for requests that no HTTP client sends."""
        url = httpx.URL(self.url)
        return socket.create_connection((url.host, url.port or 80), timeout=20)

    def wait_until_ready(self, within_s: float = 90) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == httpx.codes.OK:
                    return
            time.sleep(0.1)
        pytest.fail(f"the service is not ready, its exit code is {self.process.poll()}:\n{self.log}")


@contextmanager
def serving(
    folder: Path,
    *args: str | Path,
    home: Path,
    cwd: Path = ROOT,
    bentoml_home: Path | None = None,
    port: int | None = None,
    **env: str,
) -> Iterator[Server]:
    """Yield a ready `bentoml serve ARGS` on a port, or a free one, and stop it at the end.

    Its TANDEM_HOME is `home`, its log is in `folder`, and `env` is added to the environment.
    """
    own = {"BENTOML_HOME": str(bentoml_home)} if bentoml_home else {}
    with launched(folder, *args, home=home, cwd=cwd, port=port, **{**own, **env}) as server:
        server.wait_until_ready()
        yield server


@contextmanager
def launched(
    folder: Path, *args: str | Path, home: Path, cwd: Path = ROOT, port: int | None = None, **env: str
) -> Iterator[Server]:
    """Yield what `serving` does as soon as its process has started."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file, port = folder / "log", port or free_port()
    # BENTOML_HOME: two servers in one overwrite each other's metrics.
    # TANDEM_DRAIN: most servers of the tests stop when nobody asks any more.
    own = {"TANDEM_HOME": str(home), "BENTOML_HOME": str(folder / "bentoml"), "TANDEM_DRAIN": "0.1"}
    environment = {**own, **env}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [BENTOML, "serve", *args, "--host", "127.0.0.1", "--port", str(port)],
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = Server(url=f"http://127.0.0.1:{port}", process=process, log_file=log_file)
    try:
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def bentoml(
    *args: str | Path, home: Path, bentoml_home: Path, check: bool = True, timeout: float = 240, **env: str
) -> subprocess.CompletedProcess[str]:
    """Return the ended `bentoml ARGS`, run in the project's root; with `check`, a failure shows what it printed."""
    done = subprocess.run(
        [BENTOML, *args],
        cwd=ROOT,
        env={**os.environ, "TANDEM_HOME": str(home), "BENTOML_HOME": str(bentoml_home), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
