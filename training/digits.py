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
from training.folders import hold_out

logger = logging.getLogger(__name__)

_SEED = 0
_LEVELS = 16  # The set's grey levels are 0…16.
_TEST_FRACTION = 0.2
_VAL_FRACTION = 0.25  # Of what the test images leave: a fifth of all.


def digits_folder() -> Path:
    """Return the folder with `train/`, `val/` and `test/` of the digits, after writing it if it isn't there yet.

    It is `datasets/digits` in `$TANDEM_HOME`, and always divided in the same way. Processes that come at the same
    time all get the complete folder: each writes its own, and the first to rename it wins.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Raises:
        OutputError: the folder can't be written.
    """
    target = tandem_home() / "datasets" / "digits"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".digits-", dir=target.parent) as scratch:
            # A folder inside: the temporary one is closed to other users, such as a container's.
            written = Path(scratch, "digits")
            _write_digits(written)
            _rename_unless_there(written, target)
    except OSError as error:
        raise OutputError(
            f"the digits can't be written to {target} ({error.strerror}): set TANDEM_HOME to a folder that can be"
        ) from error
    logger.info("wrote the handwritten digits to %s", target)
    return target


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415  slow, and needed once

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
