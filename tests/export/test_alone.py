"""fp32 obeys the rule of the lower precisions: an image gets the same bits alone as beside others.

squeezenet's last layer is a mean over memory that starts at another place for each image of a batch; ONNX Runtime adds
in another order there. Such a network runs one image at a time, and its artifact says so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from classifier.artifact import EVALUATION, MODEL
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.model import Model
from classifier.types import from_json
from export.measuring.evaluation import Evaluation
from export.measuring.precisions import choose_to_run_alone
from registry import Artifact, LocalRegistry
from tests.serving import serving

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Tandem

LABELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of noise in `train` and `val`."""
    root, random = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 8)):
        for label in range(LABELS):
            path = root / split / str(label)
            path.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def home(folder: Path, tandem: Tandem) -> Path:
    """Return a TANDEM_HOME with squeezenet1_1, hardly trained."""
    home = folder / "home"
    options = ("--arch", "squeezenet1_1", "--image-size", "64", "--epochs", "1")
    tandem("train", folder, *options, "--run", folder / "run", env={"TANDEM_HOME": str(home)})
    tandem("export", folder / "run", "--name", "squeezed", "--precisions", "fp32", env={"TANDEM_HOME": str(home)})
    return home


@pytest.fixture(scope="module")
def squeezed(home: Path) -> Artifact:
    return LocalRegistry(home / "registry").resolve("squeezed")


@pytest.fixture(scope="module")
def images(folder: Path) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("val/*/*.png"))])


def test_the_artifact_says_that_it_runs_one_image_at_a_time(squeezed: Artifact, images: NDArray[np.uint8]) -> None:
    """It needs to: in batches, this graph gives other bits."""
    in_batches = OnnxRuntimeEngine(squeezed.read(MODEL))
    alone = np.concatenate([in_batches.run(image[np.newaxis]) for image in images])
    assert in_batches.run(images).tobytes() != alone.tobytes()

    first = squeezed.config.allowed[0]
    assert (first.engine, first.precision, first.batch_size) == ("onnxruntime", "fp32", 1)
    fp32 = from_json(squeezed.read(EVALUATION), Evaluation).precisions[0]
    assert fp32.note.startswith("one image at a time, because ")
    assert fp32.measurement is not None
    assert (fp32.measurement.run_alone, fp32.measurement.unlike_alone) == (len(images), 0)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_no_score_depends_on_neighbours_or_threads(
    squeezed: Artifact, images: NDArray[np.uint8], threads: int, batch_size: int | None
) -> None:
    model = Model.open(squeezed, engine="onnxruntime", precision="fp32", threads=threads, batch_size=batch_size)
    expected = OnnxRuntimeEngine(squeezed.read(MODEL), threads=1, batch_size=1).run(images).tobytes()
    for size in (1, 2, 3, 7, len(images)):
        parts = [model.scores(images[start : start + size]) for start in range(0, len(images), size)]
        assert np.concatenate(parts).tobytes() == expected
    assert model.engine.info.batch_size == 1
    assert str(model.engine.info).endswith("fp32, batches of 1")


def test_bulk_runs_of_any_batch_size_agree_and_resume(home: Path, folder: Path, tandem: Tandem, tmp_path: Path) -> None:
    """The run records the size; a service and another bulk run with the same description have the same bits."""
    env = {"TANDEM_HOME": str(home)}
    inputs = ("batch", folder / "val", "--model", "squeezed", "--engine", "onnxruntime", "--precision", "fp32")
    tandem(*inputs, "--output", tmp_path / "a", env=env)
    tandem(*inputs, "--output", tmp_path / "b", "--batch-size", "5", env=env)
    assert json.loads((tmp_path / "a" / "run.json").read_bytes())["run"]["engine"]["batch_size"] == 1
    parts = [[path.read_bytes() for path in sorted((tmp_path / run / "parts").iterdir())] for run in "ab"]
    assert parts[0] == parts[1]
    assert pq.read_table(tmp_path / "a" / "parts").num_rows == 24
    (tmp_path / "b" / "_SUCCESS").unlink()
    tandem(*inputs, "--output", tmp_path / "b", env=env)
    assert (tmp_path / "b" / "_SUCCESS").exists()


def test_a_service_and_the_bulk_run_are_bit_equal(home: Path, folder: Path, tandem: Tandem, tmp_path: Path) -> None:
    """The service batches what waits together, the bulk run 16 at a time: no bit differs."""
    way = {"TANDEM_MODEL": "squeezed", "TANDEM_ENGINE": "onnxruntime", "TANDEM_PRECISION": "fp32"}
    with serving(tmp_path / "service", home=home, **way) as server:
        assert server.model["engine"]["batch_size"] == 1  # type: ignore[index]
        options = ("--engine", "onnxruntime", "--precision", "fp32", "--service", server.url, "--concurrency", "8")
        done = tandem("parity", "squeezed", folder / "val", *options, env={"TANDEM_HOME": str(home)})
    assert "24 bit-equal" in done.stdout, done.stdout


def test_other_networks_run_in_batches(digits_home: Path) -> None:
    """Their artifacts are what they were: nothing is said where nothing is wrong."""
    digits = LocalRegistry(digits_home / "registry").resolve("digits:1")
    assert b"batch_size" not in digits.read("config.json") + digits.read(EVALUATION)
    assert Model.open(digits, engine="onnxruntime", precision="fp32").engine.info.batch_size is None


@pytest.mark.parametrize("images", [1, 3, 255, 256, 257, 511, 512, 768, 10_000])
def test_images_at_every_place_of_a_batch_are_run_alone(images: int) -> None:
    """Evenly from all images, though not always from the first place of two."""
    chosen = choose_to_run_alone(images)
    assert len(set(chosen)) == min(images, 256)
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < images
    assert chosen[-1] > images * 0.99 - 2
    if images > 1:
        assert {index % 2 for index in chosen} == {0, 1}
