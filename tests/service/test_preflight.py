"""A service that can't work: `bentoml serve` ends with exit code 1 and one sentence, before a worker starts."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import GOLDEN
from classifier.golden import GoldenSet
from registry import LocalRegistry
from tests.service.conftest import BENTOML, ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def registry(tandem_home: Path) -> LocalRegistry:
    return LocalRegistry(tandem_home / "registry")


def why_refused(home: Path, *args: str, **env: str) -> str:
    """Return the sentence with which `bentoml serve` ends."""
    ended = subprocess.run(
        [BENTOML, "serve", "--host", "127.0.0.1", *(args or ("--port", str(free_port())))],
        cwd=ROOT,
        env={**os.environ, "TANDEM_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert not ended.stdout
    [sentence] = ended.stderr.splitlines()
    return sentence


def test_no_model(tmp_path: Path) -> None:
    """The sentence says how to make one, and nothing was written."""
    assert "tandem export" in why_refused(tmp_path / "home")
    assert not (tmp_path / "home" / "registry").exists()


def test_several_models_and_none_named(tandem_home: Path, registry: LocalRegistry) -> None:
    """The service doesn't choose: the sentence lists them, and the variable that names one."""
    digits = registry.resolve("digits")
    registry.add("letters", {file: digits.read(file) for file in digits.files})
    sentence = why_refused(tandem_home)
    assert "digits, letters" in sentence
    assert "TANDEM_MODEL" in sentence


def test_unknown_reference(tandem_home: Path) -> None:
    """A version that isn't there is not replaced by one that is."""
    assert "'digits:9' is not in the registry" in why_refused(tandem_home, TANDEM_MODEL="digits:9")


def test_damaged_model(tandem_home: Path, registry: LocalRegistry) -> None:
    """One changed bit is found before the first request."""
    artifact = registry.resolve("digits")
    for file in (file for file in artifact.files if file.endswith(".onnx")):  # which one runs is up to this machine
        graph = artifact.layout.blob_path(artifact.files[file].digest)
        damaged = bytearray(graph.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        graph.write_bytes(damaged)
    assert "is damaged" in why_refused(tandem_home)


def test_model_that_fails_its_self_test(tandem_home: Path, registry: LocalRegistry) -> None:
    """A model that gives other scores here than where it was exported never answers."""
    artifact = registry.resolve("digits")
    files = {file: artifact.read(file) for file in artifact.files}
    golden = GoldenSet.from_bytes(files[GOLDEN])
    files[GOLDEN] = replace(golden, scores=np.roll(golden.scores, 1, axis=1)).to_bytes()
    registry.add("digits", files)
    assert "failed its self-test" in why_refused(tandem_home, TANDEM_MODEL="digits:2")


def test_device_that_can_not_be_had(digits_home: Path, tmp_path: Path) -> None:
    """A GPU that was asked for and isn't there is an error, never the CPU in silence."""
    environment = {"TANDEM_DEVICE": "cuda:99", "BENTOML_HOME": str(tmp_path)}
    assert "device 'cuda:99' can't be had" in why_refused(digits_home, **environment)


def test_port_taken(digits_home: Path, tmp_path: Path) -> None:
    """The sentence has the port, and the option that takes another."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        sentence = why_refused(digits_home, "--port", port, BENTOML_HOME=str(tmp_path))
    assert port in sentence
    assert "--port" in sentence


def test_nothing_but_the_sentence(digits_home: Path, tmp_path: Path) -> None:
    """What a library says while the model is tried, or a traceback, does not come with it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'service.opening' in sys.orig_argv: print('Traceback …', file=sys.stderr)\n"
    )
    sentence = why_refused(digits_home, TANDEM_DEVICE="cuda:99", BENTOML_HOME=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert "device 'cuda:99' can't be had" in sentence
