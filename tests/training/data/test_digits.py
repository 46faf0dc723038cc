from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from classifier.errors import OutputError
from tests.conftest import ROOT
from training.data.digits import digits_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_every_digit_occurs_once(digits: Path) -> None:
    """The three splits divide all 1,797 images of scikit-learn, with their exact pixels; each split has each class."""
    bunch = load_digits()
    files = sorted(digits.rglob("*.png"))
    assert sorted(int(file.stem) for file in files) == list(range(1797))
    for file in files:
        index = int(file.stem)
        assert file.parent.name == str(bunch.target[index])
        with Image.open(file) as image:
            assert image.mode == "L"
            assert np.array_equal(np.round(np.asarray(image) / 255 * 16), bunch.images[index])
    counts = {split: len(list((digits / split).rglob("*.png"))) for split in ("train", "val", "test")}
    assert counts == {"train": 1079, "val": 359, "test": 359}


def test_splits_stay_the_same(digits: Path) -> None:
    """The test images are the same everywhere, so that accuracies can be compared."""
    assert [file.stem for file in sorted((digits / "test" / "0").iterdir())][:4] == ["0020", "0049", "0101", "0150"]


def test_other_users_can_read_it(digits: Path) -> None:
    """A container running as another user can read the images, if the umask allows it."""
    umask = os.umask(0)
    os.umask(umask)
    for folder in (digits, digits / "test", digits / "test" / "0"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_written_once(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call leaves the folder unchanged."""
    monkeypatch.setenv("TANDEM_HOME", str(digits.parent.parent))
    before = digits.stat().st_mtime_ns, (digits / "val").stat().st_mtime_ns
    assert digits_folder() == digits
    assert (digits.stat().st_mtime_ns, (digits / "val").stat().st_mtime_ns) == before


def test_concurrent_processes(tmp_path: Path) -> None:
    """Processes that write the digits at the same time all get the complete folder, and leave nothing else."""
    script = "from training.data.digits import digits_folder; print(len(list(digits_folder().rglob('*.png'))))"
    env = os.environ | {"TANDEM_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == ["1797\n"] * 3
    assert [entry.name for entry in (tmp_path / "datasets").iterdir()] == ["digits"]


def test_unwritable_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder and the variable that changes it."""
    monkeypatch.setenv("TANDEM_HOME", "/proc/tandem")
    with pytest.raises(OutputError, match=r"/proc/tandem/datasets/digits \(.*\): set TANDEM_HOME"):
        digits_folder()


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have no home folder: one sentence with the remedy."""
    monkeypatch.delenv("TANDEM_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(OutputError, match="no home folder for the digits: set TANDEM_HOME"):
        digits_folder()
