"""If a service can't work, `bentoml serve` exits with 1 and one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import GOLDEN
from classifier.golden import GoldenSet
from registry import LocalRegistry
from tests.conftest import ROOT
from tests.registry.servers import free_port
from tests.serving import bentoml

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(tandem_home: Path) -> LocalRegistry:
    return LocalRegistry(tandem_home / "registry")


def why_refused(home: Path, *args: str, bentoml_home: Path | None = None, **env: str) -> str:
    """Return the sentence with which `bentoml serve` ends."""
    ended = bentoml(
        *("serve", "--host", "127.0.0.1", *(args or ("--port", str(free_port())))),
        home=home,
        bentoml_home=bentoml_home or home / "bentoml",
        check=False,
        **env,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert not ended.stdout
    [sentence] = ended.stderr.splitlines()
    return sentence


def test_no_model(tmp_path: Path) -> None:
    """The sentence says how to make one, and nothing is written."""
    way = "tandem export" if find_spec("torch") else f"mount a TANDEM_HOME that holds one at {tmp_path / 'home'}"
    assert way in why_refused(tmp_path / "home")
    assert not (tmp_path / "home" / "registry").exists()


def test_several_models_and_none_named(tandem_home: Path, registry: LocalRegistry) -> None:
    """The service doesn't choose: the sentence lists the models, and the variable that names one."""
    digits = registry.resolve("digits")
    registry.add("letters", {file: digits.read(file) for file in digits.files})
    sentence = why_refused(tandem_home)
    assert "digits, letters" in sentence
    assert "TANDEM_MODEL" in sentence


def test_unknown_reference(tandem_home: Path) -> None:
    """A missing version is not replaced by another one."""
    assert "'digits:9' is not in the registry" in why_refused(tandem_home, TANDEM_MODEL="digits:9")


def test_damaged_model(tandem_home: Path, registry: LocalRegistry) -> None:
    """One changed bit is found before the first request."""
    artifact = registry.resolve("digits")
    for file in (file for file in artifact.files if file.endswith(".onnx")):  # this machine decides which one runs
        graph = artifact.layout.blob_path(artifact.files[file].digest)
        damaged = bytearray(graph.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        graph.write_bytes(damaged)
    assert "is damaged" in why_refused(tandem_home)


def test_model_that_fails_its_self_test(tandem_home: Path, registry: LocalRegistry) -> None:
    """A model whose scores differ from those at its export never answers."""
    artifact = registry.resolve("digits")
    files = {file: artifact.read(file) for file in artifact.files}
    golden = GoldenSet.from_bytes(files[GOLDEN])
    files[GOLDEN] = replace(golden, scores=np.roll(golden.scores, 1, axis=1)).to_bytes()
    registry.add("digits", files)
    assert "failed its self-test" in why_refused(tandem_home, TANDEM_MODEL="digits:2", TANDEM_PRECISION="fp32")


def test_device_that_this_machine_lacks(digits_home: Path, tmp_path: Path) -> None:
    """A missing GPU is an error, never a silent run on the CPU."""
    sentence = why_refused(digits_home, bentoml_home=tmp_path, TANDEM_DEVICE="cuda:99")
    assert "device 'cuda:99' is not available" in sentence


def test_port_taken(digits_home: Path, tmp_path: Path) -> None:
    """The sentence has the port, and the option to choose another."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        sentence = why_refused(digits_home, "--port", port, bentoml_home=tmp_path)
    assert port in sentence
    assert "--port" in sentence


def test_address_of_another_machine(digits_home: Path, tmp_path: Path) -> None:
    """The address is what has to change, not the port."""
    options = ("--host", "192.0.2.1", "--port", str(free_port()))
    ended = bentoml("serve", *options, home=digits_home, bentoml_home=tmp_path, check=False)
    assert ended.returncode == 1
    [sentence] = ended.stderr.splitlines()
    assert "this machine does not have the address 192.0.2.1" in sentence
    assert "--host" in sentence


def test_started_from_python(digits_home: Path, tmp_path: Path) -> None:
    """`bentoml.serve()` raises what the command would end with."""
    script = f"""
import bentoml
try:
    bentoml.serve("service.service:Classifier", host="127.0.0.1", port={free_port()})
except bentoml.exceptions.BentoMLException as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env={**os.environ, "TANDEM_HOME": str(digits_home), "BENTOML_HOME": str(tmp_path), "TANDEM_DEVICE": "cuda:99"},
        timeout=120, check=False,
    )  # fmt: skip
    assert "device 'cuda:99' is not available" in done.stdout.splitlines()[-1], done.stderr


def test_number_of_workers(digits_home: Path, tmp_path: Path) -> None:
    """A number that makes no sense is not passed on."""
    ended = bentoml("serve", "--api-workers", "-1", home=digits_home, bentoml_home=tmp_path, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "--api-workers is -1" in ended.stderr.splitlines()[-1]


def test_a_wrong_variable_of_the_cache(digits_home: Path, tmp_path: Path) -> None:
    """What only a worker reads ends the service as well, however many workers there are."""
    port = str(free_port())
    sentence = why_refused(
        digits_home, "--api-workers", "2", "--port", port, bentoml_home=tmp_path, TANDEM_CACHE="plenty"
    )
    assert "TANDEM_CACHE is 'plenty', which is not a number of bytes" in sentence


def test_a_worker_that_dies_before_the_model_is_open(digits_home: Path, tmp_path: Path) -> None:
    """One that was killed, as the kernel does when memory runs out, is not started again and again."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if '_bentoml_impl.worker.service' in sys.orig_argv: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    sentence = why_refused(digits_home, bentoml_home=tmp_path / "bentoml", PYTHONPATH=str(tmp_path))
    assert "digits@sha256:" in sentence
    assert "opening it was killed, which usually means out of memory" in sentence
