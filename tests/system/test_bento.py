"""The Bento: built from a registry, exported, and served on a machine with neither registry nor sources."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from classifier.artifact import CARD
from registry import LocalRegistry
from tests.registry.servers import free_port
from tests.serving import bentoml, serving

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A Bento, alone in the BENTOML_HOME of another machine."""

    tag: str
    file: Path
    builder: Path
    bentoml_home: Path


@pytest.fixture(scope="module")
def bento(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Return the Bento of `digits:1`, built, exported to a file, and imported on another machine."""
    folder = tmp_path_factory.mktemp("bento")
    built = bentoml("build", "--output", "tag", bentoml_home=folder / "builder", home=digits_home)
    tag = built.stdout.strip().removeprefix("__tag__:")
    file = folder / "classifier.bento"
    bentoml("export", tag, file, bentoml_home=folder / "builder", home=digits_home)
    bentoml("import", file, bentoml_home=folder / "machine", home=folder / "no-home")
    return Imported(tag=tag, file=file, builder=folder / "builder", bentoml_home=folder / "machine")


def test_serves_the_pinned_model_without_a_registry(
    bento: Imported,
    model: Model,
    test_folder: Path,
    tmp_path: Path,
) -> None:
    """The scores are bit-equal to the model's, served from a folder without any file of the project."""
    images = [path.read_bytes() for path in sorted(test_folder.rglob("*.png"))[:40]]
    expected = model.scores(np.stack([model.decode(image).pixels for image in images]))
    with serving(
        tmp_path / "serve", bento.tag, home=tmp_path / "none", cwd=tmp_path, bentoml_home=bento.bentoml_home
    ) as server:
        assert server.model["digest"] == model.digest
        for path in ("/", "/page/page.js", "/page/page.css", "/docs", "/docs/swagger-ui-bundle.js"):
            assert httpx.get(f"{server.url}{path}").status_code == 200
        for image, row in zip(images, expected, strict=True):
            predictions = httpx.post(f"{server.url}/classify?top_k=10", content=image).json()["predictions"]
            scores = {prediction["index"]: prediction["score"] for prediction in predictions}
            assert np.array([scores[index] for index in range(len(row))], np.float32).tobytes() == row.tobytes()
    assert not (tmp_path / "none" / "registry").exists()


def test_named_model_overrides_the_pinned_one(
    bento: Imported,
    tandem_home: Path,
    tmp_path: Path,
) -> None:
    """TANDEM_MODEL at run time brings a new model into a deployment without a new image."""
    registry = LocalRegistry(tandem_home / "registry")
    first = registry.resolve("digits")
    second = registry.add("digits", {file: first.read(file) for file in first.files} | {CARD: b"# again\n"}).artifact
    with serving(
        *(tmp_path / "serve", bento.tag),
        home=tandem_home,
        cwd=tmp_path,
        bentoml_home=bento.bentoml_home,
        TANDEM_MODEL="digits:2",
    ) as server:
        assert server.model["model"] == second.identity


def test_holds_only_what_it_serves_with(bento: Imported) -> None:
    """The Bento has what answers, the command, the locked requirements and the model; no training, no tests."""
    with tarfile.open(bento.file) as archive:
        names = {name.removeprefix("./") for name in archive.getnames() if "." in name.rpartition("/")[2]}
    sources = {name.removeprefix("src/") for name in names if name.startswith("src/")}
    assert {name.partition("/")[0] for name in sources} == {
        *("service", "classifier", "registry", "commands", "tandem.py", "requirements", "bentofile.yaml")
    }
    assert {name for name in sources if name.startswith("requirements/")} == {
        *(f"requirements/service-{engine}.txt" for engine in ("cpu", "openvino", "cuda")),
        *("requirements/build.txt", "requirements/slim.py"),
    }
    assert not [name for name in names if "__pycache__" in name or "/datasets/" in name]


def test_damaged_copy_of_the_model_is_refused(
    bento: Imported, digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serving a Bento checks the model's digest, too."""
    monkeypatch.setenv(
        "TANDEM_PRECISION", "fp32"
    )  # a fixed precision, so that the graph that runs is among the damaged ones
    bentoml("import", bento.file, bentoml_home=tmp_path / "machine", home=digits_home)
    [index] = tmp_path.glob("machine/models/*/*/index.json")
    # Damage all graphs, and nothing else: one of them runs.
    for blob in (blob for blob in index.parent.glob("blobs/sha256/*") if blob.stat().st_size > 100_000):
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    ended = bentoml(
        *("serve", bento.tag, "--port", str(free_port())),
        bentoml_home=tmp_path / "machine",
        home=tmp_path / "none",
        check=False,
    )
    assert ended.returncode == 1
    [sentence] = ended.stderr.splitlines()
    assert "is damaged" in sentence


def test_build_without_a_model_makes_nothing(tmp_path: Path) -> None:
    """The build ends with one sentence and exit code 1, and stores neither a Bento nor a model."""
    ended = bentoml("build", bentoml_home=tmp_path / "builder", home=tmp_path / "none", check=False)
    assert ended.returncode == 1
    [sentence] = ended.stderr.splitlines()
    assert "no model" in sentence
    assert not [path for path in tmp_path.glob("builder/*s/*/*") if path.is_dir()]


def test_build_of_a_damaged_model_makes_nothing(tandem_home: Path, tmp_path: Path) -> None:
    """The sentence names the model and the remedy, BentoML's store stays empty, and a repaired model builds."""
    blob = max((tandem_home / "registry").glob("blobs/sha256/*"), key=lambda path: path.stat().st_size)
    contents = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(contents[:-1] + b"?")
    ended = bentoml("build", bentoml_home=tmp_path / "builder", home=tandem_home, check=False)
    assert ended.returncode == 1
    [sentence] = ended.stderr.splitlines()
    assert "model 'digits:1' is damaged: model.onnx: " in sentence
    assert "export it again" in sentence
    assert not [path for path in tmp_path.glob("builder/*s/*/*") if path.is_dir()]
    blob.write_bytes(contents)
    bentoml("build", bentoml_home=tmp_path / "builder", home=tandem_home)


def test_second_build_of_the_same_model_adds_no_second_copy(bento: Imported, digits_home: Path) -> None:
    """BentoML's store keeps one copy of the model, under its digest."""
    bentoml("build", bentoml_home=bento.builder, home=digits_home)
    assert len([path for path in bento.builder.glob("bentos/classifier/*") if path.is_dir()]) == 2
    assert len([path for path in bento.builder.glob("models/digits/*") if path.is_dir()]) == 1
