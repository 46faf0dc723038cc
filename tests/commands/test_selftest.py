"""`tandem selftest`: exit code 0 only where the model gives its golden scores on the device that was asked for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from classifier.artifact import CONFIG, GOLDEN, MODEL
from classifier.engines.runtime import installed_wheels
from classifier.golden import GoldenSet
from classifier.hardware import cpu
from classifier.types import AllowedPrecision, to_json
from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.types import CpuFeature


def test_trained_model_passes(tandem: Any, tandem_home: Path) -> None:
    """One line on standard output says what was replayed, how near it was, and what ran it."""
    done = tandem("selftest", "digits")
    (line,) = done.stdout.splitlines()
    assert line.startswith("ok  digits@sha256:")
    assert "golden images, largest difference" in line
    assert re.search(r"on (onnxruntime|openvino) [\d.]+, ", line)


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
    files = {file: digits.read(file) for file in digits.files}
    files[GOLDEN] = replace(golden, scores=np.roll(golden.scores, 1, axis=1)).to_bytes()
    registry.add("digits", files)
    done = tandem("selftest", "digits:2", "--precision", "fp32", check=False)
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
    done = tandem("selftest", "--precision", "fp32", check=False)
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
        assert line.startswith("Error: device 'cuda:0' is not available: ")
        assert "; pip " in line


@pytest.fixture
def needy(tandem_home: Path) -> str:
    """Return a version of the digits that wants VNNI and bf16 instructions of OpenVINO, and of nothing else."""
    pytest.importorskip("openvino")
    registry = LocalRegistry(tandem_home / "registry")
    digits = registry.resolve("digits:1")
    needs: dict[str, tuple[CpuFeature, ...]] = {"int8": ("vnni",), "bf16": ("bf16",)}
    allowed = tuple(
        replace(way, needs=needs[way.precision]) if way.precision in needs else way
        for way in digits.config.allowed
        if (way.engine, way.precision) != ("onnxruntime", "int8")
    )
    # Where the digits were exported on a CPU without bf16, it was not measured, and so is not there yet.
    bf16 = AllowedPrecision(precision="bf16", engine="openvino", device="cpu", graph=MODEL, needs=needs["bf16"])
    files = {file: digits.read(file) for file in digits.files}
    files[CONFIG] = to_json(replace(digits.config, allowed=tuple(dict.fromkeys((*allowed, bf16)))))
    return registry.add("digits", files).artifact.reference


@pytest.mark.parametrize(
    ("held_to", "precision", "engine"),
    [
        ("AVX2", "fp32", "onnxruntime"),
        ("AVX512_CORE", "fp32", "onnxruntime"),
        ("AVX512_CORE_VNNI", "int8", "openvino"),
    ],
)
def test_auto_on_a_cpu_without_the_instructions(
    tandem: Any, needy: str, held_to: str, precision: str, engine: str
) -> None:
    """`auto` goes by what the CPU has, here as `ONEDNN_MAX_CPU_ISA` cuts it down, and says what it lacks."""
    if "bf16" not in cpu().features or "vnni" not in cpu().features:
        pytest.skip("the CPU has nothing that could be hidden")
    done = tandem("selftest", needy, "--json", env={"ONEDNN_MAX_CPU_ISA": held_to})
    ran = json.loads(done.stdout)["report"]["engine"]
    assert (ran["precision"], ran["name"]) == (precision, engine)
    assert "bf16 with openvino on cpu needs bf16 instructions, which this CPU (" in done.stderr
    assert (ran["instruction_set"] != cpu().instruction_set) == (engine == "openvino")


def test_asking_for_what_the_cpu_lacks(tandem: Any, needy: str) -> None:
    """A precision that would be wrong here, or slower than fp32, is refused in one sentence with what can be had."""
    done = tandem("selftest", needy, "--precision", "int8", env={"ONEDNN_MAX_CPU_ISA": "AVX2"}, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: model 'digits' can't run here as requested: int8 with openvino on cpu needs VNNI")
    assert "; choose fp32 with onnxruntime on cpu" in line


def test_all(tandem: Any, needy: str) -> None:
    """Each way that the model allows is replayed; what the machine lacks is told apart from what fails."""
    done = tandem("selftest", needy, "--all", "--json", env={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    replays = {replay["way"]: replay for replay in json.loads(done.stdout)["replays"]}
    passed = replays["fp32 with onnxruntime on cpu"]["report"]
    assert passed["max_difference"] <= passed["tolerance"]
    assert "needs bf16 instructions" in replays["bf16 with openvino on cpu"]["lacks"]
    lines = tandem(
        "selftest", needy, "--all", "--device", "cpu", env={"ONEDNN_MAX_CPU_ISA": "AVX2"}
    ).stdout.splitlines()
    assert len(lines) == len(replays)
    assert {line.split()[0] for line in lines} == {"ok", "--"}


def test_all_with_a_failure(tandem: Any, tandem_home: Path) -> None:
    """One that fails does not keep the others from being replayed, and the exit code is 1."""
    registry = LocalRegistry(tandem_home / "registry")
    digits = registry.resolve("digits:1")
    golden = GoldenSet.from_bytes(digits.read(GOLDEN))
    files = {file: digits.read(file) for file in digits.files}
    files[GOLDEN] = replace(golden, tolerances=golden.tolerances | {"int8": 1e-9}).to_bytes()
    registry.add("digits", files)
    done = tandem("selftest", "digits:2", "--all", "--device", "cpu", check=False)
    said = {line.split()[0] for line in done.stdout.splitlines()}
    assert (done.returncode, said) == (1, {"ok", "fail"})
    assert ", int8: a score differs by" in done.stdout
