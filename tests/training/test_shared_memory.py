"""Containers have little shared memory, by default 64 MiB in Docker; these tests mount less of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.training.commands import ONE_THREAD, command
from training.run import Run

if TYPE_CHECKING:
    from pathlib import Path

MAY_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=False, capture_output=True
    ).returncode
    == 0
)
pytestmark = pytest.mark.skipif(not MAY_MOUNT, reason="only root can mount another /dev/shm")


@pytest.fixture(scope="module")
def photos(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images that are decoded by worker processes: a batch of 16 has 0.4 MiB."""
    root = tmp_path_factory.mktemp("photos")
    for file in few_digits.rglob("*.png"):
        (root / file.relative_to(few_digits)).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((100, 100)).save(root / file.relative_to(few_digits))
    return root


def train_with(mount_options: str, photos: Path, run: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("--arch", "mobilenet_v3_small", "--epochs", "1", "--batch-size", "16", "--workers", "2")
    training = shlex.join(command(photos, "--run", run, *arguments))
    script = f"mount -t tmpfs -o {mount_options} tmpfs /dev/shm && exec {training}"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | ONE_THREAD,
        timeout=120,
        check=False,
    )


@pytest.mark.reported("train-small-shared-memory")
def test_small_shared_memory(photos: Path, tmp_path: Path) -> None:
    """Workers send images through pipes: the same weights, and one line that says how to be faster."""
    trained = {size: train_with(f"size={size}", photos, tmp_path / size) for size in ("1m", "64m")}
    assert {each.returncode for each in trained.values()} == {0}, trained["1m"].stderr
    assert trained["1m"].stderr.count("/dev/shm is too small for the 3 MiB that 2 workers share") == 1
    assert "--shm-size" in trained["1m"].stderr
    assert "/dev/shm" not in trained["64m"].stderr
    one, other = (Run.open(tmp_path / size).load_network().state_dict() for size in trained)
    assert all(one[key].equal(other[key]) for key in one)


def test_no_shared_memory(photos: Path, tmp_path: Path) -> None:
    """Without any, not even processes can be started: one sentence."""
    ended = train_with("ro", photos, tmp_path / "run")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("Error: no process that loads images can be started")
    assert "give --workers 0" in error
