"""`tandem serve`: the service from any folder, and one sentence for what can't be served."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from click.testing import CliRunner

from commands import serve
from registry import LocalRegistry
from tandem import main
from tests.conftest import ROOT, TANDEM
from tests.registry.artifacts import make_files
from tests.registry.servers import free_port
from tests.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@contextmanager
def tandem_serve(
    folder: Path, *args: str, home: Path, command: Sequence[str] = (TANDEM,), **env: str
) -> Iterator[Server]:
    """Yield a ready `tandem serve ARGS`, started in `folder`; at the end end it, and whatever it has started."""
    port = free_port()
    environment = {"TANDEM_HOME": str(home), "BENTOML_HOME": str(folder / "bentoml"), **env}
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, "serve", *args, "--port", str(port)],
            cwd=folder,
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def copied_code(folder: Path, *, is_clone: bool) -> tuple[list[str], dict[str, str]]:
    """Copy our code, as a clone or as an installed wheel has it; return the command and the variable that run it."""
    for name in ("classifier", "commands", "registry", "service"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tandem.py", *(("bentofile.yaml",) if is_clone else ())):
        shutil.copy(ROOT / name, folder / name)
    return [sys.executable, "-P", str(folder / "tandem.py")], {"PYTHONPATH": str(folder)}


def test_it_serves_from_any_folder(digits_home: Path, test_folder: Path, tmp_path: Path) -> None:
    """A folder's own `service/` is not in the way; the printed command is the one that runs; Ctrl-C ends all with 0."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit('the wrong service')")
    (tmp_path / "bentoml.py").write_text("raise SystemExit('the wrong bentoml')")
    image = min(test_folder.rglob("*.png")).read_bytes()
    with tandem_serve(tmp_path, "digits:1", "--precision", "fp32", "--threads", "1", home=digits_home) as server:
        printed = shlex.split(server.log.splitlines()[0])
        assert printed[:3] == ["TANDEM_MODEL=digits:1", "TANDEM_PRECISION=fp32", "TANDEM_THREADS=1"]
        assert "serve service.service:Classifier --working-dir" in " ".join(printed)
        assert psutil.Process(server.process.pid).cmdline()[-7:] == printed[-7:]
        answer = httpx.post(f"{server.url}/classify", content=image).raise_for_status().json()
        assert answer["model"] == LocalRegistry(digits_home / "registry").resolve("digits:1").identity
        assert answer["engine"]["precision"] == "fp32"
        # Loopback only: on another address of this machine the port is free.
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", httpx.URL(server.url).port))
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert not psutil.wait_procs(children, timeout=20)[1]
        assert "Traceback" not in server.log


def test_an_installed_one_serves_and_ends_with_sigterm(digits_home: Path, tmp_path: Path) -> None:
    """A wheel has no bentofile.yaml, and needs none. A relative TANDEM_HOME counts from where the user is."""
    command, env = copied_code(tmp_path / "installed", is_clone=False)
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "home").symlink_to(digits_home)
    home = (tmp_path / "user" / "home").relative_to(tmp_path / "user")
    with tandem_serve(tmp_path / "user", home=home, command=command, **env) as server:
        assert server.model["name"] == "digits"
        assert f"--working-dir {tmp_path / 'installed'}" in server.log.splitlines()[0]
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        assert not psutil.wait_procs(children, timeout=20)[1]


def test_an_installed_one_can_t_reload(digits_home: Path, tmp_path: Path) -> None:
    """BentoML would watch every package that is installed."""
    command, env = copied_code(tmp_path, is_clone=False)
    done = subprocess.run(
        [*command, "serve", "--reload"],
        env={**os.environ, **env, "TANDEM_HOME": str(digits_home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: --reload needs a clone of Tandem")


def test_reload_takes_up_a_change(digits_home: Path, test_folder: Path, tmp_path: Path) -> None:
    """A saved file of the service changes its answers without a new start."""
    command, env = copied_code(tmp_path / "clone", is_clone=True)
    (tmp_path / "user").mkdir()
    image = min(test_folder.rglob("*.png")).read_bytes()
    with tandem_serve(tmp_path / "user", "--reload", home=digits_home, command=command, **env) as server:
        assert len(labels_of(server, image)) == 5
        answers = tmp_path / "clone" / "classifier" / "answers.py"
        assert "DEFAULT_TOP_K = 5" in answers.read_text()
        answers.write_text(answers.read_text().replace("DEFAULT_TOP_K = 5", "DEFAULT_TOP_K = 2"))
        deadline = time.monotonic() + 150
        while len(labels_of(server, image)) != 2:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.2)


def labels_of(server: Server, image: bytes) -> list[Any]:
    """Return the labels of the answer; none while the service restarts."""
    with contextlib.suppress(httpx.TransportError, json.JSONDecodeError, KeyError):
        return list(httpx.post(f"{server.url}/classify", content=image, timeout=30).json()["predictions"])
    return []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["letters"], "model 'letters' is not in the registry"),
        (["digits:production"], "'digits' has 1; 'tandem models list' shows"),
        (["digits:9"], "'digits' has 1; 'tandem models list' shows"),
        (["Digits::"], "Digits::"),
        (["localhost:1/acme/digits:3"], "localhost:1"),
    ],
)
def test_a_model_that_can_t_be_had(tandem: Any, digits_home: Path, args: list[str], sentence: str) -> None:
    """A missing model, version or alias and a registry out of reach end in one sentence, before BentoML starts."""
    done = tandem("serve", *args, check=False, env={"TANDEM_HOME": str(digits_home), "TANDEM_REGISTRY_TIMEOUT": "1"})
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "bentoml" not in done.stderr


def test_two_models_and_none_named(tandem: Any, tmp_path: Path) -> None:
    """The sentence lists them; TANDEM_MODEL is as good as the argument."""
    registry = LocalRegistry(tmp_path / "registry")
    registry.add("digits", make_files("a"))
    registry.add("letters", make_files("b"))
    done = tandem("serve", check=False, env={"TANDEM_HOME": str(tmp_path)})
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "digits" in line
    assert "letters" in line
    done = tandem("serve", check=False, env={"TANDEM_HOME": str(tmp_path), "TANDEM_MODEL": "letters:7"})
    assert done.returncode == 1
    assert "'letters' has 1" in done.stderr


def test_an_alias_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a reference names is checked by the command; the service gets the reference, and pins its digest itself."""
    registry = LocalRegistry(tmp_path / "registry")
    registry.add("digits", make_files("a"))
    registry.tag("digits:1", "production")
    started = become(monkeypatch, ["digits:production", "--workers", "2"], TANDEM_HOME=str(tmp_path))
    assert (
        started.words[1:]
        == (
            f"-P -m bentoml serve service.service:Classifier --working-dir {serve.ROOT} --host 127.0.0.1 "
            "--port 3000 --api-workers 2"
        ).split()
    )
    assert started.environment["TANDEM_MODEL"] == "digits:production"


def test_variables_and_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """BentoML's variables and ours count; an option on the command line goes before either, `auto` included."""
    LocalRegistry(tmp_path / "registry").add("digits", make_files("a"))
    variables = {
        "TANDEM_HOME": str(tmp_path),
        "TANDEM_ENGINE": "openvino",
        "TANDEM_THREADS": "3",
        "BENTOML_PORT": "3001",
        "BENTOML_HOST": "::1",
        "BENTOML_API_WORKERS": "4",
    }
    started = become(monkeypatch, [], **variables)
    assert started.words[-6:] == ["--host", "::1", "--port", "3001", "--api-workers", "4"]
    assert (started.environment["TANDEM_ENGINE"], started.environment["TANDEM_THREADS"]) == ("openvino", "3")
    assert "TANDEM_DEVICE" not in started.environment
    assert started.printed.startswith("TANDEM_ENGINE=openvino TANDEM_THREADS=3 ")
    options = ["--engine", "auto", "--port", "80", "--host", "0.0.0.0", "--workers", "1", "--threads", "1"]
    started = become(monkeypatch, options, **variables)
    assert started.words[-6:] == ["--host", "0.0.0.0", "--port", "80", "--api-workers", "1"]
    assert started.printed.startswith("TANDEM_ENGINE=auto TANDEM_THREADS=1 ")


@dataclass(frozen=True)
class Started:
    """What `tandem serve` has become: its words and environment, and the line that it printed."""

    words: list[str]
    environment: dict[str, str]
    printed: str


def become(monkeypatch: pytest.MonkeyPatch, arguments: list[str], **variables: str) -> Started:
    """Run `tandem serve` up to the system call that makes it `bentoml serve`."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda _, words, environment: calls.append((words, environment)))
    done = CliRunner().invoke(main, ["serve", *arguments], env=variables)
    assert done.exit_code == 0, done.output
    [(words, environment)] = calls
    return Started(words, environment, done.stderr)


def test_a_taken_port(digits_home: Path, tmp_path: Path, tandem: Any) -> None:
    """One sentence says which, and that another can be chosen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"TANDEM_HOME": str(digits_home), "BENTOML_HOME": str(tmp_path)}
        done = tandem("serve", "--port", port, check=False, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is not available (Address already in use)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("option", "value"), [("--host", "localhost"), ("--port", "0"), ("--workers", "0")])
def test_wrong_usage(tandem: Any, digits_home: Path, option: str, value: str) -> None:
    """A host by name, which BentoML refuses late, and numbers out of range."""
    done = tandem("serve", option, value, check=False, env={"TANDEM_HOME": str(digits_home)})
    assert done.returncode == 2
    assert f"Invalid value for '{'-p' if option == '--port' else option}'" in done.stderr


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """If BentoML is not installed, the sentence names the extra that brings it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["serve"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: the package 'bentoml' is not installed: pip install -e '.[service]'")
