"""A few real digits, and trainings on them that take a second."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Protocol

import pytest
import torch
from click.testing import CliRunner, Result

from tandem import main
from tests.training.commands import ONE_THREAD, QUICK, command
from training.data.digits import digits_folder
from training.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Train(Protocol):
    """Runs `tandem train` in this process."""

    def __call__(self, *args: str | Path) -> Result:
        """Return the output and the exit code; exceptions other than SystemExit are raised."""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all handwritten digits, written by `digits_folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_HOME", str(tmp_path_factory.mktemp("home")))
        return digits_folder()


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of four digits, with twelve training and four validation images of each. Don't write to it."""
    root = tmp_path_factory.mktemp("few") / "few-digits"
    for split, count in (("train", 12), ("val", 4)):
        for digit in "0123":
            (root / split / digit).mkdir(parents=True)
            for file in sorted((digits / split / digit).iterdir())[:count]:
                shutil.copy(file, root / split / digit)
    return root


@pytest.fixture
def my_digits(few_digits: Path, tmp_path: Path) -> Path:
    """Return a copy of `few_digits` that a test may change."""
    return shutil.copytree(few_digits, tmp_path / "my-digits")


@pytest.fixture(scope="session")
def undisturbed(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return an uninterrupted run on `few_digits`. Don't write to it."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    done = subprocess.run(command(few_digits, "--run", path, *QUICK), env=os.environ | ONE_THREAD, check=False)
    assert done.returncode == 0
    return Run.open(path)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Yield a function that runs `tandem train` in this process, in an empty working directory."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # `tandem train` sets it; undo that after the test

    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*args: str | Path) -> Result:
        result = CliRunner().invoke(main, ["train", *map(str, args)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    yield run
    torch.set_num_threads(threads)
