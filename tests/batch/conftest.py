"""A few real images in class folders, and the models opened in this process."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch.inputs.named import find_inputs
from batch.rows.formats import Columns
from batch.run.local import LocalRunner
from batch.run.record import RunRecord
from batch.run.runner import BatchJob, run_batch
from batch.run.stopping import Interrupts
from registry import LocalRegistry, open_model

if TYPE_CHECKING:
    from classifier.model import Model

ROOT = Path(__file__).resolve().parent.parent.parent

Run = Callable[..., RunRecord]


@pytest.fixture(scope="session")
def model(digits_home: Path) -> Model:
    """Return the trained digits, opened and self-tested."""
    return open_model("digits", registry=LocalRegistry(digits_home / "registry"))


@pytest.fixture(scope="session")
def embedder(embedder_home: Path) -> Model:
    """Return the digits with embeddings, opened and self-tested."""
    return open_model("embedder", registry=LocalRegistry(embedder_home / "registry"))


@pytest.fixture(scope="session")
def few(test_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 of the test images in their class folders. Read-only."""
    folder = tmp_path_factory.mktemp("few")
    for digit in test_folder.iterdir():
        (folder / digit.name).mkdir()
        for image in sorted(digit.iterdir())[:4]:
            shutil.copy(image, folder / digit.name)
    return folder


@pytest.fixture(scope="session")
def image(few: Path) -> bytes:
    """Return the bytes of one image."""
    return min(few.rglob("*.png")).read_bytes()


@pytest.fixture
def run(model: Model, few: Path) -> Run:
    """Return a function that runs a batch in this process: over `few` in chunks of 9, if not told otherwise."""

    def run_here(output: Path, *inputs: Path, **options: Any) -> RunRecord:
        of_columns, of_runner = (
            {name: options.pop(name) for name in names & options.keys()}
            for names in ({"format", "top_k", "all_scores", "embeddings"}, {"batch_size", "threads", "processes"})
        )
        job = BatchJob(
            inputs=find_inputs([str(each) for each in inputs or (few,)]),
            output=output,
            columns=Columns(**of_columns),
            chunk_size=9,
        )
        with LocalRunner(options.pop("model", model), **of_runner) as runner:
            return run_batch(replace(job, **options), runner, Interrupts())

    return run_here


@contextlib.contextmanager
def mounted(folder: Path, size: str = "1m") -> Iterator[Path]:
    """Make `folder`, and a file system of its own in it; where that isn't allowed, the test is skipped."""
    folder.mkdir(exist_ok=True)
    if _call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder) != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        _call("umount", folder)  # a test may have done it


def _call(*command: str | Path) -> int:
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode


def read_parts(output: Path) -> dict[str, bytes]:
    """Return the part files of an output by their names."""
    return {part.name: part.read_bytes() for part in sorted((output / "parts").iterdir())}
