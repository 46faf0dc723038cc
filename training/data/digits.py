"""Handwritten digits: 1,797 real images that scikit-learn ships, as class folders of PNG files."""

from __future__ import annotations

import errno
import logging
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from classifier.errors import OutputError
from classifier.home import tandem_home
from training.data.folders import hold_out

logger = logging.getLogger(__name__)

_SEED = 0
_LEVELS = 16  # grey levels are 0…16
_TEST_FRACTION = 0.2
_VAL_FRACTION = 0.25  # of the images that are not test images: a fifth of all


def digits_folder() -> Path:
    """Return `$TANDEM_HOME/datasets/digits`, with the digits in `train/`, `val/` and `test/`; write it if missing.

    The split is always the same. Concurrent processes all get the complete folder: each writes a copy, and the first
    to rename it wins.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Raises:
        OutputError: the folder can't be written, or this user has no home folder for it.
    """
    try:
        target = tandem_home() / "datasets" / "digits"
    except RuntimeError as error:
        raise OutputError("this user has no home folder for the digits: set TANDEM_HOME") from error
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".digits-", dir=target.parent) as scratch:
            # In a subfolder: other users, such as a container's, can't read the temporary folder itself.
            written = Path(scratch, "digits")
            _write_digits(written)
            _rename_unless_there(written, target)
    except OSError as error:
        raise OutputError(
            f"the digits can't be written to {target} ({error.strerror}): set TANDEM_HOME to a writable folder"
        ) from error
    logger.info("wrote the handwritten digits to %s", target)
    return target


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415  slow to import, and rarely needed

    bunch = load_digits()
    levels = np.round(bunch.images * (255 / _LEVELS)).astype(np.uint8)
    for digit in range(10):
        files = {Path(str(digit), f"{index:04}.png"): index for index in np.flatnonzero(bunch.target == digit)}
        rest, test = hold_out(files, root=Path(), fraction=_TEST_FRACTION, seed=_SEED)
        train, val = hold_out(rest, root=Path(), fraction=_VAL_FRACTION, seed=_SEED + 1)
        for split, chosen in (("train", train), ("val", val), ("test", test)):
            (folder / split / str(digit)).mkdir(parents=True)
            for file in chosen:
                Image.fromarray(levels[files[file]]).save(folder / split / file)


def _rename_unless_there(written: Path, target: Path) -> None:
    try:
        written.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
