"""`tandem selftest`: exit code 0 only where the model gives its golden scores on the device that was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from classifier.artifact import FILES, GOLDEN, MODEL
from classifier.engines.sessions import installed_wheels
from classifier.selftest import GoldenSet
from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path


def test_trained_model_passes(tandem: Any, tandem_home: Path) -> None:
    """One line on standard output says what was replayed, how near it was, and what ran it."""
    done = tandem("selftest", "digits")
    (line,) = done.stdout.splitlines()
    assert line.startswith("ok  digits@sha256:")
    assert "golden images, largest difference" in line
    assert "onnxruntime" in line


def test_json(tandem: Any, tandem_home: Path) -> None:
    """The report is JSON for programs; the only model need not be named."""
    answer = json.loads(tandem("selftest", "--json", "--device", "cpu").stdout)
    assert answer["model"] == f"digits@{answer['digest']}"
    report = answer["report"]
    assert report["images"] >= 1
    assert report["max_difference"] <= report["tolerance"]
    assert report["engine"]["device"] == "cpu"


def test_altered_scores_fail(tandem: Any, tandem_home: Path) -> None:
    """A model whose golden scores are not its own ends in one sentence and exit code 1."""
    registry = LocalRegistry(tandem_home / "registry")
    digits = registry.resolve("digits")
    golden = GoldenSet.from_bytes(digits.read(GOLDEN))
    files = {file: digits.read(file) for file in FILES}
    files[GOLDEN] = replace(golden, scores=np.roll(golden.scores, 1, axis=1)).to_bytes()
    registry.add("digits", files)
    done = tandem("selftest", "digits:2", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: digits@sha256:")
    assert "failed its self-test on onnxruntime" in last


def test_damaged_blob(tandem: Any, tandem_home: Path) -> None:
    """A file that is not what its digest says is never opened."""
    digits = LocalRegistry(tandem_home / "registry").resolve("digits")
    blob = tandem_home / "registry/blobs/sha256" / digits.files[MODEL].digest.removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    done = tandem("selftest", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not what its digest says" in done.stderr.splitlines()[-1]


@pytest.mark.skipif("onnxruntime-gpu" in installed_wheels(), reason="states what the CPU build of onnxruntime answers")
def test_cuda_is_refused(tandem: Any, tandem_home: Path) -> None:
    """Without a GPU, --device cuda is one sentence and exit code 1; so is TANDEM_DEVICE=cuda."""
    for done in (
        tandem("selftest", "--device", "cuda", check=False),
        tandem("selftest", check=False, env={"TANDEM_DEVICE": "cuda"}),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: device 'cuda:0' can't be had: ")
        assert "; pip " in line
