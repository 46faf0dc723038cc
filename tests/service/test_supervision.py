"""How `bentoml serve` starts, watches and replaces its workers, and what it takes from its environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.conftest import ROOT
from tests.registry.servers import free_port
from tests.serving import BENTOML, launched, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving import Server


def workers(server: Server) -> set[int]:
    """Return the process ids of the workers that run."""
    found = set()
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.Error):  # one that has ended meanwhile
            if "_bentoml_impl.worker.service" in child.cmdline():
                found.add(child.pid)
    return found


def until_workers(server: Server, wanted: int, *, without: int = 0, within_s: float = 60) -> set[int]:
    """Wait for a number of workers, none of them the process `without`."""
    deadline = time.monotonic() + within_s
    while len(found := workers(server) - {without}) != wanted:
        assert time.monotonic() < deadline, f"{found} after {within_s} s:\n{server.log}"
        time.sleep(0.1)
    return found


def test_dead_worker_is_replaced(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """A worker that was killed is replaced at once, and a line of the log says so."""
    with serving(tmp_path, home=digits_home) as server:
        [worker] = workers(server)
        os.kill(worker, signal.SIGKILL)
        until_workers(server, 1, without=worker, within_s=9)
        server.wait_until_ready()
        assert httpx.post(f"{server.url}/classify", content=image).status_code == 200
        [line] = [line for line in server.log.splitlines() if "ended with exit code -9" in line]
        assert str(worker) in line
        assert "Traceback" not in server.log
        # It stops as before.
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0


def test_several_workers_share_the_port(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """`--api-workers 2` starts two, which both answer and count in the same metrics; one that dies is replaced."""
    with serving(tmp_path, "--api-workers", "2", home=digits_home) as server:
        first, second = until_workers(server, 2)
        deadline = time.monotonic() + 60
        while server.log.count("passed its self-test") < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(20):
            assert httpx.post(f"{server.url}/classify", content=image).status_code == 200
        metrics = httpx.get(f"{server.url}/metrics").text
        [count] = [
            line for line in metrics.splitlines()
            if line.startswith("tandem_requests_total") and "/classify" in line and '"200"' in line
        ]  # fmt: skip
        assert float(count.split()[-1]) == 20
        os.kill(first, signal.SIGKILL)
        assert second in until_workers(server, 2, without=first, within_s=9)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_workers_start(digits_home: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """A Ctrl-C, or a stop of the container, that comes while the parent process starts workers is not forgotten."""
    with launched(tmp_path, "--api-workers", "4", home=digits_home) as server:
        while not workers(server):
            assert server.process.poll() is None, server.log
            time.sleep(0.002)
        server.process.send_signal(sent)
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log


def test_of_three_services_on_one_port_one_answers(digits_home: Path, tmp_path: Path) -> None:
    """Started together, all find the port free; those that come too late end with the sentence about the port."""
    port = str(free_port())
    started = [
        subprocess.Popen(
            [BENTOML, "serve", "--host", "127.0.0.1", "--port", port],
            cwd=ROOT,
            env={**os.environ, "TANDEM_HOME": str(digits_home), "BENTOML_HOME": str(tmp_path / "bentoml")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 120
        while sum(each.poll() is None for each in started) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        [winner] = [each for each in started if each.poll() is None]
        for loser in started:
            if loser is not winner:
                _, said = loser.communicate()
                assert loser.returncode == 1
                *_, sentence = said.splitlines()
                assert f"port {port} on 127.0.0.1 is not available" in sentence
                assert "Traceback" not in said
        while time.monotonic() < deadline:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.1)
        httpx.get(f"http://127.0.0.1:{port}/model")
        # Those that ended have not taken its metrics with them.
        assert 'endpoint="/model"' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        for each in started:
            if each.poll() is None:
                each.send_signal(signal.SIGINT)
                each.communicate(timeout=30)


def test_relative_home(digits_home: Path, image: bytes, tmp_path: Path) -> None:
    """A relative TANDEM_HOME is relative to where the command was started, for all of its processes."""
    shutil.copytree(digits_home / "registry", tmp_path / "here" / "registry")
    (tmp_path / "elsewhere").mkdir()
    with serving(tmp_path / "log", ROOT, home=tmp_path, cwd=tmp_path / "elsewhere", TANDEM_HOME="../here") as server:
        assert httpx.post(f"{server.url}/classify", content=image).status_code == 200


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_proxy_in_the_environment(digits_home: Path, image: bytes, tmp_path: Path, proxy: str) -> None:
    """A proxy, which this service has no use for, does it no harm."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    with serving(tmp_path, home=digits_home, **dict.fromkeys(names, proxy)) as server:
        assert httpx.post(f"{server.url}/classify", content=image).status_code == 200


def test_no_reports_to_bentoml_s_makers(digits_home: Path, tmp_path: Path) -> None:
    """Nothing is sent, even where nobody forbade it: seen by a proxy that all requests would go through."""
    asked = []

    def listen(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with serving(tmp_path, home=digits_home, HTTPS_PROXY=proxy, HTTP_PROXY=proxy, BENTOML_DO_NOT_TRACK=""):
            pass
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert asked == []
