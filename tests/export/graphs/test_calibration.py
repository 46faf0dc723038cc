from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from classifier.errors import ExportRefused
from classifier.images import decode_image
from export.graphs.calibration import IMAGES, MIN_IMAGES, calibration_images
from training.run import Run


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Run:
    """Return the digits' run, on a copy of their images."""
    run = Run.open(digits_run)
    shutil.copytree(run.config.data, tmp_path / "digits")
    return dataclasses.replace(run, config=dataclasses.replace(run.config, data=str(tmp_path / "digits")))


def bytes_of(files: list[Path], run: Run) -> set[bytes]:
    return {decode_image(file.read_bytes(), run.config.preprocessing).pixels.tobytes() for file in files}


def keep(run: Run, count: int) -> None:
    """Delete all training images except `count` of each label."""
    for folder in Path(run.config.data, "train").iterdir():
        for file in sorted(folder.iterdir())[count:]:
            file.unlink()


def test_the_sample_of_training_images_is_the_same_each_time(run: Run) -> None:
    images = calibration_images(run)
    size = run.config.preprocessing.crop_size
    assert images.shape == (IMAGES, size, size, 3)
    np.testing.assert_array_equal(images, calibration_images(run))
    got = {image.tobytes() for image in images}
    assert got <= bytes_of(sorted(Path(run.config.data, "train").rglob("*.png")), run)
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, seed=1))
    assert {image.tobytes() for image in calibration_images(other)} != got


def test_validation_images_never_calibrate(run: Run, tmp_path: Path) -> None:
    """Images added to a data set that was split by --val-fraction can change the split."""
    config = dataclasses.replace(run.config, data=str(tmp_path / "one"), val_folder="train", val_fraction=0.2)
    shutil.copytree(Path(run.config.data, "train"), tmp_path / "one" / "train")
    files = sorted((tmp_path / "one" / "train").rglob("*.png"))
    validating = files[::2]
    (tmp_path / "run").mkdir()
    lines = [file.relative_to(tmp_path / "one").as_posix() for file in validating]
    (tmp_path / "run" / "validation.txt").write_text("".join(f"{line}\n" for line in lines))
    divided = dataclasses.replace(run, path=tmp_path / "run", config=config)
    got = {image.tobytes() for image in calibration_images(divided)}
    assert got
    assert not got & (bytes_of(validating, run) - bytes_of(files[1::2], run))


def test_fewer_images_than_the_sample_are_all_used(run: Run) -> None:
    keep(run, MIN_IMAGES // 10 + 1)
    assert len(calibration_images(run)) == 10 * (MIN_IMAGES // 10 + 1)


def test_too_few_images_are_refused_with_their_number(run: Run) -> None:
    keep(run, 2)
    with pytest.raises(ExportRefused, match=rf"int8 needs {MIN_IMAGES} training images .*, but there are 20"):
        calibration_images(run)


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_unreadable_training_images_are_refused_without_a_path(
    run: Run, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """The reason is written into the artifact; only the log has the path."""
    train = Path(run.config.data, "train")
    if damage == "gone":
        shutil.rmtree(train)
    else:
        for file in train.rglob("*.png"):
            file.write_bytes(b"broken")
    with pytest.raises(ExportRefused, match="can't be read") as refused:
        calibration_images(run)
    assert run.config.data not in str(refused.value)
    assert run.config.data in caplog.text
