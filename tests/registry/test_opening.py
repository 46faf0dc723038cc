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
from registry import LocalRegistry, fetch_model, find_model, open_model, push
from tests.conftest import ROOT
from tests.registry.artifacts import make_files
from tests.registry.servers import Proxy, needs_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("reference", [None, "digits", "digits:1"])
def test_a_reference_becomes_a_model(tandem_home: Path, reference: str | None) -> None:
    """The exported model is found, verified, loaded and self-tested, and has its identity."""
    artifact = LocalRegistry(tandem_home / "registry").resolve("digits")
    model = open_model(reference, device="cpu")
    assert model.identity == artifact.identity
    assert model.config == artifact.config
    assert model.engine.info.device == "cpu"


def test_a_given_registry_is_the_one_that_is_searched(tandem_home: Path, tmp_path: Path) -> None:
    """A Bento's folder is a registry with one model, whatever the machine's own registry holds."""
    source = LocalRegistry.default()
    baked = LocalRegistry(tmp_path / "baked")
    source.copy(source.resolve("digits"), baked)
    shutil.rmtree(tandem_home)
    assert open_model(None, registry=baked, device="cpu").name == "digits"
    with pytest.raises(ModelNotFound):
        open_model(None, device="cpu")


@pytest.mark.parametrize("file", [MODEL, CONFIG, GOLDEN])
def test_nothing_damaged_is_opened(tandem_home: Path, file: str) -> None:
    """One flipped bit in a file that the model runs on is an error."""
    registry = LocalRegistry.default()
    digest = registry.resolve("digits").files[file].digest
    path = registry.root / "blobs" / "sha256" / digest.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtifact, match=f"is damaged: {file}"):
        open_model("digits", device="cpu", precision="fp32")


def add_version(golden: Callable[[GoldenSet], GoldenSet], allowed: Callable[[AllowedPrecision], bool]) -> None:
    """Add a version of digits with another golden set and fewer allowed precisions."""
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
    """Return the golden set with tolerances that only fp32 meets."""
    return replace(golden, tolerances=golden.tolerances | dict.fromkeys(("bf16", "int8"), 1e-9))


def test_a_model_that_fails_its_golden_set_is_not_opened(tandem_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whole files with wrong scores are found before the first answer."""
    add_version(rotated, lambda way: True)
    with pytest.raises(SelfTestFailed):
        open_model("digits:2", device="cpu")
    with pytest.raises(SelfTestFailed):
        open_model("digits:2", device="cpu", precision="fp32")
    assert caplog.text.count("it runs in fp32 instead") == 1
    assert open_model("digits:1", device="cpu").name == "digits"


def test_auto_drops_a_precision_that_fails_for_fp32(tandem_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If a measured precision fails on this machine, `auto` runs in fp32, and log and answers say so."""
    add_version(exact, lambda way: True)
    assert open_model("digits:1", device="cpu").engine.info.precision == "int8"
    assert caplog.text.count("it runs in fp32 instead") == 0
    model = open_model("digits:2", device="cpu")
    assert model.engine.info.precision == "fp32"
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(
        r"digits@sha256:\w+ failed its self-test on .*, int8: a score differs by .*; it runs in fp32 instead", warning
    )


def test_what_was_asked_for_and_fails_is_an_error(tandem_home: Path) -> None:
    """Only `auto` may choose again, and only within what was asked for."""
    add_version(exact, lambda way: True)
    with pytest.raises(SelfTestFailed, match="int8: a score differs by"):
        open_model("digits:2", device="cpu", precision="int8")
    add_version(exact, lambda way: way.engine == "onnxruntime" and way.precision == "int8")
    with pytest.raises(SelfTestFailed, match="int8: a score differs by"):
        open_model("digits:3", device="cpu")


def test_what_can_t_be_had_is_an_error(tandem_home: Path) -> None:
    """A missing engine is not replaced by another one."""
    with pytest.raises(EngineUnavailable):
        open_model("digits", engine="tensorflow")


def test_importing_the_registry_imports_no_engine() -> None:
    """Registry commands start fast: only `open_model` imports engines."""
    script = (
        "import sys, registry\n"
        "print([name for name in ('onnxruntime', 'PIL', 'torch', 'numpy', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@needs_registry
def test_a_copy_answers_without_the_network(
    registry: LocalRegistry, there: LocalRegistry, proxy: Proxy, remote: str
) -> None:
    """A version or digest needs no request; an alias does."""
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    pushed = push(registry.add("digits", make_files()).artifact.reference, target, registry)
    push("digits:1", f"{target}:production", registry)
    fetch_model(f"{target}:1", there)
    proxy.requests.clear()
    assert fetch_model(f"{target}:1", there).digest == fetch_model(f"{target}@{pushed.digest}", there).digest
    assert proxy.requests == []
    fetch_model(f"{target}:production", there)
    assert len(proxy.requests) == 1


@needs_registry
def test_a_model_is_found_where_it_is(registry: LocalRegistry, there: LocalRegistry, proxy: Proxy, remote: str) -> None:
    """A remote one without its weights and without a copy; its small files can be read, its weights can't."""
    artifact = registry.add("digits", make_files(b"x" * 5_000_000)).artifact
    assert find_model("digits", registry) == artifact
    target = f"{proxy.host}/{remote.partition('/')[2]}"
    push("digits:1", target, registry)
    proxy.requests.clear()
    found = find_model(f"{target}:1", there)
    assert (found.digest, found.read(CONFIG)) == (artifact.digest, artifact.read(CONFIG))
    with pytest.raises(DamagedArtifact, match="'tandem models pull' fetches it"):
        found.read(MODEL)
    assert [request.path.rpartition("/")[2] for request in proxy.requests] == ["1", artifact.files[CONFIG].digest]
    assert there.models() == []
