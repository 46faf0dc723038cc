"""Calibration images: the training images that show the value ranges int8 must cover."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import numpy as np

from classifier.errors import DataError, ExportRefused
from export.images import LabelledImages
from training.data.folders import open_folders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.run import Run

logger = logging.getLogger(__name__)

IMAGES = 256
MIN_IMAGES = 64
"""With fewer, the largest values say little about those of other images."""


def calibration_images(run: Run) -> NDArray[np.uint8]:
    """Return a sample of the run's training images, uint8 `[N, H, W, 3]`; the same run gives the same sample.

    Raises:
        ExportRefused: there are too few, or they can't be read. The message is written into the artifact.
    """
    config = run.config
    try:
        folders = open_folders(run.data, val_fraction=config.val_fraction, seed=config.seed)
        folders = folders.without(run.skipped_files() or ())
        # If images were added since training, the split may differ now. A validation image must never calibrate.
        validating = {path for path, _ in run.validation_files()}
        files = [sample.path for sample in folders.train if sample.path not in validating]
        if len(files) < MIN_IMAGES:
            raise ExportRefused(f"int8 needs {MIN_IMAGES} training images to calibrate on, but there are {len(files)}")
        random_of_run = random.Random(config.seed)  # noqa: S311 # must be reproducible, not secret
        sample = sorted(random_of_run.sample(files, min(IMAGES, len(files))))
        images = LabelledImages([(path, 0) for path in sample], config.preprocessing)
        return np.concatenate([images_nhwc for _, images_nhwc in images.batches()])
    except DataError as error:
        # The error names paths of this machine, which must not enter the artifact.
        logger.warning("int8 is not made: %s", error)
        raise ExportRefused("int8 needs the training images to calibrate on, but they can't be read") from error
