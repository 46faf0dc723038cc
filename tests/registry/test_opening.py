"""`open_model`: the one way from a reference to a model that may answer."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import CONFIG, GOLDEN, MODEL
from classifier.errors import DamagedArtifact, EngineUnavailable, ModelNotFound, SelfTestFailed
from classifier.golden import GoldenSet
from classifier.types import AllowedPrecision, ModelConfig, from_json, to_json
from registry import LocalRegistry, open_model
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("reference", [None, "digits", "digits:1"])
def test_a_reference_becomes_a_model(tandem_home: Path, reference: str | None) -> None:
    """The exported model is found, verified, loaded and self-tested, and knows who it is."""
    artifact = LocalRegistry(tandem_home / "registry").resolve("digits")
    model = open_model(reference, device="cpu")
    assert model.identity == artifact.identity
    assert model.config == artifact.config
    assert model.engine.info.device == "cpu"


def test_a_given_registry_is_the_one_that_is_searched(tandem_home: Path, tmp_path: Path) -> None:
    """A Bento's own folder is a registry with one model, whatever the machine has."""
    source = LocalRegistry.default()
    baked = LocalRegistry(tmp_path / "baked")
    source.copy(source.resolve("digits"), baked)
    shutil.rmtree(tandem_home)
    assert open_model(None, registry=baked, device="cpu").name == "digits"
    with pytest.raises(ModelNotFound):
        open_model(None, device="cpu")


@pytest.mark.parametrize("file", [MODEL, CONFIG, GOLDEN])
def test_nothing_damaged_is_opened(tandem_home: Path, file: str) -> None:
    """One flipped bit in what a model runs on, and there is no model."""
    registry = LocalRegistry.default()
    digest = registry.resolve("digits").files[file].digest
    path = registry.root / "blobs" / "sha256" / digest.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtifact, match=f"is damaged: {file}"):
        open_model("digits", device="cpu", precision="fp32")


def add_version(golden: Callable[[GoldenSet], GoldenSet], allowed: Callable[[AllowedPrecision], bool]) -> None:
    """Add a version of the digits with another golden set, allowed in some of its ways."""
    registry = LocalRegistry.default()
    artifact = registry.resolve("digits:1")
    files = {file: artifact.read(file) for file in artifact.files}
    config = from_json(files[CONFIG], ModelConfig)
    config = replace(config, allowed=tuple(way for way in config.allowed if allowed(way)))
    files |= {CONFIG: to_json(config), GOLDEN: golden(GoldenSet.from_bytes(files[GOLDEN])).to_bytes()}
    registry.add("digits", files)


def rotated(golden: GoldenSet) -> GoldenSet:
    """Return the golden set with the scores of the wrong labels."""
    return replace(golden, scores=np.roll(golden.scores, 1, axis=1))


def exact(golden: GoldenSet) -> GoldenSet:
    """Return the golden set as one that no precision but fp32 reaches."""
    return replace(golden, tolerances=golden.tolerances | dict.fromkeys(("bf16", "int8"), 1e-9))


def test_a_model_that_fails_its_golden_set_is_not_opened(tandem_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files can be whole and the scores wrong: that, too, is found before the first answer."""
    add_version(rotated, lambda way: True)
    with pytest.raises(SelfTestFailed):
        open_model("digits:2", device="cpu")
    with pytest.raises(SelfTestFailed):
        open_model("digits:2", device="cpu", precision="fp32")
    assert caplog.text.count("it runs in fp32 instead") == 1
    assert open_model("digits:1", device="cpu").name == "digits"


def test_auto_drops_a_precision_that_fails_for_fp32(tandem_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was measured elsewhere need not hold here: `auto` then runs in fp32, and log and answers say so."""
    add_version(exact, lambda way: True)
    assert open_model("digits:1", device="cpu").engine.info.precision == "int8"
    assert caplog.text.count("it runs in fp32 instead") == 0
    model = open_model("digits:2", device="cpu")
    assert model.engine.info.precision == "fp32"
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(
        r"digits@sha256:\w+ failed its self-test on .*, int8: a score is .* away .*; it runs in fp32 instead", warning
    )


def test_what_was_asked_for_and_fails_is_an_error(tandem_home: Path) -> None:
    """Only `auto` has leave to choose again, and only within what was asked for."""
    add_version(exact, lambda way: True)
    with pytest.raises(SelfTestFailed, match="int8: a score is"):
        open_model("digits:2", device="cpu", precision="int8")
    add_version(exact, lambda way: way.engine == "onnxruntime" and way.precision == "int8")
    with pytest.raises(SelfTestFailed, match="int8: a score is"):
        open_model("digits:3", device="cpu")


def test_what_can_t_be_had_is_an_error(tandem_home: Path) -> None:
    """An engine that isn't there is not replaced by another one."""
    with pytest.raises(EngineUnavailable):
        open_model("digits", engine="tensorflow")


def test_importing_the_registry_imports_no_engine() -> None:
    """Commands of the registry answer at once: engines are imported by `open_model`."""
    script = (
        "import sys, registry\n"
        "print([name for name in ('onnxruntime', 'PIL', 'torch', 'numpy', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
